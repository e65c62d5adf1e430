"""core.results: the names, whole files or none, and what happens to an older result."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny_settings import ROME_YAML

from analysis.collect import read_all
from core import provenance
from core.errors import UserError
from core.lm.model import TOKENIZER, hash_files, hash_folder
from core.metrics import MEASURES, summarize
from core.provenance import environment
from core.registry import discover
from core.results import (
    EditPlan,
    EditRecord,
    Result,
    existing,
    read,
    read_samples,
    recorded,
    same,
    stem,
    table,
    writable,
    write,
)
from core.types import Completion, Measure, Sample, Score
from experiment.asked import EditRequest, Experiment
from experiment.models import Models
from experiment.plan import resolve
from experiment.run import existing as plan_existing

DATA = Path(__file__).parent / "data/3b7a9da"
SETTINGS = {"task": "NER", "seed": 0, "edit": {"mode": "x", "range": [0, 4, 1]}}
EDITED = EditRecord(
    quality={"after": {"probability": Measure(math.nan, math.nan, math.nan), "reliability": Measure(0.5, 0.0, 1.0)}},
    change={"w": {"norm": 3.0, "weight": 30.0}},
    refused=[{"edits": [1], "reason": "x"}],
    updates=[{"edits": [0], "norms": {"w": 3.0}}],
    edits=[{"prompt": "P", "own": {"success": True}}],
)
RESULT = Result(
    task="NER",
    headline="f1",
    metrics={"f1": Measure(0.5, 0.25, 1.0), "trivial": Measure(0.0, 0.0, 0.0)},
    n=1,
    completions=2,
    truncated=1,
    degenerate={"empty": 1, "repeating": 0, "not_finite": 0},
    published={"as_released": [0.4], "read_to": 0.01, "same_data": False},
    edited=EDITED,
    settings=SETTINGS,
    environment={"device": "cpu"},
    seconds={"score": 1.5},
)
SCORED = [
    (
        Sample("1", "é\u2028\nQ", ["A"]),
        Completion(" A", "A", True, ended=True, full=" A</s>"),
        Score(1.0, "A", {"strict": 0.5}),
    ),
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
    write(path, RESULT, SCORED)
    assert sorted(p.name for p in path.parent.iterdir()) == ["result-NER.json", "result-NER.jsonl"]
    assert (path.parent / "result-NER.json").read_text(encoding="utf-8") == RESULT.to_json()
    lines = (path.parent / "result-NER.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == [
        {
            **{"id": "1", "prompt": "é\u2028\nQ", "completion": " A", "choice": "A", "truncated": True},
            **{"ended": True, "full": " A</s>"},
            **{"answer": "A", "reference": ["A"], "score": 1.0, "parts": {"strict": 0.5}},
        },
        {
            **{"id": "2", "prompt": "Q", "completion": "", "choice": None, "truncated": False},
            **{"ended": False, "full": None},
            **{"answer": "", "reference": None, "score": None, "parts": {}},
        },
    ]


def as_made(result: Result | None) -> bool:
    """Equal but for NaN, which equals nothing."""
    return repr(result) == repr(RESULT)


def test_the_samples_come_back(tmp_path: Path) -> None:
    write(tmp_path / "r", RESULT, SCORED)
    assert read_samples(tmp_path / "r.jsonl") == SCORED


def test_older_samples_do_not_know_how_a_completion_ended(tmp_path: Path) -> None:
    line = {"id": "1", "prompt": "Q", "completion": " A", "choice": None, "truncated": False}
    line |= {"answer": "A", "reference": "A", "score": 1.0, "parts": {}}
    (tmp_path / "r.jsonl").write_text(json.dumps(line))
    ((_, completion, _),) = read_samples(tmp_path / "r.jsonl")
    assert completion == Completion(" A", None, False, ended=None) and completion.seen == " A"


@pytest.mark.parametrize("line", ["{}", "[]", "null", '{"id": 1}', '{"id": "1", "prompt"', "\udcff", "[" * 9000])
def test_what_are_no_samples(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.jsonl").write_text(line, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match="not the samples of a result") as error:
        read_samples(tmp_path / "r.jsonl")
    assert str(error.value).startswith(f"{tmp_path / 'r.jsonl'}: ") and "\n" not in str(error.value)


# --- the text of a .json -------------------------------------------------------------------------------------------


def test_a_result_comes_back() -> None:
    text = RESULT.to_json()
    assert Result.from_json(text, "x").to_json() == text
    assert as_made(Result.from_json(text, "x"))
    unedited = replace(RESULT, edited=None, settings={**SETTINGS, "edit": None})
    assert Result.from_json(unedited.to_json(), "x") == unedited
    keys = ["format", "task", "headline", "metrics", "n", "completions", "truncated", "degenerate", "published"]
    assert json.loads(replace(RESULT, collapsed="it is").to_json())["collapsed"] == "it is"
    edited, ending = ["quality", "change", "refused", "updates", "edits"], ["settings", "environment", "seconds"]
    assert list(json.loads(text)) == keys + edited + ending
    assert list(json.loads(unedited.to_json())) == keys + ending


@pytest.mark.parametrize("name", ["result-NLI-before-edit", "result-NLI-Instance-Sequential-ROME-2"])
def test_a_file_of_before_the_format_had_a_number(name: str) -> None:
    """Made by the scripts at 3b7a9da. Written anew it is the same to the byte, but for the new key."""
    file = DATA / f"{name}.json"
    old = file.read_text(encoding="utf-8")
    result = read(file)
    assert (result.edited is None) == ("before" in name)
    assert result.to_json() == old.replace("{\n", '{\n "format": 1,\n', 1)
    assert existing(DATA / name, json.loads(old)["settings"], False) == result
    assert {s.record: score.value for s, _, score in read_samples(DATA / f"{name}.jsonl")}
    measured = summarize(discover("tasks", "TASK")["NLI"], read_samples(DATA / f"{name}.jsonl"))
    assert measured == result.metrics


@pytest.mark.parametrize("method", ["ROME", "MEMIT", "KN"])
@pytest.mark.parametrize(
    ("hparams", "differing"),
    [
        ({"context_templates": None}, "edit.hparams.context_templates: 'drawn as of old', now None"),
        ({"context_templates": ["{}"], "key": "mean"}, "edit.hparams.key: 'mean, of keys alone', now 'mean'"),
        ({"context_templates": ["{}"], "key": "prompt"}, ""),
        ({"layers": [1]}, ""),
    ],
)
def test_what_an_older_version_understood_by_the_same_words(
    hparams: dict[str, Any], differing: str, method: str, tmp_path: Path
) -> None:
    """Its results are those of other settings; results that note their templates are of now."""
    content = json.loads((DATA / "result-NLI-Instance-Sequential-ROME-2.json").read_text(encoding="utf-8"))
    content["settings"]["edit"] |= {"method": method, "hparams": hparams}
    file, settings = tmp_path / "r.json", content["settings"]
    for notes in ({"layer 1": {}}, {"context_templates": ["{}"]}):
        content["updates"][0]["notes"] = notes
        file.write_text(json.dumps(content), encoding="utf-8")
        if differing and "layer 1" in notes and method != "KN":
            with pytest.raises(UserError, match=re.escape(f"other settings ({differing})")) as error:
                existing(tmp_path / "r", settings, False)
            assert len(str(error.value).splitlines()) == 1
        else:
            assert existing(tmp_path / "r", settings, False) == read(file)
            assert read(file).settings == settings


def test_the_edited_one_is_valid_too_and_the_report_reads_both(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if hash_folder(tiny_folder) != read(DATA / "result-NLI-before-edit.json").settings["model"]["sha256"]:
        pytest.skip("other versions of torch or transformers make another tiny model")
    (tmp_path / "rome.yaml").write_text(ROME_YAML)
    request = EditRequest(method="ROME", mode="Instance-Sequential", begin=0, end=2, hparams=tmp_path / "rome.yaml")
    asked = Experiment(tasks=("NLI",), model=str(tiny_folder), edit=request, data=Path("data/sample"), limit=3)
    plan = resolve(replace(asked, results=tmp_path), Models())
    shutil.copytree(DATA, plan.root / "test-NLI")
    assert [result.task for result in plan_existing(plan).values()] == ["NLI"]
    assert sorted(run.edits for run in read_all(DATA)[0]) == [0, 2]


@pytest.mark.slow
def test_the_scripts_know_it_and_make_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    """Found, it is shown; made anew, it says more (`as_released`, `ended`, measures) and names its own environment."""
    name = "result-NLI-before-edit"
    old = read(DATA / f"{name}.json")
    if hash_folder(tiny_folder) != old.settings["model"]["sha256"]:
        pytest.skip("other versions of torch or transformers make another tiny model")
    place = tmp_path / "tiny-gpt2/test-NLI"
    place.mkdir(parents=True)
    for file in DATA.glob(f"{name}.*"):
        shutil.copy(file, place)
    command = [sys.executable, "test-task.py", "NLI", "--model", tiny_folder, "--data", "data/sample"]
    command += ["--limit", "3", "--device", "cpu", "--results", tmp_path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "made with the same settings" in run.stdout and "0.667" in run.stdout
    assert (place / f"{name}.json").read_bytes() == (DATA / f"{name}.json").read_bytes()
    subprocess.run([*command, "--overwrite"], cwd=ROOT, capture_output=True, check=True)
    new = read(place / f"{name}.json")
    model = new.settings["model"]
    assert model["tokenizer"] == hash_files(tiny_folder, *TOKENIZER)
    assert model["generation_config"] == hash_files(tiny_folder, "generation_config.json")
    settings = {**new.settings, "model": {key: model[key] for key in old.settings["model"]}}
    metrics = {metric: new.metrics[metric] for metric in old.metrics}
    rest = {"environment": old.environment, "seconds": old.seconds, "settings": settings, "metrics": metrics}
    assert replace(new, **rest) == old
    assert [*new.metrics] == [*old.metrics, "as_released", *(name for name in MEASURES if "best" not in name)]
    lines = zip(read_samples(place / f"{name}.jsonl"), read_samples(DATA / f"{name}.jsonl"), strict=True)
    for (sample, completion, score), (old_sample, old_completion, old_score) in lines:
        assert (sample, completion.text, score.value) == (old_sample, old_completion.text, old_score.value)
        assert old_score.parts.items() <= score.parts.items() and completion.ended is not None


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ({"format": 2}, "its format is 2, this version reads 1"),
        ({"headline": "f2"}, "its headline, 'f2', is not among its metrics"),
        ({"metrics": {"f1": {"value": 0, "low": 0, "high": math.inf}}}, "metric 'f1' is not a number"),
        ({"metrics": {"f1": {"value": 0, "low": 0}}}, "it has no 'high'"),
        ({"n": "many"}, "invalid literal"),
        ({"settings": []}, "expected an object"),
        ({"environment": None}, "expected an object"),
        ({"degenerate": 1}, "no attribute"),
        ({"quality": {"own": 1}}, "no attribute"),
    ],
)
def test_a_malformed_result(harm: dict[str, Any], reason: str) -> None:
    text = json.dumps({**json.loads(RESULT.to_json()), **harm})
    with pytest.raises(UserError) as error:
        Result.from_json(text, "place")
    assert str(error.value).startswith("place: not a result file of this project (") and "\n" not in str(error.value)
    assert reason in str(error.value)


MODEL = {"name": "m", "sha256": "a", "dtype": "float32", "tokenizer": "b", "generation_config": None}


@pytest.mark.parametrize(
    ("old", "differing"),
    [
        ({}, None),
        ({"tokenizer": ..., "generation_config": ...}, None),  # not recorded then
        ({"generation_config": ...}, None),
        ({"tokenizer": "c"}, "model.tokenizer: 'c', now 'b'"),
        ({"generation_config": "c"}, "model.generation_config: 'c', now None"),
        ({"tokenizer": ..., "generation_config": ..., "dtype": "float16"}, "model.dtype: 'float16', now 'float32'"),
        ({"tokenizer": ..., "dtype": "float16"}, "model.dtype: 'float16', now 'float32'"),
        ({"more": 1}, "model.more: 1, now None"),
    ],
)
def test_what_older_settings_of_a_model_lack_is_not_compared(
    old: dict[str, Any], differing: str | None, tmp_path: Path
) -> None:
    settings = {**RESULT.settings, "model": MODEL}
    before = {key: value for key, value in {**MODEL, **old}.items() if value is not ...}
    result = replace(RESULT, settings={**settings, "model": before})
    write(tmp_path / "r", result, SCORED)
    if differing is None:
        assert existing(tmp_path / "r", settings, False) == read(tmp_path / "r.json")
        return
    with pytest.raises(UserError, match=re.escape(f"was made with other settings ({differing}); use --overwrite")):
        existing(tmp_path / "r", settings, False)


@pytest.mark.parametrize("old", [None, [], "x", {}, {"model": None}, {"model": ["name"]}])
def test_older_settings_that_have_no_model_are_compared_as_they_are(old: Any) -> None:
    assert recorded({"model": MODEL, "seed": 0}, old) == {"model": MODEL, "seed": 0}


def test_a_dot_in_a_name_is_no_ending(tmp_path: Path) -> None:
    write(tmp_path / "ROME-RECT12.5", RESULT, SCORED)
    assert (tmp_path / "ROME-RECT12.5.json").is_file()
    assert as_made(existing(tmp_path / "ROME-RECT12.5", SETTINGS, False))


# --- an older result -----------------------------------------------------------------------------------------------


def test_existing(tmp_path: Path) -> None:
    path = tmp_path / "r"
    assert existing(path, SETTINGS, False) is None
    write(path, RESULT, SCORED)
    assert as_made(existing(path, SETTINGS, False))
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
    path, moves, move = tmp_path / "r", [], os.replace

    def fails(source: Any, target: Any) -> None:
        moves.append(target)
        if len(moves) == failing:
            raise OSError(5, "Input/output error")
        move(source, target)

    for older in (False, True):
        if older:
            write(path, replace(RESULT, seconds={"older": 1.0}), SCORED[:1])
        moves.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fails)
            with pytest.raises(UserError, match=r"cannot write .*: Input/output error; --results DIR"):
                write(path, RESULT, SCORED)
        assert len(moves) == failing
        assert not (tmp_path / "r.json").exists()
        assert {p.name for p in tmp_path.iterdir()} <= {"r.jsonl"}  # no temporary file


def test_no_room_leaves_the_older_result_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r"
    write(path, RESULT, SCORED[:1])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_text = Path.write_text

    def full(self: Path, text: str, **more: Any) -> int:
        if self.suffix == ".json":
            write_text(self, text[:10], **more)
            raise OSError(28, "No space left on device")
        return write_text(self, text, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        write(path, replace(RESULT, seconds={"newer": 1.0}), SCORED)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write results to .*--results DIR"):
        writable(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "file" / "r", RESULT, SCORED)
    writable(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []


# --- tables, environment ----------------------------------------------------------------------------------


def test_table() -> None:
    text = table({"f1": Measure(0.5, 0.25, 1.0), "trivial": Measure(0.125, 0.0, 0.5)}, 48)
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

    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    assert environment("cpu") | {"commit": None, "dirty": False} == environment("cpu")


def test_the_code_has_a_hash(tmp_path: Path) -> None:
    """Of every package's sources and of nothing else; it is computed once in a process."""
    (tmp_path / "core/lm").mkdir(parents=True)
    (tmp_path / "core/lm/model.py").write_text("x = 1\n")
    first = provenance.code(tmp_path)
    for name, text in (("core/lm/model.pyc", "x"), ("notes.py", "x")):
        (tmp_path / name).write_text(text)
    assert provenance.code.__wrapped__(tmp_path) == first == provenance.code(tmp_path)
    (tmp_path / "core/lm/model.py").write_text("x = 2\n")
    assert provenance.code.__wrapped__(tmp_path) not in (first, provenance.code())


def test_where_data_lay_is_no_setting() -> None:
    """Their hash and kind are; a path without a hash is a setting like any other."""
    data = {"path": "a/b", "kind": "custom", "sha256": "01"}
    settings: dict[str, Any] = {"data": data, "edit": {"data": data, "hparams": {"path": "x"}}}
    moved = {**data, "path": "elsewhere"}
    assert same(settings, {"data": moved, "edit": {**settings["edit"], "data": moved}})
    for changed in ({**data, "kind": "sample"}, {**data, "sha256": "02"}):
        assert not same(settings, {**settings, "data": changed})
    assert not same(settings, {**settings, "edit": {**settings["edit"], "hparams": {"path": "y"}}})
