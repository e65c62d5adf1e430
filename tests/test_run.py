"""Runs that edit: edits accumulate from checkpoint to checkpoint, are made once, and outlive an interruption."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny_settings import ROME_YAML

from core.lm import generate
from core.lm.model import LM
from core.metrics import MEASURES
from core.registry import discover
from core.results import EditRecord, Result, read, read_samples
from core.script import script
from core.types import Deltas, Edit, Measure, Notes, Task
from edit_sets.zsre import EDIT_SET
from editors.rome import ROME
from experiment import cli, models, show
from experiment.asked import EditRequest, Experiment, Placement
from experiment.measures import collapse
from experiment.models import Model, Models
from experiment.plan import Plan, Wanted, resolve
from experiment.quality import Probe
from experiment.run import Edited, Made, run

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
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.json*") if path.is_file()}
    return {name: re.sub(r'"seconds": (\{[^}]*\}|[-+.\de]+)', "", text) for name, text in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        (),
        ("--regularizer", "random", "--keep", 0.5),
        ("--regularizer", "rect:keep=0.5,feedback=true"),
        ("--regularizer", "prune:variant=linear"),  # of what is scored alone: the edits go on without it
    ],
    ids=["none", "random", "feedback", "prune"],
)
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


@pytest.mark.slow
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
    assert line.startswith("interrupted: ")
    assert line.endswith("; the same command goes on from there" if kept else "; the same command starts again")
    assert all(part in line for part in kept) if kept else "nothing is done yet" in line
    assert call("out", *words) == (0, "")
    assert made == [*range(200, 200 + stop), -1, *range(200 + stop, 205)]
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert [path for path in (tmp_path / "out").rglob("*") if path.name.startswith((".", "unfinished"))] == []


def test_a_run_that_goes_on_asks_the_unedited_model_about_new_edits_alone(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real, ask = ROME.deltas, models.probe

    def probed(lm: LM, edits: Sequence[Edit]) -> list[Probe]:
        asked.extend(edit.index for edit in edits)
        return ask(lm, edits)

    def deltas(self: ROME, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        if edits[0].index == 202:
            raise KeyboardInterrupt
        return real(self, edits)

    assert call("whole", *SEQUENCE, 200, 204, 1) == (0, "")
    monkeypatch.setattr(models, "probe", probed)
    with monkeypatch.context() as stopped:
        stopped.setattr(ROME, "deltas", deltas)
        assert call("out", *SEQUENCE, 200, 203, 1)[0] == 130
    assert asked == [200, 201, 202]
    with monkeypatch.context() as changed:
        changed.setattr("experiment.run.code", lambda: "another")
        shutil.copytree(tmp_path / "out", tmp_path / "again")
        assert call("again", *SEQUENCE, 200, 204, 1) == (0, "")  # begins anew
    assert asked == [200, 201, 202, 200, 201, 202, 203]
    assert call("out", *SEQUENCE, 200, 204, 1) == (0, "")
    assert asked == [200, 201, 202, 200, 201, 202, 203, 203]
    for folder in ("out", "again"):
        assert files(tmp_path / folder).items() >= files(tmp_path / "whole").items()


def test_an_interrupted_evaluation_keeps_its_completions(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("NER", *SEQUENCE[1:], 200, 201, 1, "--batch-tokens", 1)
    calls: list[Any] = []
    assert call("whole", *words) == (0, "")
    real: Any = generate._continued

    def continued(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(generate, "_continued", continued)
    code, line = call("out", *words)
    (found,) = re.findall(r"(\d) of 8 completions of NER; the same command goes on from there", line)
    assert code == 130 and 0 < int(found) < 8
    calls.clear()
    monkeypatch.setattr(generate, "_continued", real)
    assert call("out", *words) == (0, "")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_run_stops_where_the_model_has_collapsed_if_it_is_to(
    call: Call, made: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every task; and the same command does not go on from there."""
    broken = {"NLI": 1, "NER": 3}  # numbers of edits

    def reason(task: Task, result: Result, vocabulary: int) -> str | None:
        assert result.settings["edit"] and vocabulary > 100
        begin, end, _ = result.settings["edit"]["range"]
        return "it is" if end - begin >= broken[task.name] else None

    monkeypatch.setattr(collapse, "reason", reason)
    model = tmp_path / "model"
    words = ("NLI,NER", *SEQUENCE[1:], 200, 205, 1, "--checkpoints", "1,3,4", "--save-model", model)
    for again in (False, True):
        assert call("out", *words, "--stop-when-collapsed") == (0, "")
        assert made == [200, 201, 202] and not model.exists()
        found = {path.name: read(path).collapsed for path in (tmp_path / "out").rglob("result-*.json")}
        ends = {
            f"result-{task}-Instance-Sequential-ROME-{n}.json": n >= broken[task] for task in broken for n in (1, 3)
        }
        assert {name: bool(why) for name, why in found.items()} == ends, again
    assert call("out", *words) == (0, "")  # without the flag it goes on
    assert len(list((tmp_path / "out").rglob("result-*.json"))) == 8 and model.is_dir()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), {"text_logprob", "reference_logprob", "choice_probability", "drift"}),
        (("--measures", "text_logprob"), {"text_logprob"}),
        (("--measures", "None"), set()),
    ],
)
def test_what_is_measured(call: Call, tmp_path: Path, words: tuple[str, ...], names: set[str]) -> None:
    assert call("out", *SEQUENCE, 200, 202, 1, *words) == (0, "")
    (file,) = (tmp_path / "out").rglob("result-*.json")
    assert {*read(file).metrics} & {*MEASURES} == names
    for _, completion, _ in read_samples(file.with_suffix(".jsonl")):
        assert {*completion.measures} == names
    assert ((tmp_path / "out/tiny-gpt2/expected").exists()) == ("drift" in names)


