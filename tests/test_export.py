"""experiment.export: an edited model on the disk is whole, says what made it, and is never mistaken for another."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from core.errors import UserError
from core.lm.model import LM
from experiment.export import NOTE, export, exported

SETTINGS = {"seed": 0, "edit": {"method": "ROME", "range": [0, 4, 1]}}
NOTED = {"settings": SETTINGS, "refused": [], "environment": {"commit": None}}


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny("gpt2")


def test_a_folder_is_saved_once(lm: LM, tmp_path: Path) -> None:
    target = tmp_path / "a" / "edited"
    assert not exported(target, SETTINGS) and list(tmp_path.iterdir()) == []
    export(lm, target, NOTED)
    assert exported(target, SETTINGS)
    assert [path.name for path in target.parent.iterdir()] == ["edited"]
    assert json.loads((target / NOTE).read_text()) == NOTED
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    export(lm, target, NOTED)
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == before


def test_a_folder_saved_before_the_tokenizer_was_recorded_is_known(lm: LM, tmp_path: Path) -> None:
    model = {"name": "m", "sha256": "a", "dtype": "float32"}
    export(lm, tmp_path / "edited", {**NOTED, "settings": {**SETTINGS, "model": model}})
    assert exported(tmp_path / "edited", {**SETTINGS, "model": {**model, "tokenizer": "b"}})


def test_what_is_not_this_model_is_refused(lm: LM, tmp_path: Path) -> None:
    export(lm, tmp_path / "edited", NOTED)
    other = {**SETTINGS, "seed": 1}
    for attempt in (
        lambda: exported(tmp_path / "edited", other),
        lambda: export(lm, tmp_path / "edited", {"settings": other}),
    ):
        with pytest.raises(UserError, match=r"edited with other settings \(seed: 0, now 1\); name a new folder"):
            attempt()
    for number, text in enumerate((None, "", "[]", "{}", "\0", "[" * 100_000)):
        folder = tmp_path / f"folder-{number}"
        folder.mkdir()
        if text is not None:
            (folder / NOTE).write_text(text)
        with pytest.raises(UserError, match="exists already; name a new folder or move it away"):
            exported(folder, SETTINGS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists already"):
        exported(tmp_path / "file", SETTINGS)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("bug")])
def test_a_folder_is_whole_or_not_there(
    error: BaseException, lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        export(lm, tmp_path / "edited", NOTED)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_attempts_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".edited-k3_5d5gb" / "edited").mkdir(parents=True)
    (tmp_path / ".edited-k3_5d5gb" / "edited" / "config.json").write_text("{")
    (tmp_path / ".edited.lock").write_text("")
    assert not exported(tmp_path / "edited", SETTINGS)
    assert list(tmp_path.iterdir()) == []
