"""Published figures: found for the setting they belong to, and for no other."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from core import published
from core.registry import discover
from core.results import Result
from core.types import Measure
from experiment import cli, show
from experiment.plan import Wanted
from experiment.run import Made
from tasks import EIGHT

RESULT = Result(
    task="NER",
    headline="f1",
    metrics={"f1": Measure(0.4, 0.3, 0.5)},
    n=3250,
    completions=13000,
    truncated=0,
    degenerate={},
    published=None,
    settings={},
    environment={},
    seconds={},
)
METRICS = ("f1", "as_released")
TASKS = set(EIGHT)


@pytest.mark.parametrize(
    ("setting", "score"),
    [
        (("gpt2-xl", None, None, None, None, None, 0, "NER"), 0.433),
        (("llama-7b", None, None, None, None, None, 0, "reasoning"), 0.92),
        (("gpt2-xl", "ROME", "Instance-Sequential", "none", 0.4, None, 5, "NLI"), 0.525),
        (("gpt2-xl", "ROME", "Instance-Sequential", None, None, None, 20, "SentimentAnalysis"), 0.01),
        (("gpt2-xl", "ROME", "Instance-Sequential", "rect", 0.4, None, 20, "SentimentAnalysis"), 0.191),
        (("gpt2-xl", "ROME", "Instance-Sequential", "random", 0.4, None, 5, "summarization"), 0.134),
        (("gpt2-xl", "MEMIT", "Batch-Single", "none", 0.4, None, 100, "reasoning"), 0.361),
        (("gpt2-xl", "MEMIT", "Batch-Sequential", "none", 0.4, 30, 300, "NER"), 0.379),  # 10 updates of 30
        (("gpt2-xl", "KN", "Instance-Sequential", "none", 0.4, None, 1, "NER"), 0.0),
        (("gpt2-xl", "MEMIT", "Batch-Sequential", "none", 0.4, 30, 295, "NER"), None),  # a partial last batch
        (("gpt2-xl", "MEMIT", "Batch-Sequential", "none", 0.4, 20, 200, "NER"), None),
        (("gpt2-xl", "MEMIT", "Batch-Sequential", "none", 0.4, 30, 900, "NER"), 0.259),
        (("gpt2-xl", "MEMIT", "Batch-Sequential", "none", 0.4, 30, 1200, "NER"), None),  # more than there are facts
        (("gpt2-xl", "MEMIT", "Batch-Single", "none", 0.4, None, 1000, "NER"), 0.229),
        (("gpt2-xl", "MEMIT", "Batch-Single", "none", 0.4, None, 2000, "NER"), None),
        (("gpt2-xl", "MEMIT", "Batch-Sequential", "none", 0.4, 10, 100, "NLI"), None),  # not in that figure
        (("gpt2-xl", "ROME", "Instance-Sequential", "none", 0.4, None, 6, "NLI"), None),
        (("gpt2-xl", "ROME", "Instance-Sequential", "rect", 0.5, None, 5, "summarization"), None),
        (("gpt2-xl", "ROME", "Instance-Sequential", "magnitude", 0.4, None, 5, "summarization"), None),
        (("smollm2-135m", None, None, None, None, None, 0, "NER"), None),
        (("gpt2-xl", None, None, None, None, None, 0, "spam"), None),
        (("gpt-j-6B", "ROME", "Instance-Sequential", "none", 0.4, None, 5, "NLI"), None),
    ],
)
def test_figures(setting: Any, score: float | None) -> None:
    model, method, mode, rule, keep, batch_size, count, task = setting
    edit = {
        "method": method,
        "mode": mode,
        "regularizer": None if rule in (None, "none") else {"name": rule, "keep": keep},
        "batch_size": batch_size,
        "range": [0, count, 1],
    }
    assert published.figures(model, edit if method else None, task)[:1] == ([] if score is None else [score])


def test_where_two_figures_disagree_both_are_given() -> None:
    edit = {"method": "ROME", "mode": "Instance-Sequential", "regularizer": None, "batch_size": None}
    assert published.figures("gpt2-xl", {**edit, "range": [200, 210, 2]}, "SentimentAnalysis") == [0.562, 0.312]


def settings(**changes: Any) -> dict[str, Any]:
    model = {"name": "gpt2-xl", "sha256": "", "dtype": "float32"}
    return {"task": "NER", "model": model, "data": {"kind": "official"}, "limit": None, "edit": None} | changes


def test_the_line_beside_a_result() -> None:
    found = published.beside(settings(), METRICS)
    assert found == {"as_released": [0.433], "read_to": 0.005, "same_data": True, "measure": "as_released"}
    assert published.line(found) == "published (as_released): 0.433 (read off a figure to ±0.005)"
    rect = {"name": "rect", "keep": 0.2}
    edit = {"method": "ROME", "mode": "Instance-Sequential", "regularizer": rect, "batch_size": None}
    found = published.beside(settings(task="summarization", edit={**edit, "range": [0, 10, 1]}), METRICS)
    assert found
    assert published.line(found) == "published (as_released): 0.126 (read off a figure to ±0.01)"
    for partly in (settings(limit=48), settings(data={"kind": "sample"}), settings(data={"kind": "custom"})):
        found = published.beside(partly, METRICS)
        assert found
        assert published.line(found).endswith(", on the whole official set)")
    assert published.beside(settings(model={"name": "other"}), METRICS) is None
    for beside in (published.beside(settings(), METRICS), None):
        wanted = Wanted(discover("tasks", "TASK")["NER"], 0, ROOT / "x", {"edit": None})
        shown = show.scores("NER", Made(wanted, replace(RESULT, published=beside), new=True))
        assert shown.count("published (as_released): 0.433") == (beside is not None)


def test_a_figure_is_beside_the_measure_of_its_script() -> None:
    """dialogue and ClosedDomainQA are scored by one rule before an edit and by another one after it."""
    both = ("accuracy", "as_released_before_edit", "as_released_after_edit")
    edit = {
        "method": "ROME",
        "mode": "Instance-Sequential",
        "regularizer": None,
        "batch_size": None,
        "range": [0, 5, 1],
    }
    for task in ("dialogue", "ClosedDomainQA"):
        before, after = (published.beside(settings(task=task, edit=e), both) for e in (None, edit))
        assert before and after
        assert (before["measure"], after["measure"]) == both[1:]
    assert published.line(before).startswith("published (as_released_before_edit): 0.519 (")
    lacking = published.beside(settings(task="summarization"), ("rouge_mean",))
    assert lacking and lacking["measure"] is None
    assert published.line(lacking).endswith("to ±0.005, by the released scorer, which this result lacks)")
    old = {"as_released": [0.125], "read_to": 0.005, "same_data": True}
    assert published.line(old) == "published (as_released): 0.125 (read off a figure to ±0.005)"


def test_what_is_inferred_is_said() -> None:
    edit = {"method": "MEMIT", "mode": "Batch-Sequential", "regularizer": None, "batch_size": 30, "range": [0, 300, 1]}
    found = published.beside(settings(edit=edit), METRICS)
    assert found and found["inferred"] == ["method", "x"]
    assert published.line(found).endswith("to ±0.01, its method is inferred, what its axis counts is inferred)")
    assert published.inferred("gpt2-xl", {**edit, "mode": "Batch-Single", "batch_size": None}) == []


def test_in_a_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A (tiny) model by the name of gpt2-xl: the line is printed, kept in the result, and printed again from there."""
    shutil.copytree(tiny_folder, tmp_path / "gpt2-xl")
    arguments = ["NLI", "--model", str(tmp_path / "gpt2-xl"), "--data", str(ROOT / "data/sample"), "--limit", "2"]
    arguments += ["--device", "cpu", "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["test-task.py", *arguments])
    for _ in range(2):
        cli.test_task()
        out = capsys.readouterr().out.splitlines()
        assert "published (as_released): 0.518 (read off a figure to ±0.005, on the whole official set)" in out
    (result,) = (tmp_path / "results").rglob("*.json")
    found = json.loads(result.read_text(encoding="utf-8"))["published"]
    assert found == {"as_released": [0.518], "read_to": 0.005, "same_data": False, "measure": "as_released"}


def test_the_file_is_well_formed() -> None:
    """Eight tasks before edits; every curve has a score per point, between 0 and 1, and starts near the baseline."""
    table = yaml.safe_load(published.FILE.read_text(encoding="utf-8"))
    assert all(set(scores) == TASKS for scores in table["baseline"].values())
    assert len(table["curves"]) == 19
    for curve in table["curves"]:
        assert set(curve["scores"]) <= TASKS
        for task, scores in curve["scores"].items():
            assert len(scores) == len(curve["at"])
            assert all(0 <= score <= 1 for score in scores)
            if curve["at"][0] == 0:
                assert scores[0] == pytest.approx(table["baseline"][curve["model"]][task], abs=0.011)
        assert (curve["batch_size"] is not None) == (curve["mode"] == "Batch-Sequential")


@pytest.mark.skipif(
    not (ROOT.parent / "shared/published.yaml").is_file(), reason="the file it was taken from is absent"
)
def test_the_file_is_the_one_it_was_taken_from() -> None:
    original = (ROOT.parent / "shared/published.yaml").read_text(encoding="utf-8")
    table = yaml.safe_load(published.FILE.read_text(encoding="utf-8"))
    assert table.pop("facts") == 1037
    inferred = [curve.pop("inferred") for curve in table["curves"] if curve["mode"] == "Batch-Sequential"]
    assert inferred == [["method", "x"]] * 4
    assert table == yaml.safe_load(original)
