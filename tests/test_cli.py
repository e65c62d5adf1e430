"""The two scripts, in this process with a tiny model, and a few times as real commands.

What a run leaves behind, what it refuses, and that a refusal is one line and exit code 2.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, tiny
from tiny_settings import ROME_YAML, TARGET, corpus
from transformers import AutoModelForCausalLM, AutoTokenizer

import tasks
from analysis import collect
from core import folders
from core.lm.load import load
from core.registry import discover
from core.script import script
from experiment import cli, course, models
from experiment.asked import task_names
from inputs import sources
from tasks import EIGHT, SIX

TASKS, EDITORS = discover("tasks", "TASK"), discover("editors", "EDITOR")
SAMPLE = ROOT / "data/sample"


@dataclass
class Run:
    """What a script did: its exit code, stdout, and the lines of stderr that are no progress bar."""

    code: int
    out: str
    err: list[str]


def lines(err: str) -> list[str]:
    parts = err.replace("\x1b[A", "").replace("\r", "\n").split("\n")
    return [part for part in parts if part.strip() and not ("%|" in part or "it/s]" in part)]


Call = Callable[..., Run]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_folder: Path
) -> Call:
    """test-task.py (or, with a mode, test-task-after.py) with the tiny model and the sample data."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "rome.yaml").write_text(ROME_YAML)

    def run(*words: object, after: bool = False, given: bool = True) -> Run:
        name = "test-task-after.py" if after else "test-task.py"
        common = [
            "--model",
            tiny_folder,
            "--data",
            SAMPLE,
            "--limit",
            3,
            "--device",
            "cpu",
            "--results",
            tmp_path / "out",
        ]
        if after:
            common += ["--hparams", tmp_path / "rome.yaml"]
        chosen = [pair for pair in zip(common[::2], common[1::2], strict=True) if pair[0] not in words]
        arguments = [*words, *(word for pair in chosen for word in pair)] if given else words
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            script(cli.test_task_after if after else cli.test_task)
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return Run(code, out, lines(err))

    return run


