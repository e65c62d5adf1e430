"""SHA-256 of what a run reads, and the order in which the files of a folder are read."""

import hashlib
import os
import re
from pathlib import Path

from core.errors import UserError


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder: names and contents of its files in numeric order, hidden ones left out."""
    if path.is_file():
        digest = hashlib.sha256()
        try:
            with path.open("rb") as stream:
                while chunk := stream.read(1 << 24):
                    digest.update(chunk)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        return digest.hexdigest()
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for file in sorted((f for f in path.rglob("[!.]*") if f.is_file()), key=natural):
        digest.update(os.fsencode(file.relative_to(path).as_posix()) + f"\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def natural(path: Path) -> list[str | int]:
    """Sort key by which dev_2 comes before dev_10. Text and numbers take turns, so that keys compare."""
    parts: list[str | int] = [*re.split(r"([0-9]+)", path.as_posix())]
    parts[1::2] = map(int, parts[1::2])
    return parts
