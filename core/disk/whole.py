"""Files and folders that appear whole or not at all: made in a hidden folder beside their place, then moved into it.

A killed run leaves the hidden folder behind: `leftovers` finds it, whoever makes the same thing next clears it.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from core.errors import UserError

NAMES = re.compile(r"\..+-[a-z0-9_]{8}|\.partial")
"""Names of scratch folders: tempfile's, and the one in which inputs/models.py collects the files of a model."""
TRIES = 10
"""How often a folder is made again: runs remove those that they leave empty."""

T = TypeVar("T")


@contextmanager
def whole(path: Path, hint: str = "", locked: bool = False) -> Iterator[Path]:
    """A temporary path that becomes `path`, a file or a folder, at the end of the block, or nothing.

    The path has the same name and lies in a folder of its own, which is removed at the end of the block with all that
    is in it. `locked` says that nobody else is making `path`: what killed attempts have left is removed first. An
    OSError or SafetensorError of the block becomes a UserError, "cannot write PATH: REASON; HINT".
    """
    try:
        if locked:
            clear(path)
        prefix = f".{path.name}-"
        with inside(path.parent, lambda: tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent)) as scratch:
            new = Path(scratch) / path.name
            yield new
            if new.is_dir():
                swap(new, path)
            else:
                os.replace(new, path)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error, hint) from error


def inside(folder: Path, make: Callable[[], T]) -> T:
    """What `make` makes in a folder. The folder is made first, and again if another run removes it in between."""
    for _ in range(TRIES - 1):
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
            return make()
    folder.mkdir(parents=True, exist_ok=True)
    return make()


def unwritable(path: Path, error: Exception, hint: str = "") -> UserError:
    """The error of a file or folder that cannot be written."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UserError(f"cannot write {path}: {reason}" + (f"; {hint}" if hint else ""))


def swap(new: Path, folder: Path) -> None:
    """Move the folder `new` to `folder`, which a kill leaves as it was, away or new, never with half of its files."""
    old = folder.with_name(f".{folder.name}-replaced")  # a name that `clear` knows
    if old.exists():
        shutil.rmtree(old)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    if old.exists():
        shutil.rmtree(old)


def clear(path: Path) -> None:
    """Remove the scratch folders of earlier attempts to make `path`; for one who holds its lock."""
    name = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}")
    for folder in path.parent.iterdir() if path.parent.is_dir() else ():
        if name.fullmatch(folder.name) and folder.is_dir():
            shutil.rmtree(folder)


def leftovers(*roots: Path) -> Iterator[tuple[Path, int]]:
    """Scratch folders below `roots`, and their bytes: left by killed runs, unless one is under way."""
    for root in roots:
        for at, names, _ in os.walk(root):
            for name in [name for name in sorted(names) if NAMES.fullmatch(name)]:
                names.remove(name)
                path = Path(at, name)
                yield path, sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
