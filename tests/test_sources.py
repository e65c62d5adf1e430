"""inputs.sources: which folder a name means, what it is called, and what to do about a folder that is no model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, settle

from core import folders
from core.errors import UserError
from inputs.sources import find_model

LOOK = """
import os, sys
from inputs.sources import find_data, settings_file
from core import folders
if len(sys.argv) > 1:
    os.chdir(sys.argv[1])
source, file = find_data("task-data/test-NLI.tsv", None), settings_file("ROME", "gpt2-xl")
print(source.path.is_file(), file.is_file(), source.describe()["path"], folders.shortened(str(file)), sep="|")
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settle(tmp_path, monkeypatch)
    return tmp_path


def put(file: str, text: str = "{}") -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path.parent


def refusal(given: str) -> str:
    with pytest.raises(UserError) as caught:
        find_model(given)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_name_or_a_path(place: Path) -> None:
    put("hugging_cache/m/config.json")
    put("n/config.json")
    assert find_model("m") == ("m", folders.MODELS / "m")
    put("x/y.txt")
    for given in ("n", "./n", "n/", str(place / "n"), "x/../n"):
        name, folder = find_model(given)
        assert name == "n" and folder.samefile("n")


def test_a_link_is_called_by_its_own_name(place: Path) -> None:
    """Settings are looked up, and results named, by it; snapshots of the hub's cache are called by a hash."""
    put("cache/models--org--gpt2-xl/snapshots/0123abcd/config.json")
    (place / "gpt2-xl").symlink_to("cache/models--org--gpt2-xl/snapshots/0123abcd")
    for given in ("gpt2-xl", "./gpt2-xl/", str(place / "gpt2-xl")):
        assert find_model(given)[0] == "gpt2-xl"


@pytest.mark.parametrize("where", ["", "hugging_cache/"])
def test_an_adapter(where: str) -> None:
    put(f"{where}lora/adapter_config.json")
    message = refusal("lora")
    assert message.startswith(f"{where}lora is an adapter and no model: merge it into its base model first")
    assert "merge_and_unload" in message


@pytest.mark.parametrize("where", ["", "hugging_cache/"])
def test_a_training_run(where: str) -> None:
    for step in (500, 1000, 9):
        put(f"{where}run/checkpoint-{step}/config.json")
    put(f"{where}run/checkpoint-1000/generation_config.json")
    message = refusal("run")
    assert message == (
        f"{where}run is a training run and no model: --model {where}run/checkpoint-1000 names its last checkpoint"
    )
    assert find_model(message.split("--model ")[1].split()[0])[0] == "checkpoint-1000"


def test_a_training_run_of_adapters() -> None:
    put("run/checkpoint-500/adapter_config.json")
    assert "--model run/checkpoint-500 names" in refusal("run")
    assert "run/checkpoint-500 is an adapter and no model" in refusal("run/checkpoint-500")


@pytest.mark.parametrize("where", ["", "hugging_cache/", "elsewhere/hub/"])
def test_a_folder_of_the_hubs_cache(where: str, place: Path) -> None:
    put(f"{where}models--org--tiny-gpt2/snapshots/0123abcd/config.json")
    put(f"{where}models--org--tiny-gpt2/refs/main", "0123abcd")
    given = "models--org--tiny-gpt2" if where != "elsewhere/hub/" else f"{where}models--org--tiny-gpt2"
    message = refusal(given)
    snapshot = place / f"{where}models--org--tiny-gpt2/snapshots/0123abcd"
    assert f"`ln -s {snapshot} hugging_cache/tiny-gpt2`, then --model tiny-gpt2" in message
    folders.MODELS.mkdir(exist_ok=True)
    (folders.MODELS / "tiny-gpt2").symlink_to(snapshot)
    assert find_model("tiny-gpt2") == ("tiny-gpt2", folders.MODELS / "tiny-gpt2")


def test_any_other_folder_is_no_model() -> None:
    put("hugging_cache/m/config.json")
    put("other/notes.txt")
    for given in ("other", "nowhere", "other/notes.txt"):
        assert refusal(given) == (
            f"no model '{given}': neither hugging_cache/{given} nor the path itself holds a config.json; "
            "in hugging_cache/: m"
        )


@pytest.mark.parametrize("start", ["there", "here"])
@pytest.mark.parametrize("goes", [False, True])
def test_the_projects_folders_are_found_from_everywhere(start: str, goes: bool, place: Path) -> None:
    """Started in the project or elsewhere, and after going elsewhere, as a worker of a cluster does."""
    words, environment = [str(place)] if goes else [], {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOOK, *words]
    at = ROOT if start == "there" else place
    run = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, check=True)
    *found, path, file = run.stdout.strip().split("|")
    assert found == ["True", "True"] and path.endswith("task-data/test-NLI.tsv") and not Path(path).is_absolute()
    assert Path(file).is_absolute() == (start == "here" or goes)  # in a message, short where that is where one is
    assert file.endswith("hparams/ROME/gpt2-xl.yaml")
