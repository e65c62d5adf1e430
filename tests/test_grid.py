"""experiment.grid and its local engine: the grid as commands; edits are made once; what is there is not made again."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core import hparams
from core.errors import UserError
from core.lm import model as lm_model
from editors import _templates
from experiment import cli, models
from experiment.arguments import command
from experiment.asked import EditRequest, Experiment, Placement
from experiment.engines import local
from experiment.engines.local import Outcome
from experiment.grid import Block, Sweep, cells, within
from tests.conftest import ROOT, project
from tests.killing import TIMES, untraced
from tests.tiny_settings import ROME as ROME_SETTINGS
from tests.tiny_settings import ROME_YAML

ROME = Block(methods=("ROME",), modes=("Instance-Sequential",), regularizers=("none", "rect 0.4"))


def commands(**settings: object) -> list[str]:
    return [command(cell).removeprefix("python ") for cell in cells(Sweep(**settings))]  # type: ignore[arg-type]


def test_a_cell_is_one_sequence_of_edits() -> None:
    assert commands(grid=(ROME,), tasks=("NER", "NLI"), limit=8, checkpoints=(0, 1, 5)) == [
        "test-task.py NER,NLI --limit 8",
        "test-task-after.py NER,NLI Instance-Sequential ROME 200 205 1 --checkpoints 1 --limit 8",
        "test-task-after.py NER,NLI Instance-Sequential ROME 200 205 1 --checkpoints 1 --regularizer rect --keep 0.4 "
        "--limit 8",
    ]


def test_a_block_with_settings_of_its_own() -> None:
    """Its results go to a folder below the others', which have the same names."""
    cache = replace(ROME, regularizers=("none",), hparams="mine.yaml", results="mine")
    found = commands(grid=(replace(ROME, regularizers=("none",)), cache), checkpoints=(1,), results="out")
    assert found == [
        "test-task-after.py all Instance-Sequential ROME 200 201 1 --results out",
        "test-task-after.py all Instance-Sequential ROME 200 201 1 --results out/mine --hparams mine.yaml",
    ]
    with pytest.raises(ValueError, match="ROME with two files of settings"):
        Sweep(grid=(ROME, replace(cache, results=None)))
    for folder in ("/tmp/x", "../x"):
        with pytest.raises(ValueError, match="results: expected a folder's name below the sweep's"):
            replace(cache, results=folder)


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


def test_repeats_draw_other_edits_and_all_else_with_another_seed() -> None:
    """Without repeats nothing changes; a seed of the file is added."""
    some = {"grid": (ROME,), "checkpoints": (0, 1)}
    for seed, repeats, wanted in ((0, 0, [0]), (7, 0, [7]), (0, 3, [1, 2, 3]), (7, 3, [8, 9, 10])):
        found = cells(Sweep(**some, seed=seed, repeats=repeats))  # type: ignore[arg-type]
        assert found[0].edit is None and found[0].effective_seed == seed
        assert list(dict.fromkeys(one.effective_seed for one in found[1:])) == wanted
        assert [one.edit.draw for one in found[1::2] if one.edit] == ([1, 2, 3] if repeats else [None])
    assert all(one.edit.redraw for one in cells(Sweep(**some, redraw=True)) if one.edit)  # type: ignore[arg-type]
    assert commands(**some, repeats=1, redraw=True)[1].endswith("--draw 1 --redraw")


def test_a_block_may_be_made_for_the_first_repeats_alone() -> None:
    """All blocks of the first draw come before those of the second."""
    often, once = (Block(methods=(name,), modes=("Batch-Single",)) for name in ("MEMIT", "MEND"))
    grid = (replace(once, repeats=1), often)
    for repeats, wanted in ((0, [None] * 2), (1, [1, 1]), (3, [1, 1, 2, 3])):
        found = [cell.edit for cell in cells(Sweep(grid=grid, checkpoints=(2,), repeats=repeats)) if cell.edit]
        assert [edit.draw for edit in found] == wanted
        assert [edit.method for edit in found] == ["MEND"] + ["MEMIT"] * (len(wanted) - 1)


