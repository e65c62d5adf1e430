"""core.results: the names, whole files or none, and what happens to an older result."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from core import results
from core.errors import UserError
from core.provenance import environment
from core.results import EditPlan, existing, stem, table, writable, write
from core.types import Completion, Measure, Sample, Score

SETTINGS = {"task": "NER", "seed": 0, "edit": {"mode": "x", "range": [0, 4, 1]}}
SUMMARY = {"task": "NER", "metrics": {}, "settings": SETTINGS}
SCORED = [
    (Sample("1", "é\u2028\nQ", ["A"]), Completion(" A", "A", True), Score(1.0, "A", {"strict": 0.5})),
    (Sample("2", "Q", None), Completion(""), Score(None, "")),
]


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        (None, "result-NER-before-edit"),
        (EditPlan("Instance-Sequential", "ROME", 4), "result-NER-Instance-Sequential-ROME-4"),
        (EditPlan("Batch-Single", "MEMIT", 204), "result-NER-Batch-Single-MEMIT-204"),
        (EditPlan("Batch-Sequential", "MEND", 40, 10), "result-NER-Batch-Sequential-MEND-10*4"),
        (EditPlan("Batch-Sequential", "MEMIT", 120, 10), "result-NER-Batch-Sequential-MEMIT-10*12"),
        (EditPlan("Batch-Sequential", "MEMIT", 41, 10), "result-NER-Batch-Sequential-MEMIT-10*5"),
        (EditPlan("Instance-Sequential", "ROME-RECT40", 1), "result-NER-Instance-Sequential-ROME-RECT40-1"),
    ],
)
def test_stem(plan: EditPlan | None, name: str) -> None:
    assert stem(Path("test-result"), "NER", plan) == Path("test-result/test-NER") / name


def test_both_files(tmp_path: Path) -> None:
    path = tmp_path / "llama-2.7b" / "result-NER"
    write(path, SUMMARY, SCORED)
    assert sorted(p.name for p in path.parent.iterdir()) == ["result-NER.json", "result-NER.jsonl"]
    assert json.loads((path.parent / "result-NER.json").read_text(encoding="utf-8")) == SUMMARY
    lines = (path.parent / "result-NER.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == [
        {
            **{"id": "1", "prompt": "é\u2028\nQ", "completion": " A", "choice": "A", "truncated": True},
            **{"answer": "A", "reference": ["A"], "score": 1.0, "parts": {"strict": 0.5}},
        },
        {
            **{"id": "2", "prompt": "Q", "completion": "", "choice": None, "truncated": False},
            **{"answer": "", "reference": None, "score": None, "parts": {}},
        },
    ]


def test_a_dot_in_a_name_is_no_ending(tmp_path: Path) -> None:
    write(tmp_path / "ROME-RECT12.5", SUMMARY, SCORED)
    assert (tmp_path / "ROME-RECT12.5.json").is_file()
    assert existing(tmp_path / "ROME-RECT12.5", SETTINGS, False) == SUMMARY


# --- an older result -----------------------------------------------------------------------------------------------


def test_existing(tmp_path: Path) -> None:
    path = tmp_path / "r"
    assert existing(path, SETTINGS, False) is None
    write(path, SUMMARY, SCORED)
    assert existing(path, SETTINGS, False) == SUMMARY
    assert existing(path, SETTINGS, True) is None
    changed: dict[str, Any] = {**SETTINGS, "seed": 1, "edit": {"mode": "x", "range": [0, 8, 2]}}
    with pytest.raises(UserError) as error:
        existing(path, changed, False)
    assert f"{path}.json was made with other settings" in str(error.value)
    assert "(seed: 0, now 1, edit.range: [0, 4, 1], now [0, 8, 2])" in str(error.value)
    assert "--overwrite" in str(error.value)
    assert existing(path, changed, True) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_what_is_no_result_is_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match="not a result file of this project"):
        existing(tmp_path / "r", SETTINGS, False)


def test_samples_without_a_summary_are_no_result(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("half a run")
    assert existing(tmp_path / "r", SETTINGS, False) is None


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_move_leaves_no_half_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """Whichever of the two moves fails: where a summary is, the samples beside it are its own."""
    path, moves, replace = tmp_path / "r", [], os.replace

    def fails(source: Any, target: Any) -> None:
        moves.append(target)
        if len(moves) == failing:
            raise OSError(5, "Input/output error")
        replace(source, target)

    for older in (False, True):
        if older:
            write(path, {**SUMMARY, "older": True}, SCORED[:1])
        moves.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fails)
            with pytest.raises(UserError, match=r"cannot write .*: Input/output error; --results DIR"):
                write(path, SUMMARY, SCORED)
        assert len(moves) == failing
        assert not (tmp_path / "r.json").exists()
        assert {p.name for p in tmp_path.iterdir()} <= {"r.jsonl"}  # no temporary file


def test_no_room_leaves_the_older_result_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r"
    write(path, SUMMARY, SCORED[:1])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_text = Path.write_text

    def full(self: Path, text: str, **more: Any) -> int:
        if self.suffix == ".json":
            write_text(self, text[:10], **more)
            raise OSError(28, "No space left on device")
        return write_text(self, text, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        write(path, {**SUMMARY, "newer": True}, SCORED)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write results to .*--results DIR"):
        writable(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "file" / "r", SUMMARY, SCORED)
    writable(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []


# --- tables, environment ----------------------------------------------------------------------------------


def test_table() -> None:
    text = table({"f1": Measure(0.5, 0.25, 1.0), "trivial": {"value": 0.125, "low": 0.0, "high": 0.5}}, 48)
    assert text.splitlines() == [
        "metric    value   95 % interval     n",
        "f1        0.500  [0.250, 1.000]     48",
        "trivial   0.125  [0.000, 0.500]     48",
    ]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment("cpu")
    assert json.loads(json.dumps(found)) == found
    for key in ("python", "torch", "transformers", "numpy", "rouge-score", "seqeval", "platform"):
        assert isinstance(found[key], str)
    assert found["device"] == "cpu"

    def no_git(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(results.subprocess, "run", no_git)
    assert environment("cpu") | {"commit": None, "dirty": False} == environment("cpu")
