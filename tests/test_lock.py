"""core.disk.lock: one at a time, whoever was killed holds nothing, and the refusal says who is at work."""

import errno
import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import ROOT

from core.disk import lock
from core.disk.lock import beside, held
from core.disk.whole import whole
from core.errors import UserError
from experiment.export import exported

HOLD = "import sys, time; from pathlib import Path; from core.disk.lock import held\nwith held([Path(sys.argv[1])]):\n"
COUNT = """
import os, sys
from pathlib import Path
from core.errors import UserError
from core.disk.lock import held
lock, log = Path(sys.argv[1]), Path(sys.argv[2])
made = 0
while made < 30:
    try:
        with held([lock], wait=sys.argv[3] == "wait"), log.open("a") as file:
            for word in ("begins", "ends"):
                file.write(f"{os.getpid()} {word}\\n")
                file.flush()
            made += 1
    except UserError as error:
        assert " is making this result now; " in str(error), error
"""


@contextmanager
def holder(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    code = HOLD + "    print('held', flush=True)\n    time.sleep(100)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_who_comes_second_is_told_who_is_at_work(tmp_path: Path) -> None:
    file = tmp_path / "a/.x.lock"
    with holder(file) as other:
        with pytest.raises(UserError) as error, held([tmp_path / "a/.w.lock", file]):
            pytest.fail("two at once")
        who = f"process {other.pid} on {socket.gethostname()}"
        assert str(error.value) == f"{file.parent}: {who} is making this result now; wait for it, or stop it"
        assert [path.name for path in file.parent.iterdir()] == [".x.lock"]  # what was held before it is let go
        with pytest.raises(UserError, match=f"{who} is training here now"), held([file], "training here"):
            pytest.fail("two at once")


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / ".x.lock"
    with holder(file) as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert json.loads(file.read_text())["pid"] == other.pid
        with held([file]):
            assert json.loads(file.read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert not file.exists()


@pytest.mark.parametrize(
    "left", [b"", b"\xff\0", b"[]", b'{"pid": 1}', b'{"pid": 1, "host": "elsewhere"}', b"x" * 9000]
)
def test_a_file_nobody_holds_is_taken_over(left: bytes, tmp_path: Path) -> None:
    file = tmp_path / ".x.lock"
    file.write_bytes(left)
    with held([file]):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert not file.exists()


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    file = tmp_path / ".x.lock"
    handle = os.open(file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process is making this result now"), held([file]):
        pytest.fail("two at once")
    os.close(handle)
    with held([file]):
        pass


@pytest.mark.parametrize("how", ["wait", "try"])
def test_never_two_of_several(how: str, tmp_path: Path) -> None:
    """Three processes that take and let go of one lock all the time: what they write under it is never mixed."""
    log = tmp_path / "log"
    command = [sys.executable, "-c", COUNT, str(tmp_path / ".x.lock"), str(log), how]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=100) for process in processes] == [0, 0, 0]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 3 * 30 * 2
    for (one, begins), (other, ends) in zip(lines[::2], lines[1::2], strict=True):
        assert (one, begins, ends) == (other, "begins", "ends")
    assert not (tmp_path / ".x.lock").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_signal_at_any_line_leaves_nothing_locked(tmp_path: Path) -> None:
    """One that comes between two lines while a lock is taken or let go, for every such place."""
    file, places, before = tmp_path / ".x.lock", 0, sys.gettrace()
    while True:
        left = places

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename != lock.__file__:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            with held([file], wait=True):
                pass
            break
        except KeyboardInterrupt:
            places += 1
        finally:
            sys.settrace(before)
        gc.collect()  # the exception's frames
        with open(file, "a") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert places > 15


def test_locks_are_taken_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    real = lock._taken

    def spy(handle: FileIO, file: Path, *more: Any) -> bool:
        taken.append(file.name)
        return real(handle, file, *more)

    monkeypatch.setattr(lock, "_taken", spy)
    for names in ("abc", "cba"):
        with held([tmp_path / name for name in names]):
            pass
    assert taken == [*"abcabc"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run goes on there, and says so."""

    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held([tmp_path / ".x.lock"]):
        pass
    assert caplog.messages == [f"{tmp_path}: no locks on this file system; run one at a time here"]


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    match = r"cannot lock .*/file/x: File exists; --results DIR names another"
    with pytest.raises(UserError, match=match), held([tmp_path / "file/x"]):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot lock .*: Is a directory"), held([tmp_path / "folder"]):
        pass


def test_what_to_do_is_said_of_what_is_locked(tmp_path: Path) -> None:
    """The flag that names another place for it, if there is one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot lock .*/file/x: File exists$"), held([tmp_path / "file/x"], hint=""):
        pass
    (tmp_path / "folder/.saved.lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"saved.lock: Is a directory; --save-model DIR names another place$"):
        exported(tmp_path / "folder/saved", {})


def test_a_folder_that_another_run_removes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """unfinished/ goes when it is empty, and may go between the making of it and of a file in it."""
    file, left = tmp_path / "unfinished/a", [3]
    real = Path.mkdir

    def mkdir(self: Path, *words: Any, **flags: Any) -> None:
        real(self, *words, **flags)
        if self == file.parent and left[0]:
            left[0] -= 1
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with held([beside(file)]):
        assert left == [0]
    file.parent.rmdir()
    left[0] = 3
    with whole(file) as new:
        assert left == [0]
        new.write_text("x")
    assert file.read_text() == "x"