def test_repeats_have_context_templates_of_their_own(tiny_folder: Path, tmp_path: Path) -> None:
    """Those that settings state stay, unless they are to be drawn anew."""
    found = {}
    for name, file, redraw in (
        ("drawn", rome_drawn(tmp_path), False),
        ("stated", tmp_path / "rome.yaml", False),
        ("anew", tmp_path / "rome.yaml", True),
    ):
        requests = [replace(rome(tmp_path, end=1, draw=draw, redraw=redraw), hparams=file) for draw in (1, 2)]
        ended(local.local([cell(tiny_folder, tmp_path / name, request) for request in requests]))
        made = sorted((tmp_path / name).rglob("result-*.json"))
        contents = [json.loads(path.read_text(encoding="utf-8")) for path in made]
        assert [content["settings"]["seed"] for content in contents] == [1, 2]
        found[name] = [content["updates"][0]["notes"]["context_templates"] for content in contents]
    stated = list(ROME_SETTINGS["context_templates"])
    assert found["stated"] == [stated, stated]
    assert found["drawn"][0] != found["drawn"][1]
    assert stated not in found["anew"] and found["anew"][0] != found["anew"][1]


def test_one_task_needs_no_brackets(tmp_path: Path) -> None:
    """A word for several is one too: glue, all."""
    file = tmp_path / "sweep.yaml"
    for tasks in ("glue", "[glue]"):
        file.write_text(f"tasks: {tasks}\ncheckpoints: [0]\ngrid: [{{methods: [ROME], modes: [Instance-Sequential]}}]")
        assert [command(cell) for cell in cells(hparams.load(Sweep, file))] == ["python test-task.py glue"]


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
    assert [cell.edit for cell in cells(less)] == [None]  # the unedited model


def test_a_dry_run_prints_the_commands_and_what_is_left_out(tmp_path: Path) -> None:
    grid = "[{methods: [KN], modes: [Instance-Sequential], checkpoints: [2, 400]}]"
    (tmp_path / "grid.yaml").write_text(f"{{data: data/sample, tasks: [NER], grid: {grid}}}")
    words = [sys.executable, "sweep.py", tmp_path / "grid.yaml", "--dry-run"]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    flags = "--data data/sample"
    assert run.stdout.splitlines() == [
        f"python test-task.py NER {flags}",
        f"python test-task-after.py NER Instance-Sequential KN 200 202 1 {flags}",
    ]
    assert run.stderr == "data/sample/edited-data/zsre.json: has 513 records; left out, from 200 on: 400 edits\n"


def test_other_facts_than_zsres(tmp_path: Path) -> None:
    grid = "[{methods: [KN], modes: [Instance-Sequential], checkpoints: [2, 400]}]"
    facts = "edits: counterfact, edit_format: counterfact, begin: 0"
    (tmp_path / "grid.yaml").write_text(f"{{data: data/sample, tasks: [NER], {facts}, grid: {grid}}}")
    words = [sys.executable, "sweep.py", tmp_path / "grid.yaml", "--dry-run"]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[1] == (
        "python test-task-after.py NER Instance-Sequential KN 0 2 1 --edits counterfact --edit-format counterfact "
        "--data data/sample"
    )
    assert run.stderr == "data/sample/edited-data/counterfact.json: has 200 records; left out, from 0 on: 400 edits\n"


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


def ended(events: Iterator[str | Outcome]) -> list[Outcome]:
    return [event for event in events if isinstance(event, Outcome)]


def cell(model: Path, results: Path, edit: EditRequest | None = None, task: str = "NLI") -> Experiment:
    place = Placement(device="cpu")
    data = Path("data/sample")
    return Experiment(tasks=(task,), model=str(model), edit=edit, data=data, limit=2, placement=place, results=results)


def rome(folder: Path, **more: Any) -> EditRequest:
    (folder / "rome.yaml").write_text(ROME_YAML)
    asked: dict[str, Any] = {"method": "ROME", "mode": "Instance-Sequential", "begin": 0, "end": 2}
    return EditRequest(hparams=folder / "rome.yaml", **{**asked, **more})


def test_one_cell_that_fails_does_not_stop_the_others(tiny_folder: Path, tmp_path: Path) -> None:
    todo = [
        cell(tiny_folder, tmp_path / "a"),
        cell(tiny_folder, tmp_path, task="spam"),
        cell(tiny_folder, tmp_path / "b"),
    ]
    outcomes = ended(local.local(todo))
    assert [outcome.made for outcome in outcomes] == [1, 0, 1]
    assert [outcome.error and outcome.error.split(";")[0] for outcome in outcomes] == [
        None,
        "unknown task 'spam'",
        None,
    ]


