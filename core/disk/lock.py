"""One writer at a time: a lock file that says who holds it.

The lock is the kernel's (flock), so it ends with the process that holds it, however that ends: a file left by a killed
run holds nothing. Its content is only for the message. Works between hosts where the file system passes locks on, as
NFS 4 does.
"""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from core.disk.whole import inside
from core.errors import UserError

logger = logging.getLogger(__name__)

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def beside(path: Path) -> Path:
    """The lock of whoever makes the file or folder at `path`."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def held(
    files: Iterable[Path],
    work: str = "making this result",
    wait: bool = False,
    hint: str = "--results DIR names another place",
) -> Iterator[None]:
    """Hold all of these lock files; with `wait`, as soon as whoever holds one lets it go.

    UserError naming pid and host of another run that holds one of them; `work` says what it is doing. Where no file
    can be locked, `hint` says what to do.
    """
    with ExitStack() as stack:
        for file in sorted(files):  # in one order, so that of two runs that want the same ones not both are refused
            stack.enter_context(_held(file, work, wait, hint))
        yield


@contextmanager
def _held(file: Path, work: str, wait: bool, hint: str) -> Iterator[None]:
    while True:
        # A signal at any moment closes the file: one left open would hold the lock even against this very process.
        with _opened(file, hint) as handle:
            if not _taken(handle, file, work, wait, hint):
                continue
            try:
                yield
            finally:
                file.unlink(missing_ok=True)  # while it is held: whoever waits for it finds another one in its place
            return


def _opened(file: Path, hint: str) -> FileIO:
    try:
        return inside(file.parent, lambda: open(file, "a+b", buffering=0))
    except OSError as error:
        raise _impossible(file, error, hint) from error


def _taken(handle: FileIO, file: Path, work: str, wait: bool, hint: str) -> bool:
    """Lock the file and write into it who holds it; False if its holder removed it between our opening and locking."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(f"{file.parent}: {_holder(handle)} is {work} now; wait for it, or stop it") from None
        if error.errno not in UNSUPPORTED:
            raise _impossible(file, error, hint) from error
        logger.warning("%s: no locks on this file system; run one at a time here", file.parent)
    try:
        if not _same(handle, file):
            return False
        handle.truncate(0)
        handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    except OSError as error:
        raise _impossible(file, error, hint) from error
    return True


def _impossible(file: Path, error: OSError, hint: str) -> UserError:
    return UserError(f"cannot lock {file}: {error.strerror}" + (f"; {hint}" if hint else ""))


def _same(handle: FileIO, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _holder(handle: FileIO) -> str:
    try:
        handle.seek(0)
        name = json.loads(handle.read(1000) or b"")
        return f"process {name['pid']} on {name['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