def test_measures_that_there_are_not(call: Call) -> None:
    code, line = call("out", *SEQUENCE, 200, 202, 1, "--measures", "drft")
    assert code == 2 and "did you mean 'drift'" in line
    code, line = call("out", *SEQUENCE, 200, 202, 1, "--measures", "drift,none")
    assert (code, line) == (2, "error: --measures: none goes with no other word")


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


def test_other_facts(call: Call, made: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name or file one result; several prompts and CounterFact's scores are in it, also after an interruption."""
    words = (*SEQUENCE, 0, 2, 1)
    assert call("out", *words, "--edits", "CounterFact") == (0, "")
    (file,) = (tmp_path / "out").rglob("*ROME-2.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    assert not {"format", "target"} & result["settings"]["edit"].keys()
    assert {"reliability", "ES", "PS", "NS", "EM", "PM", "NM", "ES_PS_NS_score"} <= result["quality"]["after"].keys()
    first = result["edits"][0]
    assert len(first["more_rephrases"]) == 1 and len(first["own"]["compared"]["neighbourhood"]) >= 4
    made.clear()
    assert call("out", *words, "--edits", SAMPLE / "edited-data/counterfact.json") == (0, "")
    assert made == []
    real = ROME.deltas

    def deltas(self: ROME, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        if edits[0].index == 1:
            raise KeyboardInterrupt
        return real(self, edits)

    with monkeypatch.context() as patch:
        patch.setattr(ROME, "deltas", deltas)
        assert call("again", *words, "--edits", "counterfact")[0] == 130
    assert call("again", *words, "--edits", "counterfact") == (0, "")
    assert made == [0, 1] and files(tmp_path / "again") == files(tmp_path / "out")


def test_the_reading_of_a_file_is_a_setting(call: Call, tmp_path: Path) -> None:
    """The usual one is not written down: results of older versions do not say it."""
    assert call("out", *SEQUENCE, 0, 1, 1) == (0, "")
    assert call("out", *SEQUENCE, 0, 1, 1, "--target", "alt") == (0, "")
    code, line = call("out", *SEQUENCE, 0, 1, 1, "--target", "answers")
    assert code == 2 and "made with other settings (edit.target: None, now 'answers.0')" in line
    assert call("answers", *SEQUENCE, 0, 1, 1, "--target", "answers", "--edit-format", "zsre") == (0, "")
    (file,) = (tmp_path / "answers").rglob("*ROME-1.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    assert {k: result["settings"]["edit"][k] for k in ("format", "target")} == {"format": "zsre", "target": "answers.0"}
    facts = json.loads((SAMPLE / "edited-data/zsre.json").read_text(encoding="utf-8"))
    assert result["edits"][0]["target"] == facts[0]["answers"][0] != facts[0]["alt"]
    code, line = call("out", "NLI", "Batch-Single", "MEMIT", 0, 1, 1, "--edits", "qaedit", "--target", "answers")
    assert (code, line) == (2, "error: --target answers: a record of qaedit has one new answer, 'target'")


def shown(tmp_path: Path, task: str = "NLI", edits: int = 0, **more: Any) -> list[str]:
    """The lines about a result of four samples."""
    metrics = {name: Measure(0.25, 0.0, 0.5) for name in ("accuracy", "answered", "as_released", "trivial", "f1_PER")}
    given: dict[str, Any] = {
        **{"task": task, "headline": "accuracy", "metrics": metrics, "n": 4, "completions": 4, "truncated": 0},
        **{"degenerate": {}, "published": None, "settings": {"edit": None}, "environment": {}, "seconds": {}},
    }
    result = Result(**{**given, **more})
    wanted = Wanted(discover("tasks", "TASK")[task], edits, tmp_path / "test-NLI/result-NLI", result.settings)
    return show.scores("NLI: 4 records", Made(wanted, result, new=True)).splitlines()


def test_a_terminal_shows_a_result_in_short(tmp_path: Path) -> None:
    """The headline and how to read it; what a published score is compared with, where there is one."""
    lines = shown(tmp_path)
    assert lines[:2] == ["", "NLI: 4 records"]
    assert lines[3].split() == ["accuracy", "0.250", "[0.000,", "0.500]", "4"]
    assert [line.split()[0] for line in lines[3:6]] == ["accuracy", "answered", "trivial"]
    paths = [f"-> {tmp_path}/test-NLI/result-NLI.{ending}" for ending in ("json", "jsonl")]
    assert lines[6:] == ["2 more: --all-metrics, or the .json file", *paths]
    published = {"as_released": [0.518], "read_to": 0.005, "same_data": True}
    lines = shown(tmp_path, published=published)
    assert [line.split()[0] for line in lines[3:7]] == ["accuracy", "answered", "as_released", "trivial"]
    assert lines[8] == "published (as_released): 0.518 (read off a figure to ±0.005)"


def test_a_terminal_says_that_a_model_has_collapsed(tmp_path: Path) -> None:
    """Before any edit nothing has collapsed: there it is degenerate."""
    counts = {"empty": 3, "repeating": 0, "not_finite": 2}
    assert "degenerate: 3 of 4 completions are empty" in shown(tmp_path, degenerate=counts)
    edit = {"edit": {"draw": None}}
    told = shown(tmp_path, edits=1, degenerate=counts, settings=edit, collapsed="why it is")
    assert {"degenerate: 3 of 4 completions are empty", "collapsed: why it is"} < {*told}


def test_a_terminal_says_that_no_label_could_be_read(tmp_path: Path) -> None:
    zero, half = Measure(0.0, 0.0, 0.0), Measure(0.5, 0.2, 0.8)
    metrics = {"accuracy": zero, "answered": zero, "choice_accuracy": half}
    line = "no completion could be read as a label (its format, not its ability): see choice_accuracy"
    assert line in shown(tmp_path, metrics=metrics)
    assert line not in shown(tmp_path, metrics={**metrics, "answered": half})


def test_a_terminal_shows_how_edits_took(tmp_path: Path) -> None:
    """Edit quality before the scores, and weights that have changed by more than half their norm."""
    quality = {stage: {"reliability": Measure(0.25, 0.0, 0.5)} for stage in ("before", "own", "after")}
    change = {"a": {"norm": 0.88, "weight": 1.0}, "b": {"norm": 0.5, "weight": 1.0}}
    record = EditRecord(quality=quality, change=change, updates=[{}])
    plan = Plan(Experiment(), Model("m", tmp_path, ""), tmp_path, {}, {}, None, ())
    lines = show.text(Edited(2, record), plan).splitlines()
    assert lines[1] == "edit quality: 2 edits in 1 update"
    assert lines[-1] == "large change: a by 88% of its norm"


def test_the_score_before_the_edits_stands_beside_the_one_after(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a paired test of the difference; also for drawn edits, whose results have a folder of their own."""
    monkeypatch.chdir(tmp_path)
    models, common = Models(), {"tasks": ("NLI",), "model": str(tiny_folder), "data": SAMPLE, "limit": 4}
    request = EditRequest(method="ROME", mode="Instance-Sequential", begin=200, end=201, hparams=tmp_path / "rome.yaml")
    request.hparams.write_text(ROME_YAML)  # type: ignore[union-attr]
    texts = []
    for edit in (request, None, request, replace(request, draw=3)):
        plan = resolve(Experiment(**common, edit=edit, placement=Placement(device="cpu")), models)  # type: ignore[arg-type]
        texts.append([show.text(event, plan) for event in run(plan, models)][-1])
    line = re.compile(r"NLI accuracy \d\.\d{3} -> \d\.\d{3} \(4 records; (not shown to differ|differs by .*)\)")
    assert [bool(line.search(text)) for text in texts] == [False, False, True, True]
