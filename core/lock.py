"""One writer at a time: a lock file that says who holds it.

The lock is the kernel's (flock), so it ends with the process that holds it, however that ends: a file left by a killed
run holds nothing. Its content is only for the message. Works between hosts where the file system passes locks on, as
NFS 4 does.
"""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from core.errors import UserError

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def held(files: Iterable[Path], work: str = "making this result", wait: bool = False) -> Iterator[None]:
    """Hold all of these lock files; with `wait`, as soon as whoever holds one lets it go.

    UserError naming pid and host of another run that holds one of them; `work` says what it is doing.
    """
    with ExitStack() as stack:
        for file in sorted(files):  # in one order, so that of two runs that want the same ones not both are refused
            stack.enter_context(_held(file, work, wait))
        yield


@contextmanager
def _held(file: Path, work: str, wait: bool) -> Iterator[None]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(file, work, wait)
    except OSError as error:
        raise UserError(f"cannot lock {file}: {error.strerror}; --results DIR names another place") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: whoever waits for this file finds another one in its place
        os.close(handle)


def _locked(file: Path, work: str, wait: bool) -> int:
    """An open, locked descriptor of `file`, with this process's name written into it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in UNSUPPORTED:
                print(f"{file.parent}: no locks on this file system; run one at a time here", file=sys.stderr)
                return handle
            who = _holder(handle)
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise UserError(f"{file.parent}: {who} is {work} now; wait for it, or stop it") from None
        if _same(handle, file):
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            return handle
        os.close(handle)  # removed by its holder between our opening and locking it


def _same(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    try:
        name = json.loads(os.pread(handle, 1000, 0))
        return f"process {name['pid']} on {name['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
