"""experiment.measures: what is asked of each sample, what is kept of the unedited model, when a model has collapsed."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny

from core.folders import SAMPLE
from core.lm.likelihood import Expected
from core.lm.tokens import continuation
from core.registry import discover
from core.results import Result
from core.types import Completion, Measure, Sample
from experiment.measures import NAMES, collapse, unedited
from experiment.measures.asked import questions, reference
from experiment.scoring import score_model
from inputs.sources import find_data

TASKS = discover("tasks", "TASK")


def samples(name: str, n: int = 8) -> list[Sample]:
    task = TASKS[name]
    return list(task.samples(find_data(f"task-data/{task.file}", SAMPLE).path))[:n]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_what_a_right_answer_is(name: str) -> None:
    """A text that its own scorer calls right; none only where NER has nothing to name."""
    task = TASKS[name]
    for sample in samples(name, 400):
        if sample.reference_text is None:
            assert name == "NER" and sample.reference["type"] not in {tag[2:] for tag in sample.reference["tags"]}
        else:
            assert sample.reference_text == sample.answers[0] and sample.reference_text.strip()
            assert not task.choices or sample.reference_text in task.choices


def test_what_is_asked() -> None:
    lm, task, some = tiny("gpt2"), TASKS["NLI"], samples("NLI")
    every = questions(lm, task, some, NAMES)
    for sample, asked in zip(some, every, strict=True):
        assert asked.references == (continuation(lm, f" {sample.reference}"),) and asked.text and not asked.best
        assert asked.right == ("True", "False").index(sample.reference) and asked.known == {"drift": 0.0}
    assert [(a.references, a.right, a.text, a.known) for a in questions(lm, task, some, ())] == [
        ((), None, False, {})
    ] * 8
    (one, *_) = questions(lm, task, some, ("drift",), [Expected(torch.ones(1), torch.ones(1))] * 8)
    assert one.unedited and one.references and not one.known and one.right is None

    many = samples("OpenDomainQA")
    asked = questions(lm, TASKS["OpenDomainQA"], many, ("reference_logprob",))
    assert all(
        a.best and a.references == tuple(reference(lm, x) for x in s.answers) for a, s in zip(asked, many, strict=True)
    )
    assert {a.right for a in questions(lm, TASKS["OpenDomainQA"], many, NAMES)} == {None}


def test_no_reference_of_a_blank_answer() -> None:
    lm = tiny("gpt2")
    assert reference(lm, None) == reference(lm, " ") == []
    assert len(reference(lm, "word " * 500)) == 64


@pytest.mark.parametrize("name", ["NER", "OpenDomainQA", "dialogue"])
def test_measures_stand_with_the_completions(name: str) -> None:
    lm, task, some = tiny("gpt2"), TASKS[name], samples(name)
    for sample, completion, _ in score_model(lm, task, some, asked=questions(lm, task, some, NAMES)):
        names = {"text_logprob", "drift"} | ({"reference_logprob"} if sample.answers else set())
        names |= {"choice_probability"} if task.choices else set()
        names |= {"reference_logprob_best"} if name == "OpenDomainQA" else set()
        assert {*completion.measures} == names


def test_what_is_kept_of_the_unedited_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    lm, task, some = tiny("gpt2"), TASKS["NER"], samples("NER")
    first = unedited.kept(lm, task, some, tmp_path)
    (file,) = tmp_path.iterdir()

    def equal(one: list[Expected], two: list[Expected]) -> bool:
        pairs = zip(one, two, strict=True)
        return all(torch.equal(a.ids, b.ids) and torch.equal(a.logp, b.logp) for a, b in pairs)

    with monkeypatch.context() as patch:
        patch.setattr(unedited, "measured", lambda *_: pytest.fail("measured again"))
        assert equal(unedited.kept(lm, task, some, tmp_path), first)
        (file.parent / "copy").write_bytes(file.read_bytes())
    for other in (some[:-1], [replace(some[0], answers=("x",)), *some[1:]]):
        unedited.kept(lm, task, other, tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 3
    file.write_bytes(file.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        assert equal(unedited.kept(lm, task, some, tmp_path), first)
    assert f"{file}: damaged" in caplog.text
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    (tmp_path / "no folder").write_text("")
    assert equal(unedited.kept(lm, task, some, tmp_path / "no folder"), first)
    assert "is measured by every command" in caplog.text


@pytest.mark.parametrize("name", ["NER", "OpenDomainQA", "NLI"])
def test_scoring_the_unedited_model_keeps_the_same(name: str, tmp_path: Path) -> None:
    """To the bit and under the same name; nothing, where an earlier run had completed the samples."""
    lm, task, some = tiny("gpt2"), TASKS[name], samples(name)
    unedited.kept(lm, task, some, tmp_path / "own")
    asked = questions(lm, task, some, NAMES)
    for done, folder in ({}, "noted"), (dict.fromkeys(range(8), Completion("x")), "resumed"):
        with unedited.noted(lm, task, some, tmp_path / folder, asked) as noted:
            score_model(lm, task, some, done=done, asked=noted)
    (own,), (kept,) = ([*(tmp_path / folder).iterdir()] for folder in ("own", "noted"))
    assert own.name == kept.name and not (tmp_path / "resumed").exists()
    with np.load(own) as one, np.load(kept) as other:
        assert {*one} == {*other} and all((one[part] == other[part]).all() for part in one)


def result(degenerate: dict[str, int], text: float | None = -3.0) -> Result:
    metrics = {"f1": Measure(0, 0, 0)} | ({} if text is None else {"text_logprob": Measure(text, text, text)})
    return Result(
        **{"task": "NER", "headline": "f1", "metrics": metrics, "n": 4, "completions": 4, "truncated": 0},
        **{"degenerate": {"empty": 0, "repeating": 0, "not_finite": 0} | degenerate, "published": None},
        **{"settings": {"edit": None}, "environment": {}, "seconds": {}},
    )


@pytest.mark.parametrize(
    ("task", "found", "reason"),
    [
        ("NER", result({}), None),
        ("NER", result({"empty": 2, "repeating": 2, "not_finite": 2}), None),
        ("NER", result({"not_finite": 3}, None), "its logits are NaN or infinite"),
        ("NER", result({"empty": 3}), "more than half of its completions are empty"),
        ("NER", result({"repeating": 3}, None), "more than half of its completions are repeating"),
        ("glue_mmlu", result({"empty": 4}), None),  # so it is of the embedded model as it is
        ("NLI", result({"empty": 4}), None),  # one token says little: its format, not a collapse
        ("NLI", result({}, -math.log(100) - 0.01), "it finds the task's texts less likely than random tokens"),
        ("NLI", result({}, -math.log(100) + 0.01), None),
    ],
)
def test_when_a_model_has_collapsed(task: str, found: Result, reason: str | None) -> None:
    assert collapse.reason(TASKS[task], found, 100) == reason


def test_another_model_has_a_file_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        unedited.kept(tiny("gpt2", seed), TASKS["NLI"], samples("NLI", 2), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
