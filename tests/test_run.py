"""Runs that edit: edits accumulate from checkpoint to checkpoint, are made once, and outlive an interruption."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny_settings import ROME_YAML

from core.lm import generate
from core.registry import discover
from core.results import EditRecord, Result
from core.script import script
from core.types import Deltas, Edit, Measure, Notes
from edit_sets.zsre import EDIT_SET
from editors.rome import ROME
from experiment import cli, show
from experiment.models import Model
from experiment.plan import Experiment, Plan, Wanted
from experiment.run import Edited, Made

SAMPLE = ROOT / "data/sample"
SEQUENCE = ("NLI", "Instance-Sequential", "ROME")
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """test-task-after.py with the tiny model, results in the folder named first: exit code, and why."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "rome.yaml").write_text(ROME_YAML)

    def run(folder: str, *words: object) -> tuple[int, str]:
        common = ("--model", tiny_folder, "--data", SAMPLE, "--device", "cpu", "--limit", 2)
        more = ("--results", tmp_path / folder, "--hparams", tmp_path / "rome.yaml")
        monkeypatch.setattr(sys, "argv", ["test-task-after.py", *map(str, [*words, *common, *more])])
        code = 0
        try:
            script(cli.test_task_after)
        except SystemExit as end:
            code = int(end.code or 0)
        lines = [line for line in capsys.readouterr().err.split("\n") if line.startswith(("error: ", "interrupted: "))]
        return code, "\n".join(lines)

    return run


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The edits that the editor was asked for, in order; one of index `stop` is a signal."""
    asked: list[int] = []
    real = ROME.deltas

    def deltas(self: ROME, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        asked.append(edits[0].index)
        return real(self, edits)

    monkeypatch.setattr(ROME, "deltas", deltas)
    return asked


def files(folder: Path) -> dict[str, str]:
    """Result files by name, without their times."""
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}
    return {name: re.sub(r'"seconds": (\{[^}]*\}|[-+.\de]+)', "", text) for name, text in found.items()}


@pytest.mark.parametrize("rule", [(), ("--regularizer", "random", "--keep", 0.5)], ids=["none", "random"])
def test_checkpoints_are_the_results_of_separate_runs(
    rule: tuple[object, ...], call: Call, made: list[int], tmp_path: Path
) -> None:
    assert call("one", *SEQUENCE, 200, 205, 1, "--checkpoints", "1,3", *rule) == (0, "")
    assert made == [200, 201, 202, 203, 204]  # every edit once
    for end in (201, 203, 205):
        assert call("each", *SEQUENCE, 200, end, 1, *rule) == (0, "")
    one, each = files(tmp_path / "one"), files(tmp_path / "each")
    assert one == each and len(one) == 6


def test_a_longer_run_makes_what_is_missing(call: Call, made: list[int], tmp_path: Path) -> None:
    call("out", *SEQUENCE, 200, 202, 1)
    made.clear()
    assert call("out", *SEQUENCE, 200, 204, 1, "--checkpoints", "2") == (0, "")
    assert made == [200, 201, 202, 203]
    made.clear()
    assert call("out", *SEQUENCE, 200, 204, 1, "--checkpoints", "2") == (0, "")
    assert made == []
    assert len(files(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("NLI", "Batch-Sequential", "MEMIT", 0, 8, 1, 3, "--checkpoints", "3,4"),
            "error: --checkpoints: no update ends at 4 edits; they end at 3, 6, 8",
        ),
        (
            ("NLI", "Batch-Single", "MEMIT", 0, 8, 1, "--checkpoints", "4"),
            "error: --checkpoints: no update ends at 4 edits; they end at 8",
        ),
        (
            (*SEQUENCE, 0, 8, 1, "--checkpoints", "9"),
            "error: --checkpoints: no update ends at 9 edits; they end at 1, 2, 3, 4, 5, ...",
        ),
    ],
)
def test_checkpoints_where_no_update_ends_are_refused(words: tuple[object, ...], message: str, call: Call) -> None:
    assert call("out", *words) == (2, message)


@pytest.mark.parametrize("every", [0, 1000])
@pytest.mark.parametrize("stop", [0, 1, 3, 4])
def test_an_interrupted_run_goes_on(
    stop: int, every: int, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal while the edit number `stop` is computed: those before it are kept, said to be, and not made again."""
    words = (*SEQUENCE, 200, 205, 1, "--checkpoints", "2", "--regularizer", "random", "--save-every", every)
    made: list[int] = []
    real = ROME.deltas

    def deltas(self: ROME, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        if edits[0].index == 200 + stop and len(made) == stop:
            made.append(-1)
            raise KeyboardInterrupt
        made.append(edits[0].index)
        return real(self, edits)

    assert call("whole", *words) == (0, "")
    monkeypatch.setattr(ROME, "deltas", deltas)
    code, line = call("out", *words)
    kept = [f"{stop} of 5 updates"] * (stop > 0) + ["1 of 2 results"] * (stop > 2)
    assert code == 130
    assert line.startswith("interrupted: ") and line.endswith("; the same command goes on from there")
    assert all(part in line for part in kept) if kept else "nothing is done yet" in line
    assert call("out", *words) == (0, "")
    assert made == [*range(200, 200 + stop), -1, *range(200 + stop, 205)]
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert [path for path in (tmp_path / "out").rglob("*") if path.name.startswith((".", "unfinished"))] == []


def test_an_interrupted_evaluation_keeps_its_completions(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("NER", *SEQUENCE[1:], 200, 201, 1, "--batch-tokens", 1)
    calls: list[Any] = []
    assert call("whole", *words) == (0, "")
    real: Any = generate._generated

    def generated(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(generate, "_generated", generated)
    code, line = call("out", *words)
    (found,) = re.findall(r"(\d) of 8 completions of NER; the same command goes on from there", line)
    assert code == 130 and 0 < int(found) < 8
    calls.clear()
    monkeypatch.setattr(generate, "_generated", real)
    assert call("out", *words) == (0, "")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_drawn_edits(call: Call, made: list[int], tmp_path: Path) -> None:
    assert call("out", *SEQUENCE, 200, 203, 1, "--draw", 3, "--checkpoints", "1") == (0, "")
    drawn = [edit.index for edit in EDIT_SET.edits(SAMPLE / "edited-data/zsre.json", 200, 203, 1, 3)]
    assert made == drawn and drawn != [200, 201, 202] and all(index >= 200 for index in drawn)
    folder = tmp_path / "out/tiny-gpt2/draw-3/test-NLI"
    for count in (1, 3):
        found = json.loads((folder / f"result-NLI-Instance-Sequential-ROME-{count}.json").read_text())
        assert [edit["index"] for edit in found["edits"]] == drawn[:count]
        assert found["settings"]["edit"]["draw"] == 3
    made.clear()
    assert call("out", *SEQUENCE, 200, 203, 1, "--draw", 4) == (0, "")
    assert sorted(made) != sorted(drawn)


def test_what_a_terminal_shows(tmp_path: Path) -> None:
    """Edit quality before the scores, a model that has collapsed is said to be, and where the files are."""
    measure = Measure(0.25, 0.0, 0.5)
    result = Result(
        task="NLI",
        headline="accuracy",
        metrics={"accuracy": measure},
        n=4,
        completions=4,
        truncated=0,
        degenerate={"empty": 3, "repeating": 0, "not_finite": 2},
        published={"as_released": [0.518], "read_to": 0.005, "same_data": True},
        settings={"edit": None},
        environment={},
        seconds={},
    )
    wanted = Wanted(discover("tasks", "TASK")["NLI"], 0, tmp_path / "result-NLI", {})
    lines = show.scores("NLI: 4 records", Made(wanted, result, new=True)).splitlines()
    assert lines[:2] == ["", "NLI: 4 records"]
    assert lines[3].split() == ["accuracy", "0.250", "[0.000,", "0.500]", "4"]
    assert lines[4:] == [
        "published (as_released): 0.518 (read off a figure to ±0.005)",
        "collapsed: 3 of 4 completions are empty",
        f"-> {tmp_path}/result-NLI.json",
        f"-> {tmp_path}/result-NLI.jsonl",
    ]
    record = EditRecord(quality={stage: {"reliability": measure} for stage in ("before", "own", "after")})
    plan = Plan(Experiment(), Model("m", tmp_path, ""), tmp_path, {}, {}, None, ())
    assert show.text(Edited(2, record), plan).splitlines()[1] == "edit quality: 2 edits in 0 updates"
