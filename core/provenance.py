"""What made a result: versions, platform, device, commit."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core import folders
from core.disk.digest import sha256
from core.script import PACKAGES as OURS

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "rouge-score", "seqeval")


def environment(device: str) -> dict[str, Any]:
    """Versions, platform, device, and the commit the code is at (None outside a git checkout)."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "device": device,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


@cache
def code(root: Path = folders.ROOT) -> str:
    """Hash of the packages' sources: of a checkout with changes, or of none, the commit does not say what was run."""
    digest = hashlib.sha256()
    for file in sorted(file for package in OURS for file in (root / package).rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    try:
        run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None