def result(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return found


def samples(folder: Path, name: str) -> list[dict[str, Any]]:
    text = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


# --- before an edit ------------------------------------------------------------------------------------------------


def test_words_are_read_kindly(call: Call, tmp_path: Path) -> None:
    """A task named twice counts once, blanks around commas and a case that differs are forgiven."""
    run = call("NLI, nli ,NLI", "instance-sequential", "rome", 0, 1, 1, "--keep", 0.4, after=True)
    assert run.code == 0
    assert run.err == ["--keep 0.4 changes nothing: it is the share that a --regularizer keeps"]
    (file,) = (tmp_path / "out").rglob("*.json")
    assert file.name == "result-NLI-Instance-Sequential-ROME-1.json"
    assert call("nli", "Instance-Sequential", "ROME", 0, 1, 1, "--regularizer", "RECT", after=True).err == []
    assert (file.parent / "result-NLI-Instance-Sequential-ROME-RECT40-1.json").is_file()


def test_all_means_the_eight(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A further plug-in is in the help and can be named, but is not part of `all`, for which it may have no data."""
    plugin = tmp_path / "more/tasks"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("")
    (plugin / "ninth.py").write_text(
        "from tasks.nli import NLI\nclass Ninth(NLI):\n    name, file = 'ninth', 'test-ninth.tsv'\nTASK = Ninth()\n"
    )
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(plugin)])
    assert "ninth" in call("--help", given=False).out
    assert [name.lower() for name in task_names(("all",))] == sorted(name.lower() for name in EIGHT)
    refused(call("ninth"), r".*test-ninth.tsv: no such file; --data names .*")


def test_own_facts(call: Call, tmp_path: Path) -> None:
    """A file of facts, of any edit set's format; or a data folder that holds them alone."""
    facts = json.loads((SAMPLE / "edited-data/zsre.json").read_text(encoding="utf-8"))[100:102]
    (tmp_path / "mine/edited-data").mkdir(parents=True)
    for file in (tmp_path / "facts.json", tmp_path / "mine/edited-data/zsre.json"):
        file.write_text(json.dumps(facts))
    assert call("NLI", *ROME, 0, 2, 1, "--edits", tmp_path / "facts.json", after=True).err == []
    name = "result-NLI-Instance-Sequential-ROME-2"
    found = result(tmp_path / "out/tiny-gpt2/test-NLI", name)
    assert [edit["target"] for edit in found["edits"]] == [fact["alt"] for fact in facts]
    assert found["settings"]["edit"]["data"]["kind"] == "custom"
    run = call("NLI", *ROME, 0, 2, 1, "--data", tmp_path / "mine", "--results", tmp_path / "two", after=True)
    (line,) = run.err
    assert line.startswith(f"{tmp_path}/mine/task-data/test-NLI.tsv: not there, data/")
    assert result(tmp_path / "two/tiny-gpt2/test-NLI", name)["edits"] == found["edits"]
    refused(call("NLI", "--data", tmp_path), r".*/task-data/test-NLI.tsv: no such file; --data names .*")


def test_another_range_of_as_many_edits_is_kept_beside_the_first(call: Call, tmp_path: Path) -> None:
    for words in ((200, 202, 1), (202, 204, 1), (200, 206, 3), (200, 202, 1)):
        assert call("NLI", *ROME, *words, after=True).code == 0
    run = call("NLI", *ROME, 202, 204, 1, after=True)
    assert "already there" in run.out and "ROME-2@202.json" in run.out
    folder = tmp_path / "out/tiny-gpt2/test-NLI"
    stem = "result-NLI-Instance-Sequential-ROME-2"
    names = {f"{stem}{end}" for end in ("", "@202", "@200+3")}
    assert {path.stem for path in folder.glob("*.json")} == names
    runs, copies = collect.read_all(tmp_path / "out")
    assert (len({run.repeat for run in runs}), len({run.edit for run in runs}), copies) == (3, 1, 0)


def test_the_same_data_at_another_path_are_the_same_settings(call: Call, own_data: Path, tmp_path: Path) -> None:
    for path, said in ((SAMPLE, "3 records"), (own_data, "already there, made with the same settings")):
        assert said in call("NLI", *ROME, 0, 1, 1, "--data", path, after=True).out
    path = own_data / "task-data/test-NLI.tsv"
    path.write_text(path.read_text(encoding="utf-8") + "x\ta\tb\tentailment\n", encoding="utf-8")
    (line,) = call("NLI", *ROME, 0, 1, 1, "--data", own_data, after=True).err
    assert "data.sha256" in line and "data.path" not in line


def test_a_model_without_settings(call: Call, tmp_path: Path, tiny_folder: Path) -> None:
    run = call("NLI", *ROME, 0, 1, 1, "--model", tiny_folder, "--data", SAMPLE, given=False, after=True)
    command = f"`python prepare.py suggest-hparams --model {tiny_folder} --method ROME`"
    refused(run, rf"hparams/ROME/tiny-gpt2.yaml: no settings of ROME .*{re.escape(command)}.*")


@pytest.mark.slow
def test_from_another_directory(tmp_path: Path, tiny_folder: Path) -> None:
    """Folders are the project's; results go to where one is; and what is asked for is the same there and here."""
    words = ("NLI", "--model", tiny_folder, "--limit", 2, "--device", "cpu")
    arguments = [sys.executable, str(ROOT / "test-task.py"), *map(str, words)]
    run = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert (run.returncode, lines(run.stderr)) == (0, [])
    found = result(tmp_path / "test-result/tiny-gpt2/test-NLI", "result-NLI-before-edit")
    assert not Path(found["settings"]["data"]["path"]).is_absolute()
    assert [path.name for path in tmp_path.iterdir()] == ["test-result"]


def test_all_eight_tasks(call: Call, tmp_path: Path) -> None:
    run = call("all")
    assert (run.code, run.err) == (0, [])
    for name in EIGHT:
        task, folder = TASKS[name], tmp_path / "out/tiny-gpt2" / f"test-{name}"
        found = result(folder, f"result-{name}-before-edit")
        assert found["headline"] == next(iter(found["metrics"]))
        for metric in (found["headline"], "trivial", "answered"):
            measure = found["metrics"][metric]
            assert 0 <= measure["low"] <= measure["value"] <= measure["high"] <= 1
        assert ("choice_accuracy" in found["metrics"]) == bool(task.choices)
        assert found["n"] == 3
        assert (
            found["completions"] == len(samples(folder, f"result-{name}-before-edit")) == (12 if name == "NER" else 3)
        )
        assert set(found["seconds"]) == {"load", "score"}
        assert found["settings"]["data"]["kind"] == "custom"
        assert len(found["settings"]["data"]["sha256"]) == len(found["settings"]["model"]["sha256"]) == 64
        assert found["environment"]["torch"] == torch.__version__
        assert found["environment"]["batch_tokens"] == 4096
        assert sorted(p.name for p in folder.iterdir()) == [f"result-{name}-before-edit.{e}" for e in ("json", "jsonl")]
        assert f"-> {folder}/result-{name}-before-edit.json\n" in run.out
        assert f"\n{found['headline']} " in run.out


def test_sample_lines_and_the_token_budget(call: Call, tmp_path: Path) -> None:
    call("NLI")
    folder = tmp_path / "out/tiny-gpt2/test-NLI"
    first = samples(folder, "result-NLI-before-edit")
    wanted = [s for s in TASKS["NLI"].samples(SAMPLE / "task-data/test-NLI.tsv")][:3]
    assert [(line["id"], line["prompt"]) for line in first] == [(s.id, s.prompt) for s in wanted]
    assert all(line["choice"] in ("True", "False") for line in first)
    assert call("NLI", "--batch-tokens", 1, "--overwrite").code == 0
    for one, other in zip(samples(folder, "result-NLI-before-edit"), first, strict=True):
        assert one.pop("measures") == pytest.approx(other.pop("measures"), abs=1e-4)
        assert one == other


def test_a_result_without_measures_says_so(call: Call) -> None:
    """Which were measured is no setting: nothing is made again unless it is asked for."""
    call("NLI", "--measures", "none")
    for words, said in (((), True), (("--measures", "none"), False)):
        again = call("NLI", *words)
        assert "already there" in again.out
        assert ("not all measures are in it, which --overwrite changes" in again.out) == said
    assert "not all measures" not in call("NLI", "--overwrite").out + call("NLI").out


def test_an_existing_result_is_reported_not_redone(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = call("NLI")
    path = tmp_path / "out/tiny-gpt2/test-NLI/result-NLI-before-edit.json"
    stamp = path.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded the model"))
        again = call("NLI")
    assert again.code == 0
    assert "already there, made with the same settings" in again.out
    table = first.out[first.out.index("metric") :]
    assert again.out.endswith(table)
    assert path.stat().st_mtime_ns == stamp
    refused = call("NLI", "--seed", 1)
    assert refused.code == 2
    (line,) = refused.err
    assert line.startswith(f"error: {path} was made with other settings (seed: 0, now 1)")
    assert path.stat().st_mtime_ns == stamp
    assert call("NLI", "--seed", 1, "--overwrite").code == 0
    assert json.loads(path.read_text())["settings"]["seed"] == 1


def test_the_default_model(call: Call, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gpt2-xl where it is; else the embedded one, made on the spot and said so. Neither has a folder of its own."""
    cache, common = tmp_path / "cache", ("--data", SAMPLE, "--limit", 2, "--results", tmp_path / "out")
    monkeypatch.setattr(folders, "MODELS", cache)
    monkeypatch.setattr(sources, "prepare_embedded", lambda folder: shutil.copytree(tiny_folder, folder))
    run = call("NLI", *common, given=False)
    assert run.code == 0
    (notice,) = run.err
    assert "gpt2-xl is not in" in notice
    assert "smollm2-135m" in notice
    assert result(tmp_path / "out/test-NLI", "result-NLI-before-edit")["settings"]["model"]["name"] == "smollm2-135m"
    shutil.copytree(tiny_folder, cache / "gpt2-xl")
    run = call("NLI", *common, "--overwrite", given=False)
    assert (run.code, run.err) == (0, [])
    assert result(tmp_path / "out/test-NLI", "result-NLI-before-edit")["settings"]["model"]["name"] == "gpt2-xl"
    run = call("NLI", *common, "--model", "smollm2-135m", given=False)
    assert run.code == 0
    assert (tmp_path / "out/smollm2-135m/test-NLI/result-NLI-before-edit.json").is_file()


# --- after edits ---------------------------------------------------------------------------------------------------


def test_instance_sequential(call: Call, tmp_path: Path) -> None:
    run = call("NLI", "Instance-Sequential", "ROME", 200, 204, 1, after=True)
    assert (run.code, run.err) == (0, [])
    folder = tmp_path / "out/tiny-gpt2/test-NLI"
    found = result(folder, "result-NLI-Instance-Sequential-ROME-4")
    assert [update["edits"] for update in found["updates"]] == [[200], [201], [202], [203]]
    for update in found["updates"]:
        (norm,) = update["norms"].values()
        assert norm > 0
        assert update["notes"]["layer 1"]["forwards"] == TARGET["v_num_grad_steps"]
    zsre = json.loads((SAMPLE / "edited-data/zsre.json").read_text(encoding="utf-8"))
    assert [edit["target"] for edit in found["edits"]] == [record["alt"] for record in zsre[200:204]]
    assert set(found["quality"]) == {"before", "own", "after"}
    assert set(found["quality"]["after"]) >= {"reliability", "generalisation", "locality", "locality_tokens"}
    assert found["settings"]["edit"]["range"] == [200, 204, 1]
    assert found["settings"]["edit"]["hparams"]["v_lr"] == 0.5
    assert set(found["seconds"]) == {"load", "prepare", "probe before", "expect", "edit", "probe after", "score"}
    assert len(samples(folder, "result-NLI-Instance-Sequential-ROME-4")) == 3
    assert "edit quality: 4 edits in 4 updates" in run.out
    again = call("NLI", "Instance-Sequential", "ROME", 200, 204, 1, after=True)
    assert "already there, made with the same settings" in again.out


def test_all_tasks_after_one_round_of_editing(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, deltas = [], EDITORS["ROME"].deltas
    monkeypatch.setattr(EDITORS["ROME"], "deltas", lambda self, edits: made.append(edits) or deltas(self, edits))
    assert call("all", "Instance-Sequential", "ROME", 0, 2, 1, "--limit", 1, after=True).code == 0
    assert len(made) == 2
    for name in EIGHT:
        path = tmp_path / f"out/tiny-gpt2/test-{name}/result-{name}-Instance-Sequential-ROME-2.json"
        assert path.is_file()


def test_the_six_glue_tasks_before_and_after_an_edit(call: Call, tmp_path: Path) -> None:
    """Like any others: result files, measures, the comparison with what was before."""
    assert call("glue", "--limit", 2).code == 0
    run = call("glue", "Instance-Sequential", "ROME", 0, 1, 1, "--limit", 2, after=True)
    assert run.code == 0
    for name in SIX:
        folder = tmp_path / f"out/tiny-gpt2/test-{name}"
        for one in ("before-edit", "Instance-Sequential-ROME-1"):
            found = result(folder, f"result-{name}-{one}")
            assert {"f1", "mcc", "as_released", "choice_probability", "text_logprob", "drift"} <= {*found["metrics"]}
            assert found["n"] == found["completions"] == len(samples(folder, f"result-{name}-{one}")) == 2
        assert re.search(rf"^{name} accuracy [0-9.]+ -> [0-9.]+ \(2 records", run.out, re.MULTILINE)


def test_a_regulariser_is_in_the_name(call: Call, tmp_path: Path) -> None:
    norms = {}
    flags_of: dict[str, tuple[object, ...]] = {
        "ROME": (),
        "ROME-RECT40": ("--regularizer", "rect"),
        "ROME-PCA12.5": ("--regularizer", "pca", "--keep", 0.125),
    }
    for name, flags in flags_of.items():
        assert call("NLI", "Instance-Sequential", "ROME", 0, 1, 1, *flags, after=True).code == 0
        found = result(tmp_path / "out/tiny-gpt2/test-NLI", f"result-NLI-Instance-Sequential-{name}-1")
        (norms[name],) = found["updates"][0]["norms"].values()
    assert 0 < norms["ROME-RECT40"] < norms["ROME"]
    assert norms["ROME-PCA12.5"] == pytest.approx(norms["ROME"], rel=1e-4)  # a rank-one update stays as it is


def test_batches(call: Call, tmp_path: Path) -> None:
    settings = {**TARGET, **corpus(tmp_path), "layers": [1], "mom2_adjustment": True, "mom2_update_weight": 10}
    (tmp_path / "memit.yaml").write_text(yaml.safe_dump(settings))
    flags = ("--hparams", tmp_path / "memit.yaml")
    assert call("NLI", "Batch-Sequential", "MEMIT", 0, 5, 1, 2, *flags, after=True).code == 0
    assert call("NLI", "Batch-Single", "MEMIT", 0, 5, 2, *flags, after=True).code == 0
    folder = tmp_path / "out/tiny-gpt2/test-NLI"
    found = result(folder, "result-NLI-Batch-Sequential-MEMIT-2*3")
    assert [update["edits"] for update in found["updates"]] == [[0, 1], [2, 3], [4]]
    found = result(folder, "result-NLI-Batch-Single-MEMIT-3")
    assert [update["edits"] for update in found["updates"]] == [[0, 2, 4]]


def test_the_saved_model_is_the_edited_one(
    call: Call, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, export, ids = [], course.export, torch.arange(40).view(2, 20)

    def spy(lm: Any, folder: Path, note: Any) -> None:
        seen.append(lm.model(ids).logits)
        export(lm, folder, note)

    monkeypatch.setattr(course, "export", spy)
    run = call("NLI", "Instance-Sequential", "ROME", 0, 2, 1, "--save-model", tmp_path / "edited", after=True)
    assert (run.code, run.err) == (0, [])
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    assert torch.equal(reloaded(ids).logits, seen[0])
    original = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert not torch.allclose(original(ids).logits, seen[0], atol=1e-3)
    changed = [n for n, p in original.named_parameters() if not torch.equal(p, reloaded.get_parameter(n))]
    assert changed == ["transformer.h.1.mlp.c_proj.weight"]
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (tiny_folder, tmp_path / "edited")]
    assert tokenizers[0]("Anna Bell is")["input_ids"] == tokenizers[1]("Anna Bell is")["input_ids"]
    assert f"edited model -> {tmp_path / 'edited'}" in run.out
    assert call("NLI", "--model", tmp_path / "edited").code == 0  # and our own scripts take it
    # An existing result does not keep the model from being saved; an existing folder is refused before any work.
    assert call("NLI", "Instance-Sequential", "ROME", 0, 2, 1, "--save-model", tmp_path / "more", after=True).code == 0
    assert (tmp_path / "more/model.safetensors").read_bytes() == (tmp_path / "edited/model.safetensors").read_bytes()
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded the model"))
    again = call("NLI", "Instance-Sequential", "ROME", 0, 2, 1, "--save-model", tmp_path / "edited", after=True)
    assert (again.code, again.err) == (0, [])
    other = call("NLI", "Instance-Sequential", "ROME", 0, 3, 1, "--save-model", tmp_path / "edited", after=True)
    assert other.code == 2
    assert other.err == [
        f"error: {tmp_path / 'edited'} holds a model edited with other settings "
        "(edit.range: [0, 2, 1], now [0, 3, 1]); name a new folder"
    ]


# --- what is refused -----------------------------------------------------------------------------------------------

ROME = ("Instance-Sequential", "ROME")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nerr",), r"unknown task 'nerr': did you mean 'NER'\?; known: .*"),
        (("xyzzy",), r"unknown task 'xyzzy'; known: .*"),
        (("NLI", "--model", "../main"), r"no model '../main': neither .*"),
        ((), r"the following arguments are required: TASK; .*--help.*"),
        (("NLI", "extra"), r"unrecognized arguments: extra; .*"),
        (("NLI", "--limit", "0"), r"argument --limit: expected 1 or more, got 0; .*"),
        (("NLI", "--limit", "x"), r"argument --limit: expected 1 or more, got x; .*"),
        (("NLI", "--dtype", "float8"), r"argument --dtype: invalid choice: 'float8' .*"),
        (("NLI", "--model", "gpt5"), r"no model 'gpt5': neither .*"),
        (("NLI", "--data", "/nowhere"), r"/nowhere/task-data/test-NLI.tsv: no such file; --data names .*"),
        (("NLI", "--device", "toaster"), r"cannot load the model at .* onto toaster: .*"),
        (
            ("NLI", "--results", "README.md/x"),
            r"cannot write results to README.md/x.*: Not a directory; --results .*",
        ),
    ],
)
def test_bad_words(call: Call, words: tuple[str, ...], message: str) -> None:
    refused(call(*words), message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("NLJ", *ROME, 0, 1, 1), r"unknown task 'NLJ': did you mean 'NLI'\?.*"),
        (("NLI", "Instance", "ROME", 0, 1, 1), r"unknown mode 'Instance': did you mean 'Instance-Sequential'\?.*"),
        (("NLI", "Instance-Sequential", "rom", 0, 1, 1), r"unknown method 'rom': did you mean 'ROME'\?; known: .*"),
        (
            ("NLI", "Batch-Single", "ROME", 0, 1, 1),
            r"ROME does not run in mode Batch-Single; its modes: Instance-.*",
        ),
        (("NLI", *ROME[:1], "MEMIT", 0, 1, 1), r"MEMIT does not run in mode .*; its modes: Batch-Single, Batch-Seq.*"),
        (("NLI", "Batch-Sequential", "MEMIT", 0, 4, 1), r"Batch-Sequential needs a BATCH_SIZE"),
        (("NLI", *ROME, 0, 4, 1, 2), r"Instance-Sequential takes no BATCH_SIZE"),
        (("NLI", "Batch-Sequential", "MEMIT", 0, 4, 1, 0), r"argument BATCH_SIZE: expected 1 or more, got 0.*"),
        (("NLI", *ROME, 4, 0, 1), r"swapped or empty range: SAMPLE_BEGIN 4 is not below SAMPLE_END 0 .*"),
        (("NLI", *ROME, 4, 4, 1), r"swapped or empty range.*"),
        (("NLI", *ROME, 0, 4, 0), r"SAMPLE_STEP: expected 1 or more, got 0"),
        (("NLI", *ROME, -4, 4, 1), r"SAMPLE_BEGIN: expected 0 or more, got -4"),
        (("NLI", *ROME, 0, 100000, 1), r".*zsre.json: has \d+ records, SAMPLE_END can be \d+ at most, got 100000"),
        (("NLI", *ROME, 0, "four", 1), r"argument SAMPLE_END: invalid int value: 'four'.*"),
        (("NLI", *ROME, 0, 4), r"the following arguments are required: SAMPLE_STEP.*"),
        (
            ("NLI", *ROME, 0, 4, 1, "--checkpoints", "2,5"),
            r"--checkpoints: no update ends at 5 edits; they end at 1, 2, 3, 4",
        ),
        (("NLI,NER,nlj", *ROME, 0, 4, 1), r"unknown task .nlj.: did you mean .NLI.\?.*"),
        (
            ("NLI", *ROME, 0, 1, 1, "--regularizer", "rect", "--keep", "40"),
            r"regularizer rect: keep: expected a share in \(0, 1\], found 40: did you mean 0.4\?",
        ),
        (
            ("NLI", *ROME, 0, 1, 1, "--regulariser", "rect"),
            r"unknown flag --regulariser: did you mean '--regularizer'\?.*",
        ),
        (("--regularise=rect", "NLI", *ROME, 0, 1, 1), r"unknown flag --regularise: did you mean '--regularizer'\?.*"),
        (
            ("NLI", *ROME[::-1], 0, 4, 1, "--seed", 3),
            r"MODE comes before METHOD: python test-task-after.py NLI .* --seed 3.*",
        ),
        (("NLI", *ROME, 0, 4, 1, "--edits", "no.json"), r"no.json: no such file"),
        (("NLI", *ROME, 0, 1, 1, "--regularizer", "rekt"), r"unknown regularizer 'rekt': did you mean 'rect'\?.*"),
        (
            ("NLI", *ROME, 0, 1, 1, "--regularizer", "pca", "--keep", "1.5"),
            r"regularizer pca: keep: expected a share in \(0, 1\], found 1.5",
        ),
        (
            ("NLI", *ROME, 0, 1, 1, "--regularizer", "rect", "--keep", "nan"),
            r"regularizer rect: keep: expected float, found nan",
        ),
        (("NLI", *ROME, 0, 1, 1, "--keep", "half"), r"argument --keep: invalid float value: 'half'.*"),
        (("NLI", *ROME, 0, 1, 1, "--hparams", "no.yaml"), r"no.yaml: cannot read the settings: No such file .*"),
        (
            ("NLI", *ROME, 0, 1, 1, "--hparams", "hparams/ROME/gpt2-xl.yaml"),
            r"layers: 17: 'tiny-gpt2' has layers 0 to 3; .*",
        ),
    ],
)
def test_bad_edits(call: Call, words: tuple[object, ...], message: str) -> None:
    refused(call(*words, after=True), message)


def refused(run: Run, message: str) -> None:
    assert run.code == 2
    (line,) = run.err
    assert re.fullmatch(f"error: {message}", line), line
    assert run.out == ""


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(edit(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"no model '.*': neither .*"),
        (lambda f: (f / "config.json").write_text("{"), r"cannot read the model at .*: .*not a valid JSON file.*"),
        (lambda f: change(f / "config.json", lambda c: {**c, "n_layer": "four"}), r"cannot read the model at .*"),
        (
            lambda f: change(f / "config.json", lambda c: {**c, "model_type": "bloom"}),
            r"model '.*' is of family 'bloom'.*",
        ),
        (
            lambda f: change(f / "config.json", lambda c: {**c, "n_layer": 5}),
            r"the model at .* does not fit its config.*",
        ),
        (
            lambda f: change(f / "config.json", lambda c: {**c, "n_embd": 64}),
            r"the model at .* does not fit its config.*",
        ),
        (lambda f: (f / "model.safetensors").unlink(), r"cannot load the model at .*"),
        (lambda f: (f / "model.safetensors").write_bytes(b"cut off"), r"cannot load the model at .*"),
        (lambda f: os.truncate(f / "model.safetensors", 5000), r"cannot load the model at .*"),
        (lambda f: [p.unlink() for p in f.glob("token*")], r"the model at .* has no tokenizer: .*"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), r"cannot read the tokenizer of the model at .*"),
    ],
    ids=[
        "none",
        "json",
        "config",
        "family",
        "layers",
        "width",
        "weights",
        "garbage",
        "cut",
        "no tokenizer",
        "tokenizer",
    ],
)
def test_bad_models(call: Call, tmp_path: Path, tiny_folder: Path, break_it: Any, message: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    break_it(folder)
    refused(call("NLI", "--model", folder), message)


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("task-data/test-NLI.tsv", "edited-data/zsre.json"):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(SAMPLE / name, folder / name)
    return folder


def test_bad_task_data(call: Call, own_data: Path) -> None:
    path = own_data / "task-data/test-NLI.tsv"
    path.write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tmaybe\n")
    refused(call("NLI", "--data", own_data), rf"{path}:3: expected a label among .*, got 'maybe'")
    path.write_text("index\tsentence1\tsentence2\tlabel\n0\ta\n")
    refused(call("NLI", "--data", own_data), rf"{path}:2: expected 4 tab-separated columns, got 2")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("subject", "Somebody Else", r".*zsre.json: record 1: expected the subject 'Somebody Else' in 'src' .*"),
        ("alt", " ", r".*zsre.json: record 1: expected a new answer in 'alt', it is empty"),
        ("src", None, r".*zsre.json: record 1: expected a string in 'src', got None"),
    ],
)
def test_bad_edit_data(call: Call, own_data: Path, key: str, value: Any, message: str) -> None:
    change(own_data / "edited-data/zsre.json", lambda records: [records[0], {**records[1], key: value}])
    refused(call("NLI", *ROME, 0, 2, 1, "--data", own_data, after=True), message)
    (own_data / "edited-data/zsre.json").write_text('[\n{"a": 1},\n{')
    refused(call("NLI", *ROME, 0, 2, 1, "--data", own_data, after=True), r".*zsre.json:3: expected JSON .*")


def test_an_over_long_edit(call: Call, own_data: Path) -> None:
    def lengthen(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [records[0], {**records[1], "src": "word " * 150 + records[1]["src"]}]

    change(own_data / "edited-data/zsre.json", lengthen)
    run = call("NLI", *ROME, 0, 2, 1, "--data", own_data, after=True)
    refused(run, r"edit 1: \d+ tokens long with its template and target, but 'tiny-gpt2' takes 128")


def test_an_over_long_task_prompt_is_cut_and_counted(call: Call, own_data: Path, tmp_path: Path) -> None:
    long = "word " * 300
    text = f"index\tsentence1\tsentence2\tlabel\n0\t{long}\tb\tentailment\n1\ta\tb\tnot_entailment\n"
    (own_data / "task-data/test-NLI.tsv").write_text(text)
    assert call("NLI", "--data", own_data).code == 0
    folder = tmp_path / "out/tiny-gpt2/test-NLI"
    assert result(folder, "result-NLI-before-edit")["truncated"] == 1
    assert [line["truncated"] for line in samples(folder, "result-NLI-before-edit")] == [True, False]


def test_no_room_for_results(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known before the model is loaded where it can be; and a result that cannot be kept leaves no half of it."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", full)
        patch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded the model"))
        refused(call("NLI"), r"cannot write results to .*: No space left on device; --results DIR names another place")
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: full() if "result-" in str(new) else real(old, new))
    run = call("NLI")
    assert run.code == 2
    assert run.err == [
        f"error: cannot write {tmp_path}/out/tiny-gpt2/test-NLI/result-NLI-before-edit.jsonl: No space left on device; "
        "--results DIR names another place"
    ]
    kept = list((tmp_path / "out/tiny-gpt2/test-NLI").iterdir())  # for the next try
    assert [file.name for file in kept] == [".result-NLI-before-edit.journal"]


def test_one_prompt_alone_may_be_too_much(call: Call, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    lm = tiny("gpt2")

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("as if")

    monkeypatch.setattr(lm.model.base_model, "forward", out_of_memory)
    monkeypatch.setattr(models, "load", lambda *_, **__: lm)
    refused(call("NLI"), r"NLI: one prompt alone does not fit in memory; try --dtype bfloat16")


def test_other_exceptions_are_bugs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS["NLI"].__class__, "score", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("NLI")


def test_half_precision(call: Call, tmp_path: Path) -> None:
    run = call("NLI", *ROME, 0, 1, 1, "--dtype", "bfloat16", "--save-model", tmp_path / "edited", after=True)
    assert run.code == 0
    assert load(tmp_path / "edited", "edited", "cpu", "bfloat16").model.dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype="auto").dtype == torch.bfloat16


# --- as commands ---------------------------------------------------------------------------------------------------


def command(*words: object) -> Run:
    """One of the real scripts."""
    arguments = [sys.executable, *map(str, words)]
    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    return Run(run.returncode, run.stdout, lines(run.stderr))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("test-task.py", "NERR"), r"unknown task 'NERR': did you mean 'NER'\?; known: .*"),
        (("test-task-after.py", "NER", "Batch-Single", "ROME", 0, 1, 1), r"ROME does not run in mode .*"),
        (("test-task-after.py", "NER", *ROME, 0, 1, 1, "--regularizer", "rekt"), r"unknown regularizer 'rekt': did .*"),
        (("test-task-after.py", "NER", *ROME, 0, 9999, 1), r".*zsre.json: has \d+ records.*"),
        (("test-task-after.py", "NER", *ROME, 0, 1, 1, "--model", "no-model"), r"no model 'no-model'.*"),
    ],
)
def test_a_mistake_is_said_in_under_a_second(words: tuple[object, ...], message: str) -> None:
    """Of processor time, in one of three tries: a crowded machine takes longer. No torch is imported."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        refused(command(*words), message)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds() < 1 for _ in range(3))


def test_commands_from_end_to_end(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "rome.yaml").write_text(ROME_YAML)
    common = ("--model", tiny_folder, "--limit", 2, "--results", tmp_path / "out", "--device", "cpu")
    run = command(
        "test-task-after.py", "NER", *ROME, 200, 204, 1, "--hparams", tmp_path / "rome.yaml", "--data", SAMPLE, *common
    )
    assert (run.code, run.err) == (0, [])
    folder = tmp_path / "out/tiny-gpt2/test-NER"
    found = result(folder, "result-NER-Instance-Sequential-ROME-4")
    assert (found["n"], found["completions"], found["headline"]) == (2, 8, "f1")
    assert len(found["updates"]) == 4
    assert len(samples(folder, "result-NER-Instance-Sequential-ROME-4")) == 8
    paths = [f"-> {folder}/result-NER-Instance-Sequential-ROME-4.{ending}" for ending in ("json", "jsonl")]
    assert run.out.splitlines()[-2:] == paths
