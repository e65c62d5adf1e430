"""Which samples are scored, and what a result says of them."""

from conftest import ROOT

from core.metrics import summarize
from core.registry import discover
from core.results import Result
from core.types import Completion
from experiment.plan import limited
from experiment.scoring import degenerate, result_of

NER = discover("tasks", "TASK")["NER"]
SAMPLES = list(NER.samples(ROOT / "data/sample/task-data" / NER.file))
MODEL = {"name": "gpt2-xl", "sha256": "", "dtype": "float32"}
SETTINGS = {"task": "NER", "model": MODEL, "data": {"kind": "official"}, "limit": None, "edit": None}


def test_a_limit_counts_records() -> None:
    """Of NER: sentences, each of four samples."""
    assert limited(SAMPLES, 2) == SAMPLES[:8]
    assert limited(SAMPLES, None) == SAMPLES


def test_the_result_of_a_task() -> None:
    said = [Completion("", finite=False), Completion(" Ada", truncated=True), Completion(" x x x"), Completion(" y")]
    scored = [(s, c, NER.score(s, c)) for s, c in zip(SAMPLES[:8], said + said, strict=True)]
    result = result_of(NER, scored, SETTINGS, {"device": "cpu"}, {"score": 1.5})
    assert result == Result(
        task="NER",
        headline="f1",
        metrics=summarize(NER, scored),
        n=2,
        completions=8,
        truncated=2,
        degenerate={"empty": 2, "repeating": 2, "not_finite": 2},
        published={"as_released": [0.433], "read_to": 0.005, "same_data": True, "measure": "as_released"},
        settings=SETTINGS,
        environment={"device": "cpu"},
        seconds={"score": 1.5},
    )
    assert degenerate(scored) == result.degenerate
