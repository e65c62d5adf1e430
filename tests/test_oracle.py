"""Who answers every record with its reference scores 1, over whole files: the sample and, where it is, the real data.

The exceptions are listed by the place of their record, with the reason.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from report_samples import named

from core.metrics import summarize
from core.registry import discover
from core.types import Completion, Sample, Scored
from tasks import SIX
from tasks._entities import KINDS, claims, iob2

TASKS = discover("tasks", "TASK")
SAMPLE = ROOT / "data/sample/task-data"
REAL = ROOT.parent / "shared/realdata/data/task-data"
WORDS: dict[str, Callable[[Any], str]] = {
    "reasoning": lambda reference: reference["answer"],
    "OpenDomainQA": lambda reference: reference[0],
    "NER": lambda reference: ", ".join(named(reference)),
    **dict.fromkeys(("NLI", "ClosedDomainQA", "dialogue", "summarization", "SentimentAnalysis", *SIX), str),
}
files = pytest.mark.parametrize("folder", [SAMPLE, REAL], ids=["sample", "real"])


def oracle(name: str, folder: Path) -> Scored:
    file = folder / TASKS[name].file
    if not file.exists():
        pytest.skip(f"{file} is not there")
    samples: list[Sample] = list(TASKS[name].samples(file))
    said = [Completion(f" {WORDS[name](sample.reference)}") for sample in samples]
    return [(sample, c, TASKS[name].score(sample, c)) for sample, c in zip(samples, said, strict=True)]


@files
@pytest.mark.parametrize("name", [name for name in WORDS if name != "NER"])
def test_the_reference_scores_1(name: str, folder: Path) -> None:
    scored = oracle(name, folder)
    assert [i for i, (_, _, score) in enumerate(scored) if score.value != pytest.approx(1)] == []
    assert next(iter(summarize(TASKS[name], scored).values())).value == pytest.approx(1)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there")
def test_every_reference_of_a_question_scores_1() -> None:
    task = TASKS["OpenDomainQA"]
    for sample in task.samples(REAL / task.file):
        for reference in sample.reference:
            assert task.score(sample, Completion(f" {reference}")).value == 1, sample.id


COMMA = {1376: "Bodman , Longely & Dahling: one entity that holds a comma, where a completion is split"}


@files
def test_all_entities_of_a_sentence(folder: Path) -> None:
    """Joined by ", "; every sentence but the exceptions is tagged as it is, so that no overlap of claims goes wrong."""
    scored = oracle("NER", folder)
    assert summarize(TASKS["NER"], scored)["f1"].value >= (0.9997 if folder == REAL else 1)
    wrong = set()
    for start in range(0, len(scored), len(KINDS)):
        reference = scored[start][0].reference
        spans = [
            span
            for sample, said, _ in scored[start : start + len(KINDS)]
            for span in claims(said.text, sample.reference["type"], reference["tokens"])
        ]
        if iob2(spans, len(reference["tokens"])) != reference["tags"]:
            wrong.add(reference["sentence"])
    assert wrong == (set(COMMA) if folder == REAL else set())


def test_references_that_normalise_to_nothing(tmp_path: Path) -> None:
    """As records 664 and 1420 of NQ-open have them."""
    file = tmp_path / "q.jsonl"
    records = [{"question": "q", "answer": [answer], "output": ["p"]} for answer in (")", "-- -", "The", "x")]
    file.write_text("\n".join(map(json.dumps, records)))
    task = TASKS["OpenDomainQA"]
    for sample in task.samples(file):
        assert task.score(sample, Completion(f" {sample.reference[0]}")).value == 1
        assert task.score(sample, Completion(" Curie")).value == 0
