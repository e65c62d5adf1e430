"""sweep.py --estimate: what is counted, what is timed, and that nothing is made."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from tiny_settings import ROME_YAML

from experiment import cli
from experiment.estimate import Paces, spoken


def grid(folder: Path, tiny_folder: Path) -> Path:
    (folder / "rome.yaml").write_text(ROME_YAML)
    block = {"methods": ["ROME"], "modes": ["Instance-Sequential"], "regularizers": ["none", "rect 0.4"]}
    config: dict[str, Any] = {
        "tasks": ["NLI", "NER"],
        "limit": 3,
        "begin": 0,
        "checkpoints": [0, 1, 4],
        "device": "cpu",
    }
    config |= {
        "device": "cpu",
        "models": [str(tiny_folder)],
        "data": str(ROOT / "data/sample"),
        "results": str(folder / "out"),
    }
    (folder / "grid.yaml").write_text(
        yaml.safe_dump(config | {"grid": [block | {"hparams": str(folder / "rome.yaml")}]})
    )
    return folder / "grid.yaml"


def said(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["sweep.py", str(file), *flags])
    cli.sweep()
    return capsys.readouterr().out.splitlines()


def test_the_sum_by_hand(tiny_folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Two tasks of 3 and 12 samples (an NER record is four) at 5 places, and 4 edits twice; what is there is free."""
    monkeypatch.setattr(Paces, "sample", lambda self, plan, bench, task: 60.0)
    monkeypatch.setattr(Paces, "edit", lambda self, plan, bench, schedule: 600.0)
    file = grid(tmp_path, tiny_folder)
    assert said(file, monkeypatch, capsys, "--estimate") == [
        f"10 results to make, 8 updates: about {spoken(5 * 15 * 60 + 8 * 600)} here, one cell after the other"
    ]
    said(file, monkeypatch, capsys)
    assert said(file, monkeypatch, capsys, "--estimate")[0].startswith("0 results to make, 0 updates: about 0 minutes")


def test_a_little_of_everything_is_timed_once(tiny_folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    first, *paces = said(grid(tmp_path, tiny_folder), monkeypatch, capsys, "--estimate")
    assert re.fullmatch(r"10 results to make, 8 updates: about \d minutes? here, one cell after the other", first)
    assert [re.sub(r"^ +\d+\.\d\d s ", "", line) for line in paces] == [
        "a sample of NLI",
        "a sample of NER",
        "an edit of ROME, 1 an update",
    ]
    assert not list((tmp_path / "out").rglob("result-*"))


@pytest.mark.parametrize(("seconds", "words"), [(1, "1 minute"), (7100, "119 minutes"), (12600, "3.5 hours")])
def test_as_one_says_it(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
