"""Scratch folders: hidden, beside what a run makes, moved into place at its end. A killed run leaves them behind."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

NAMES = re.compile(r"\..+-[a-z0-9_]{8}|\.partial")
"""Those of tempfile, and where inputs/models.py keeps what it has of a model."""


def leftovers(*roots: Path) -> Iterator[tuple[Path, int]]:
    """Scratch folders below `roots`, and their bytes: left by killed runs, unless one is under way."""
    for root in roots:
        for at, names, _ in os.walk(root):
            for name in [name for name in sorted(names) if NAMES.fullmatch(name)]:
                names.remove(name)
                path = Path(at, name)
                yield path, sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def swap(new: Path, folder: Path) -> None:
    """Move the folder `new` to `folder`, which a kill leaves as it was, away or new, never with half of its files."""
    old = folder.with_name(f".{folder.name}-replaced")  # a name that `clear` knows
    if old.exists():
        shutil.rmtree(old)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    if old.exists():
        shutil.rmtree(old)


def clear(folder: Path, mine: Path | None = None) -> None:
    """Remove the scratch folders of earlier attempts to make `folder`, but `mine`; for one who holds its lock."""
    name = re.compile(rf"\.{re.escape(folder.name)}-[a-z0-9_]{{8}}")
    for path in folder.parent.iterdir():
        if name.fullmatch(path.name) and path.is_dir() and path != mine:
            shutil.rmtree(path)
