"""Models from the hub, through the real client and a small server that speaks its API."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, project, settle
from fake_hub import GOOD_TOKEN, OTHER_TOKEN, FakeHub, Remote, serving
from huggingface_hub.errors import HfHubHTTPError

from core.disk.lock import beside, held
from core.errors import UserError
from core.lm.load import load
from core.lm.model import hash_folder
from core.script import script
from inputs import cli, hub, models
from inputs.hub import Repo
from inputs.official import REPOS

NAME = "org/tiny"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(FakeHub()) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield fake


@pytest.fixture
def files(tiny_folder: Path) -> dict[str, bytes]:
    """A real tiny model's files, and beside them what nobody needs."""
    wanted = {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.is_file()}
    other = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md", "onnx/model.onnx", "modeling_x.py")
    return wanted | dict.fromkeys(other, b"not needed")


def sharded(files: dict[str, bytes], ending: str = "safetensors") -> dict[str, bytes]:
    """The same repository with weights in two shards (of made-up content)."""
    stem, index = ("model", "model.safetensors") if ending == "safetensors" else ("pytorch_model", "pytorch_model.bin")
    shards = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    table = {"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    rest = {name: content for name, content in files.items() if name != "model.safetensors"}
    weights = {shards[0]: b"first shard" * 1000, shards[1]: b"second shard" * 1000}
    return rest | weights | {f"{index}.index.json": json.dumps(table).encode()}


def test_a_model_arrives_with_what_is_needed_and_loads(
    server: FakeHub, files: dict[str, bytes], tiny_folder: Path, tmp_path: Path
) -> None:
    server.models[NAME] = Remote(files)
    target = tmp_path / "cache" / "tiny"
    models.prepare_model(target, NAME)
    unwanted = {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md", "modeling_x.py"}
    there = {path.name for path in target.iterdir()}
    assert there & unwanted == set()
    assert {"config.json", "model.safetensors", "tokenizer.json", "ORIGIN.txt"} <= there
    assert hash_folder(target) == hash_folder(tiny_folder)
    assert load(target, "tiny", "cpu").n_layers == 4
    origin = (target / "ORIGIN.txt").read_text(encoding="utf-8")
    assert f"{NAME}, commit {server.models[NAME].commit} (asked for: main), from {server.url}." in origin
    assert "  model.safetensors" in origin
    assert [path.name for path in target.parent.iterdir()] == ["tiny"]  # no scratch is left


def test_shards_come_by_their_index(server: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    server.models[NAME] = Remote(sharded(files))
    models.prepare_model(tmp_path / "m", NAME)
    weights = {path.name for path in (tmp_path / "m").iterdir() if "model-" in path.name or "index" in path.name}
    assert weights == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }


def test_bin_files_only_where_there_is_no_safetensors(server: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    del files["model.safetensors"]
    server.models[NAME] = Remote(files)
    models.prepare_model(tmp_path / "one", NAME)
    assert (tmp_path / "one/pytorch_model.bin").read_bytes() == b"not needed"
    del files["pytorch_model.bin"]
    server.models[NAME] = Remote(sharded(files, "bin"))
    models.prepare_model(tmp_path / "two", NAME)
    assert len(list((tmp_path / "two").glob("pytorch_model-*.bin"))) == 2


def test_a_revision_is_pinned_to_its_commit(server: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    server.models[NAME] = Remote(files, revisions=("main", "refs/pr/3"))
    models.prepare_model(tmp_path / "m", NAME, "refs/pr/3")
    commit = server.models[NAME].commit
    assert f"commit {commit} (asked for: refs/pr/3)" in (tmp_path / "m/ORIGIN.txt").read_text(encoding="utf-8")
    assert all(f"/resolve/{commit}/" in line for line in server.requests if "/resolve/" in line)
    with pytest.raises(UserError, match=r"org/tiny has no revision 'v9'; .* lists its branches"):
        models.prepare_model(tmp_path / "n", NAME, "v9")


def test_an_interrupted_fetch_goes_on_where_it_was(server: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    server.models[NAME] = Remote(sharded(files))
    server.spoil["model-00002-of-00002.safetensors"] = "short"
    with pytest.raises(UserError, match=r"the transfer broke .*run this again, complete files are kept"):
        models.prepare_model(tmp_path / "m", NAME)
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.glob("*/config.json"))  # nothing that looks like a model yet
    first = server.transfers()
    assert "model-00001-of-00002.safetensors" in first
    server.spoil.clear()
    server.requests.clear()
    models.prepare_model(tmp_path / "m", NAME)
    assert "model-00002-of-00002.safetensors" in server.transfers()
    assert "model-00001-of-00002.safetensors" not in server.transfers()
    assert (tmp_path / "m/model-00002-of-00002.safetensors").read_bytes() == b"second shard" * 1000


def test_a_cut_line_is_taken_up_again(server: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    server.models[NAME] = Remote(files)
    server.spoil["model.safetensors"] = "cut"
    models.prepare_model(tmp_path / "m", NAME)
    assert (tmp_path / "m/model.safetensors").read_bytes() == files["model.safetensors"]
    assert server.transfers().count("model.safetensors") == 2


def test_a_damaged_file_is_noticed_and_fetched_anew(server: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    server.models[NAME] = Remote(files)
    server.spoil["model.safetensors"] = "damaged"
    with pytest.raises(UserError, match=r"model.safetensors has the hash .*, expected .*: damaged on the way") as error:
        models.prepare_model(tmp_path / "m", NAME)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m").exists()
    server.spoil.clear()
    models.prepare_model(tmp_path / "m", NAME)
    assert (tmp_path / "m/model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_gated_repository(
    server: FakeHub, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.models[NAME] = Remote(files, gated=True)
    with pytest.raises(UserError, match=f"is gated: accept its licence at {server.url}/{NAME}, then set HF_TOKEN"):
        models.prepare_model(tmp_path / "m", NAME)
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with pytest.raises(UserError, match="is gated and your token has no access: ask for it at"):
        models.prepare_model(tmp_path / "m", NAME)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    models.prepare_model(tmp_path / "m", NAME)
    assert (tmp_path / "m/config.json").is_file()


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("org/nothing", "no model 'org/nothing' at http.*--repo ORG/NAME names another"),
        ("not a name", "'not a name' is no repository name: expected ORG/NAME"),
    ],
)
def test_an_unknown_repository(server: FakeHub, tmp_path: Path, repo: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        models.prepare_model(tmp_path / "m", repo)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_hub_in_trouble(server: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    server.models[NAME] = Remote(files)
    server.spoil["api"] = "refused"
    with pytest.raises(UserError, match=r"^org/tiny: .*503 Service Unavailable.*; wait some minutes"):
        models.prepare_model(tmp_path / "m", NAME)


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "renew your access token"), (403, "see http.*/org/tiny$"), (503, "wait some minutes and run this again")],
)
def test_what_to_do_about_an_answer_that_is_an_error(status: int, advice: str) -> None:
    answer: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    with pytest.raises(UserError, match=f"^org/tiny: the hub's words; {advice}"), hub.explained(Repo(NAME)):
        raise HfHubHTTPError("the hub's words\nand more", response=answer)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(UserError, match=r"org/tiny: cannot reach http://127.0.0.1:\d+ \(.*\); with a network") as error:
        models.prepare_model(tmp_path / "m", NAME)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("without", "extra", "message"),
    [
        ("config.json", {}, "is no model that transformers loads: it has no config.json or no tokenizer"),
        ("tokenizer.json", {}, "is no model that transformers loads: it has no config.json or no tokenizer"),
        ("model.safetensors", {}, "has no weights that transformers loads: model.safetensors or pytorch_model.bin"),
        ("model.safetensors", {"model.safetensors.index.json": b"{]"}, "index.json is not an index of weights"),
        (
            "model.safetensors",
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'},
            "names ../x.safetensors, which the repository does not have",
        ),
    ],
)
def test_a_repository_that_is_no_model(
    server: FakeHub, files: dict[str, bytes], tmp_path: Path, without: str, extra: dict[str, bytes], message: str
) -> None:
    others = ("pytorch_model.bin", "vocab.json", without)
    server.models[NAME] = Remote({k: v for k, v in files.items() if k not in others} | extra)
    with pytest.raises(UserError, match=message):
        models.prepare_model(tmp_path / "m", NAME)
    assert not (tmp_path / "m").exists()


def test_a_full_disk_is_noticed_before_the_transfer(
    server: FakeHub, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.models[NAME] = Remote(files)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match=r"0.0 GB are to be fetched, only 0.0 GB are free"):
        models.prepare_model(tmp_path / "m", NAME)
    assert server.transfers() == []


def test_overwriting_replaces_the_old_folder_only_at_the_end(
    server: FakeHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/old.txt").write_text("")
    server.models[NAME] = Remote(files)
    server.spoil["model.safetensors"] = "damaged"
    with pytest.raises(UserError):
        models.prepare_model(tmp_path / "m", NAME)
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["old.txt"]
    server.spoil.clear()
    models.prepare_model(tmp_path / "m", NAME)
    assert not (tmp_path / "m/old.txt").exists()


def test_a_repository_that_changed_meanwhile(server: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    """What an interrupted fetch left of an older commit does not get into the model."""
    server.models[NAME] = Remote({**files, "merges.txt": b"old", "added_tokens.json": b"{}"})
    server.spoil["model.safetensors"] = "short"
    with pytest.raises(UserError):
        models.prepare_model(tmp_path / "m", NAME)
    left = tmp_path / ".partial/m"
    left.mkdir(parents=True, exist_ok=True)
    for name, text in (("merges.txt", b"old"), ("added_tokens.json", b"{}")):
        (left / name).write_bytes(text)  # files come in parallel: these two may or may not have been there by then
    server.spoil.clear()
    server.models[NAME] = Remote({**files, "merges.txt": b"new"})
    models.prepare_model(tmp_path / "m", NAME)
    assert (tmp_path / "m/merges.txt").read_bytes() == b"new"
    assert not (tmp_path / "m/added_tokens.json").exists()


def test_names(server: FakeHub, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is a folder's name; any goes with --repo, even that of the embedded model."""
    settle(tmp_path, monkeypatch)
    server.models[NAME] = Remote(files)
    for name in ("../x", "org/tiny", ".x", ""):
        with pytest.raises(UserError, match="is no name for a folder in hugging_cache/: --repo takes ORG/NAME"):
            list(cli.prepare_model(name, False, NAME))
    list(cli.prepare_model("smollm2-135m", False, NAME))
    assert NAME in Path("hugging_cache/smollm2-135m/ORIGIN.txt").read_text(encoding="utf-8")
    (line,) = cli.prepare_model("smollm2-135m", False, NAME, "other")
    assert line.endswith("is already there; --overwrite fetches it anew")


def test_what_a_run_killed_at_its_very_end_has_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is in place; its lock file and the folder it replaced are there still, unless somebody is at work."""
    settle(tmp_path, monkeypatch)
    cache = Path("hugging_cache")
    for folder in ("tiny", ".tiny-replaced"):
        (cache / folder).mkdir(parents=True)
    (cache / "tiny/config.json").write_text("{}")
    with held([beside(cache / "tiny")]):
        assert list(cli.prepare_model("tiny", False)) == ["hugging_cache/tiny is already there"]
        assert {path.name for path in cache.iterdir()} == {"tiny", ".tiny-replaced", ".tiny.lock"}
    beside(cache / "tiny").write_text("")
    assert list(cli.prepare_model("tiny", False)) == ["hugging_cache/tiny is already there"]
    assert [path.name for path in cache.iterdir()] == ["tiny"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_both_kinds_of_hash_are_verified(server: FakeHub, files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    """Small files have git's hash, large ones SHA-256. What is not asked for may be anything."""
    server.models[NAME] = Remote(files)
    repo = Repo(NAME, server.models[NAME].commit)
    wanted = ["config.json", "model.safetensors"]
    for file in wanted:
        (tmp_path / file).write_bytes(files[file])
    (tmp_path / "README.md").write_bytes(b"another")
    models.verify(repo, wanted, tmp_path)
    for content in (files[name] + b" ", bytes(len(files[name]))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} has the hash .*: damaged on the way"):
            models.verify(repo, wanted, tmp_path)
        assert not (tmp_path / name).exists()
    with pytest.raises(UserError, match=f"{name} did not arrive"):
        models.verify(repo, wanted, tmp_path)
    assert (tmp_path / "README.md").exists()


def test_a_damaged_index_is_fetched_anew(
    server: FakeHub, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.models[NAME] = Remote(sharded(files))
    real = models._download

    def damaging(repo: Repo, names: list[str], scratch: Path) -> None:
        real(repo, names, scratch)
        (scratch / names[0]).write_bytes(b"{")

    monkeypatch.setattr(models, "_download", damaging)
    with pytest.raises(UserError, match=r"index.json is not an index of weights"):
        models.prepare_model(tmp_path / "m", NAME)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    models.prepare_model(tmp_path / "m", NAME)
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) == 2


def test_the_table_names_the_papers_models() -> None:
    assert list(REPOS)[:5] == ["gpt2-xl", "gpt-j-6B", "llama-7b", "llama2-7b", "llama2-13b"]
    for name in REPOS:
        assert list(ROOT.glob(f"hparams/*/{name}.yaml")), name
    assert hub.Repo("a/b").page.endswith("/a/b")


def test_as_a_command(
    server: FakeHub,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """gpt2-xl from its own repository, then a wrong name: one line and exit code 2."""
    server.models[REPOS["gpt2-xl"]] = Remote(files)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "prepare.py", "model", "gpt2-xl"]
    run = subprocess.run(
        command, cwd=project(tmp_path), env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert (run.returncode, run.stdout) == (0, "hugging_cache/gpt2-xl is ready\n"), run.stderr
    assert (tmp_path / "hugging_cache/gpt2-xl/ORIGIN.txt").is_file()
    settle(tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "model", "other", "--repo", "org/nothing"])
    with pytest.raises(SystemExit) as exit:
        script(cli.main)
    out, err = capsys.readouterr()
    assert (exit.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: no model 'org/nothing'")
