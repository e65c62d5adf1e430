"""experiment.grid and its local engine: the grid as commands; edits are made once; what is there is not made again."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import hparams
from core.errors import UserError
from core.registry import discover
from editors.regularizers import REGULARIZERS, make
from experiment.edit_session import Plugins
from experiment.engines import local
from experiment.grid import Block, Cell, Sweep, cells, within
from tests.conftest import ROOT
from tests.killing import untraced
from tests.tiny_settings import ROME_YAML

ROME = Block(methods=("ROME",), modes=("Instance-Sequential",), regularizers=("none", "rect 0.4"))


def commands(**settings: object) -> list[str]:
    return [cell.command.removeprefix("python ") for cell in cells(Sweep(**settings))]  # type: ignore[arg-type]


def test_a_cell_is_one_sequence_of_edits() -> None:
    assert commands(grid=(ROME,), tasks=("NER", "NLI"), limit=8, checkpoints=(0, 1, 5)) == [
        "test-task.py NER,NLI --limit 8",
        "test-task-after.py NER,NLI Instance-Sequential ROME 200 205 1 --checkpoints 1 --limit 8",
        "test-task-after.py NER,NLI Instance-Sequential ROME 200 205 1 --checkpoints 1 --regularizer rect --keep 0.4 "
        "--limit 8",
    ]


def test_models_draws_and_batches_multiply() -> None:
    both = Block(methods=("MEMIT",), modes=("Batch-Sequential", "Batch-Single"), batch_size=2, checkpoints=(2, 4))
    found = commands(grid=(both,), models=("a", "b"), repeats=2, begin=10, step=3, on_error="skip")
    assert len(found) == 2 + 2 * 2 * (1 + 2)  # the unedited models; Batch-Single starts again for every number of edits
    assert found[:3] == [
        "test-task.py all --model a",
        "test-task.py all --model b",
        "test-task-after.py all Batch-Sequential MEMIT 10 22 3 2 --checkpoints 2 --draw 1 --model a --on-error skip",
    ]
    assert found[3].startswith("test-task-after.py all Batch-Single MEMIT 10 16 3 --draw 1")
    assert found[-1].startswith("test-task-after.py all Batch-Single MEMIT 10 22 3 --draw 2 --model b")


def test_checkpoints_without_edits_are_left_out() -> None:
    some = Block(methods=("KN",), modes=("Instance-Sequential",), checkpoints=(2, 4))
    sweep = Sweep(grid=(ROME, some), checkpoints=(0, 1, 5), begin=10, step=3)
    assert within(sweep, 25)[1] == []  # records 10, 13, 16, 19 and 22
    for records, counts, beyond in (
        (24, [(0, 1), (2, 4)], [5]),
        (20, [(0, 1), (2,)], [4, 5]),
        (9, [(0,), ()], [1, 2, 4, 5]),
    ):
        less, left_out = within(sweep, records)
        assert ([block.checkpoints for block in less.grid], left_out) == (counts, beyond)
    assert [cell.edits for cell in cells(less)] == [0]  # the unedited model


def test_a_dry_run_prints_the_commands_and_what_is_left_out(tmp_path: Path) -> None:
    grid = "[{methods: [KN], modes: [Instance-Sequential], checkpoints: [2, 400]}]"
    (tmp_path / "grid.yaml").write_text(f"{{data: data/sample, tasks: [NER], grid: {grid}}}")
    command = [sys.executable, "sweep.py", tmp_path / "grid.yaml", "--dry-run"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    flags = "--data data/sample"
    assert run.stdout.splitlines() == [
        f"python test-task.py NER {flags}",
        f"python test-task-after.py NER Instance-Sequential KN 200 202 1 {flags}",
    ]
    assert run.stderr == "data/sample/edited-data/zsre.json: has 513 records; left out, from 200 on: 400 edits\n"


def test_shipped_files_load() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert cells(hparams.load(Sweep, path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: []", "expected at least one block"),
        ("grid: [{methods: [ROME]}]", "grid: the key 'modes' is missing"),
        ("grid: [{methods: [ROME], modes: [x], speed: 1}]", "grid: unknown key 'speed'"),
        ("grid: [{methods: [ROME], modes: [x], regularizers: [rect]}]", "a share as in 'rect 0.4', found 'rect'"),
        ("{grid: [{methods: [ROME], modes: [x]}], checkpoints: [5, 1]}", "expected ascending numbers of edits"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        hparams.load(Sweep, path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_one_cell_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(cell: Cell, plugins: Plugins) -> list[Path]:
        if cell.arguments == ("bad",):
            raise UserError("what is wrong")
        return [tmp_path] * 3

    monkeypatch.setattr(Cell, "run", run)
    plugins = Plugins({}, {}, REGULARIZERS, make)
    todo = [Cell(("good",)), Cell(("bad",)), Cell(("good",))]
    assert [(outcome.made, outcome.error) for outcome in local.local(todo, plugins)] == [
        (3, None),
        (0, "what is wrong"),
        (3, None),
    ]


def test_two_workers_make_what_one_makes(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes; what they print comes out whole, without bars, and a cell that fails is one line."""
    (tmp_path / "rome.yaml").write_text(ROME_YAML)
    shared = ("--model", str(tiny_folder), "--data", "data/sample", "--limit", "2", "--device", "cpu")
    edited = ("Instance-Sequential", "ROME", "0", "2", "1", "--hparams", str(tmp_path / "rome.yaml"), *shared)
    plugins = Plugins(discover("tasks", "TASK"), discover("editors", "EDITOR"), REGULARIZERS, make)
    made = {}
    for workers in (1, 2):
        out = ("--results", str(tmp_path / str(workers)))
        todo = [Cell(("NLI", *shared, *out)), Cell(("NLI", *edited, *out), 2), Cell(("spam", *shared, *out))]
        outcomes = list(local.local(todo, plugins, workers))
        assert sorted(outcome.made for outcome in outcomes) == [0, 1, 1]
        assert [o.error.split(";")[0] for o in outcomes if o.error] == ["unknown task 'spam'"]
        made[workers] = {
            path.name: path.read_bytes() for path in (tmp_path / str(workers)).rglob("result-*.jsonl") if path.is_file()
        }
        told = capsys.readouterr().out
        assert told.count("records from data/sample/task-data/test-NLI.tsv") == 2 and "\r" not in told
    assert len(made[1]) == 2 and made[1] == made[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_sweep_alone_stops_its_workers(
    number: signal.Signals, tiny_folder: Path, tmp_path: Path
) -> None:
    """Not after the cells they are at, which may take hours."""
    (tmp_path / "hparams/ROME").mkdir(parents=True)
    (tmp_path / f"hparams/ROME/{tiny_folder.name}.yaml").write_text(ROME_YAML)
    grid = {"methods": ["ROME"], "modes": ["Instance-Sequential"], "regularizers": ["none", "random 0.4"]}
    config = {"tasks": ["NLI"], "limit": 2, "begin": 0, "checkpoints": [300], "device": "cpu", "grid": [grid]}
    config |= {"models": [str(tiny_folder)], "data": str(ROOT / "data/sample"), "results": "out"}
    (tmp_path / "grid.yaml").write_text(json.dumps(config))
    command = [sys.executable, str(ROOT / "sweep.py"), "grid.yaml", "--workers", "2"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": untraced()}
    process = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)  # type: ignore[call-overload]
    locks = tmp_path / "out" / tiny_folder.name / "test-NLI"
    while len(list(locks.glob(".*.lock"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "interrupted: 0 of 2 cells were run; in the others what is finished is kept; the same" in err, err
    assert all(word not in err for word in ("Traceback", "Error", "Warning")), err
    assert [path.name for path in locks.iterdir()] == []