@pytest.mark.slow
def test_two_workers_make_what_one_makes(tiny_folder: Path, tmp_path: Path) -> None:
    """Real processes; what they print comes out whole, without bars, and a cell that fails is one line."""
    made = {}
    for workers in (1, 2):
        out = tmp_path / str(workers)
        todo = [cell(tiny_folder, out), cell(tiny_folder, out, rome(tmp_path)), cell(tiny_folder, out, task="spam")]
        events = list(local.local(todo, workers))
        outcomes = ended(iter(events))
        assert sorted(outcome.made for outcome in outcomes) == [0, 1, 1]
        assert [o.error.split(";")[0] for o in outcomes if o.error] == ["unknown task 'spam'"]
        made[workers] = {path.name: path.read_bytes() for path in out.rglob("result-*.jsonl") if path.is_file()}
        shown = "\n".join(event for event in events if isinstance(event, str))
        assert shown.count("records from data/sample/task-data/test-NLI.tsv") == 2 and "\r" not in shown
    assert len(made[1]) == 2 and made[1] == made[2]


DEADLY = """
import os, signal

class Deadly:
    name, file, max_new_tokens, choices = "deadly", "test-NLI.tsv", 1, ()

    def samples(self, data):
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out

TASK = Deadly()
"""


@pytest.mark.slow
def test_a_killed_worker_is_a_line_and_the_other_cells_go_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugins/tasks").mkdir(parents=True)
    (tmp_path / "plugins/tasks/__init__.py").write_text("")
    (tmp_path / "plugins/tasks/deadly.py").write_text(DEADLY)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "plugins")])  # a worker has it too
    todo = [cell(tiny_folder, tmp_path / name, task="deadly" if name == "b" else "NLI") for name in "ab"]
    events = list(local.local(todo, 2))
    outcomes = {outcome.cell.results.name: outcome for outcome in ended(iter(events))}
    assert {name: (outcome.made, outcome.error) for name, outcome in outcomes.items()} == {
        **{"a": (1, None), "b": (0, local.KILLED)}
    }
    assert any("at work when a worker was killed" in event for event in events if isinstance(event, str))


def test_a_worker_has_one_model_for_all_cells(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two methods, two regularisers, three numbers of edits and the unedited model: loaded, hashed and measured once.

    And every cell gives what it gives on a model of its own.
    """
    calls: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((models, "load"), (models, "hash_folder"), (lm_model, "hash_folder"), (_templates, "sample")):
        counted(owner, name)
    (tmp_path / "kn.yaml").write_text("{steps: 2, batch_size: 2, adaptive_threshold: 0.2}")
    edits = [
        replace(rome(tmp_path, end=3, checkpoints=(1, 2)), regularizer=name, keep=keep, **more)
        for more in ({"hparams": rome_drawn(tmp_path)}, {"method": "KN", "hparams": tmp_path / "kn.yaml"})
        for name, keep in (("none", None), ("random", 0.4))
    ]
    todo = [cell(tiny_folder, tmp_path / "one", edit) for edit in (None, *edits)]
    assert [outcome.made for outcome in ended(local.local(todo))] == [1, 3, 3, 3, 3]
    assert calls == {"load": 1, "hash_folder": 1, "sample": 1}
    for edit in edits:
        ended(local.local([cell(tiny_folder, tmp_path / "each", edit)]))
    each = contents(tmp_path / "each")
    assert len(each) == 24 and {name: contents(tmp_path / "one")[name] for name in each} == each


def rome_drawn(folder: Path) -> Path:
    """ROME's settings with context templates that are drawn from the model."""
    given = {**ROME_SETTINGS, "context_templates": None, "context_template_length_params": [[3, 1]]}
    (folder / "drawn.yaml").write_text(json.dumps(given))
    return folder / "drawn.yaml"


def contents(folder: Path) -> dict[str, str]:
    """Result files by name, without their times."""
    files = (path for path in folder.rglob("result-*") if path.is_file())
    return {path.name: TIMES.sub("", path.read_text(encoding="utf-8")) for path in files}


@pytest.mark.slow
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
    words = [sys.executable, str(project(tmp_path) / "sweep.py"), "grid.yaml", "--workers", "2"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": untraced()}
    process = subprocess.Popen(words, cwd=tmp_path, text=True, **pipes)  # type: ignore[call-overload]
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "grid: [{methods: [ROME], modes: [x], regularizers: ['rect 40%']}]",
            "a share as in 'rect 0.4', found 'rect 40%'",
        ),
        ("{tasks: [], grid: [{methods: [ROME], modes: [x]}]}", "tasks: expected at least one"),
    ],
)
def test_what_a_file_cannot_ask_for(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        hparams.load(Sweep, path)


def test_a_flag_in_the_place_of_the_files_value_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep.py", str(ROOT / "configs/smoke.yaml"), "--repeats", "-1"])
    with pytest.raises(UserError, match="repeats: expected 0 or more"):
        cli.sweep()
