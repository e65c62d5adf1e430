"""No room, no permission, a file in the way: one line, exit code 2, and what was there before stays as it is.

Each case is injected by hand for everyone, and made for real on a small file system where one can be mounted.
"""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from safetensors import SafetensorError
from tiny_settings import ROME_YAML

import inputs.cli
import train_MEND
from core import folders
from core.disk.whole import leftovers, whole
from core.errors import UserError
from core.script import script
from experiment import cli
from inputs import embedded, hub, models, sources

SAMPLE = ROOT / "data/sample"
MAINS: dict[str, Callable[[], None]] = {
    "test-task.py": cli.test_task,
    "test-task-after.py": cli.test_task_after,
    "train_MEND.py": train_MEND.main,
    "prepare.py": inputs.cli.main,
}
MEND = """
inner_params: [transformer.h.3.mlp.c_fc.weight]
rank: 4
max_iters: 4
accumulate_bs: 2
val_interval: 2
val_batch_size: 2
val_steps: 1
final_eval: false
"""
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """A script with the tiny model and the sample data: exit code, and the lines of stderr that are no progress bar."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "ROME.yaml").write_text(ROME_YAML)
    (tmp_path / "MEND.yaml").write_text(MEND)

    def run(name: str, *words: object) -> tuple[int, str]:
        common = ["--model", tiny_folder, "--device", "cpu", "--data", SAMPLE] if name != "prepare.py" else []
        monkeypatch.setattr(sys, "argv", [name, *map(str, [*words, *common])])
        code = 0
        try:
            script(MAINS[name])
        except SystemExit as end:
            code = int(end.code or 0)
        lines = re.split(r"\r|\n|\x1b\[A|\[\d/3\].*", capsys.readouterr().err)
        return code, "\n".join(line for line in lines if line.strip() and "%|" not in line and "it/s]" not in line)

    return run


def runs(out: Path, tmp_path: Path) -> dict[str, list[object]]:
    """A command of each script that writes below `out`."""
    edits = ["NLI", "Instance-Sequential", "ROME", 200, 201, 1, "--limit", 2, "--hparams", tmp_path / "ROME.yaml"]
    return {
        "test-task.py": ["NER", "--limit", 40, "--results", out, "--overwrite"],
        "test-task-after.py": [*edits, "--results", out, "--overwrite"],
        "train_MEND.py": ["--hparams", tmp_path / "MEND.yaml", "--out", out / "mend", "--overwrite"],
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(found: tuple[int, str]) -> None:
    code, err = found
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: cannot "), err


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def unwritable(self: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
    """Path.open, write_text and write_bytes on a full disk: what is there can be read."""
    return full() if "w" in mode else open(self, mode, *arguments, **more)


# --- whole ---------------------------------------------------------------------------------------------------------


def test_a_file_or_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    for name in ("file", "folder"):
        path = tmp_path / "new" / name
        for text in ("first", "second"):  # the second in place of the first
            with whole(path) as new:
                if name == "folder":
                    new.mkdir()
                    (new / text).write_text(text)
                else:
                    new.write_text(text)
                (new.parent / "scratch").write_text("not wanted")
                assert not path.exists() or text == "second"
                assert (new.name, new.parent.parent) == (name, path.parent)
    assert sorted(contents(tmp_path)) == ["new/file", "new/folder/second"]
    assert (tmp_path / "new/file").read_text() == "second"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), UserError("x")])
def test_a_block_that_fails_changes_nothing(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(type(error)), whole(tmp_path / "file") as new:
        new.write_text("half")
        raise error
    assert contents(tmp_path) == {"file": b"old"} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file"), "No space left on device"),
        (OSError("the\n line broke"), "the line broke"),
        (SafetensorError("Error while serializing:\n StorageFull"), "Error while serializing: StorageFull"),
    ],
)
def test_the_error_says_what_and_why_and_what_to_do(error: Exception, reason: str, tmp_path: Path) -> None:
    for hint, end in (("", ""), ("--out names another place", "; --out names another place")):
        with pytest.raises(UserError) as caught, whole(tmp_path / "file", hint):
            raise error
        assert str(caught.value) == f"cannot write {tmp_path / 'file'}: {reason}{end}"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").write_text("old")
    real, moves = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        moves.append(target)
        full() if len(moves) == 2 else real(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(UserError, match="cannot write"), whole(tmp_path / "folder") as new:
        new.mkdir()
    assert contents(tmp_path) == {"folder/old": b"old"}


def test_what_killed_attempts_left_is_cleared_by_who_holds_the_lock(tmp_path: Path) -> None:
    """Killed for real, in the block; nobody else's scratch is touched."""
    code = (
        "import os, signal, sys; from pathlib import Path; from core.disk.whole import whole\n"
        "with whole(Path(sys.argv[1])) as new:\n"
        "    new.write_bytes(bytes(1000)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "file"
    command = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    ((left, size),) = leftovers(tmp_path)
    assert size == 1000 and not path.exists()
    (tmp_path / ".other-abcdefgh").mkdir()
    with whole(path) as new:
        new.write_text("")
    assert left.is_dir()  # without the lock it may be another's
    with whole(path, locked=True) as new:
        new.write_text("")
        assert not left.exists()
    assert sorted(found.name for found in tmp_path.iterdir()) == [".other-abcdefgh", "file"]


# --- scripts -------------------------------------------------------------------------------------------------------

SAVING = ("os.replace", "pathlib.Path.open", "tempfile.mkdtemp")


@pytest.mark.parametrize("function", SAVING)
@pytest.mark.parametrize("name", ["test-task.py", "test-task-after.py"])
def test_injected_full_disk(
    name: str, function: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = runs(tmp_path / "out", tmp_path)[name]
    command = [2 if word == 40 else word for word in command]
    assert call(name, *command)[0] == 0
    before = {k: v for k, v in contents(tmp_path / "out").items() if not k.endswith(".npz")}  # made anew if damaged
    assert len(before) == 2
    monkeypatch.setattr(function, full if function != "pathlib.Path.open" else unwritable)
    refused(call(name, *command))
    monkeypatch.undo()
    after = {k: v for k, v in contents(tmp_path / "out").items() if k in before}
    if function == "os.replace":  # takes no room; tests/test_results.py is about moves that fail
        before = {name: content for name, content in before.items() if name in after}
    assert after == before


@pytest.mark.parametrize("function", [*SAVING[::2], "editors.mend.archive.save_file", "pathlib.Path.write_text"])
def test_injected_full_disk_in_training(
    function: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = runs(tmp_path / "out", tmp_path)["train_MEND.py"]
    monkeypatch.setattr(function, full)
    refused(call("train_MEND.py", *command))


@pytest.mark.parametrize("function", ["tempfile.mkdtemp", "os.replace", "pathlib.Path.write_text"])
def test_injected_full_disk_in_preparing(
    function: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded model, and one of the hub: the old folder stays."""
    old = tmp_path / "hugging_cache/smollm2-135m"
    old.mkdir(parents=True)
    (old / "config.json").write_text("{}")
    monkeypatch.setattr(folders, "MODELS", tmp_path / "hugging_cache")
    monkeypatch.setattr(embedded, "_download", lambda work: work / "x.gguf")
    monkeypatch.setattr(embedded, "_convert", lambda gguf, folder: folder.mkdir())
    monkeypatch.setattr(function, full)
    code, err = call("prepare.py", "model", "smollm2-135m", "--overwrite")
    assert code == 2 and err.splitlines()[-1].startswith(f"error: cannot write {old}: ")
    monkeypatch.setattr(models, "_prepare", full)
    refused(call("prepare.py", "model", "gpt2-xl"))


def test_injected_full_disk_at_a_model_that_is_saved(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What safetensors raises for a full disk is no OSError."""
    from safetensors import SafetensorError

    def no_room(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: IoError(Os { code: 28, kind: StorageFull })")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", no_room)
    command = runs(tmp_path / "out", tmp_path)["test-task-after.py"]
    refused(call("test-task-after.py", *command, "--save-model", tmp_path / "edited"))
    assert not [path for path in tmp_path.iterdir() if "edited" in path.name]


@pytest.mark.parametrize("name", MAINS)
def test_a_file_in_the_way(name: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_text("a file")
    if name == "prepare.py":
        monkeypatch.setattr(folders, "MODELS", tmp_path / "out")
        refused(call(name, "model", "smollm2-135m"))
    else:
        refused(call(name, *runs(tmp_path / "out", tmp_path)[name]))
    assert (tmp_path / "out").read_text() == "a file"


def test_a_model_that_may_not_be_read(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.suffix == ".safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self, *arguments, **more)

    real = Path.open
    monkeypatch.setattr(Path, "open", denied)
    refused(call("test-task.py", *runs(tmp_path / "out", tmp_path)["test-task.py"]))


def test_names_that_no_file_can_have(call: Call, tmp_path: Path) -> None:
    refused(call("test-task.py", "NLI", "--limit", 2, "--results", tmp_path / ("x" * 300)))
    with pytest.raises(UserError, match="no such file"):
        sources.find_data("task-data/test-NLI.tsv", Path("x" * 300))
    with pytest.raises(UserError, match=r"'\\udcff': expected a name in UTF-8"):
        sources.find_data("task-data/test-NLI.tsv", Path("\udcff"))
    with pytest.raises(UserError, match="no model 'xxx"):
        sources.find_model("x" * 300)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root, outside a container that forbids it")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Write until the disk is full, then give `leave` bytes back."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - leave)


@pytest.mark.parametrize("leave", [0, 80_000])
@pytest.mark.parametrize("name", ["test-task.py", "test-task-after.py", "train_MEND.py"])
def test_a_full_disk(name: str, leave: int, call: Call, small: Path, tmp_path: Path) -> None:
    """Without any room the script stops before its work; with a little, it fails while it writes."""
    command = runs(small / "out", tmp_path)[name]
    if name == "test-task-after.py":
        command[command.index("NLI")], command[command.index("--limit") + 1] = "NER", 40
    old = small / "out" / ("mend/other" if name == "train_MEND.py" else "older.json")
    old.parent.mkdir(parents=True)
    old.write_text("earlier")
    fill(small, leave)
    refused(call(name, *command))
    assert old.read_text() == "earlier"
    assert not list(small.rglob("result-*"))  # no half of one


def test_a_model_does_not_fit(call: Call, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MODELS", small)
    monkeypatch.setattr(embedded, "_download", lambda work: (work / "x.gguf").write_bytes(bytes(1 << 21)))
    refused(call("prepare.py", "model", "smollm2-135m"))
    assert list(small.iterdir()) == []
    fill(small, 50_000)
    command = runs(tmp_path / "out", tmp_path)["test-task-after.py"]
    refused(call("test-task-after.py", *command, "--save-model", small / "edited"))
    assert [path.name for path in small.iterdir()] == ["filler"]


@pytest.mark.parametrize("name", MAINS)
def test_a_read_only_disk(name: str, call: Call, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small / "out").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    if name == "prepare.py":
        monkeypatch.setattr(folders, "MODELS", small)
        refused(call(name, "model", "smollm2-135m"))
    else:
        refused(call(name, *runs(small / "out", tmp_path)[name]))


def test_a_repository_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the transfer starts."""
    files = {
        name: hub.RemoteFile(name, 10**18, "0", None) for name in ("config.json", "vocab.json", "model.safetensors")
    }
    monkeypatch.setattr(hub, "commit", lambda repo: "0" * 40)
    monkeypatch.setattr(hub, "listing", lambda repo: files)
    with pytest.raises(UserError, match="GB are to be fetched, only"):
        models.prepare_model(tmp_path / "gpt2-xl", "x/y")
