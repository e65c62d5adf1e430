"""Where a run's model and data come from: names and folders to files, and what was chosen."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from core.messages import short
from core.readers import sha256
from inputs.embedded import EMBEDDED_MODEL, prepare_embedded

CACHE = Path("hugging_cache")
DEFAULT_MODEL = "gpt2-xl"
DATA, SAMPLE = Path("data"), Path("data/sample")


@dataclass(frozen=True, slots=True)
class Source:
    """A data file and where it came from: kind is "official", "sample" or "custom"."""

    path: Path
    kind: str

    def describe(self) -> dict[str, str]:
        return {"path": self.path.as_posix(), "kind": self.kind, "sha256": sha256(self.path)}


def find_data(file: str, folder: Path | None) -> Source:
    """`file` (e.g. "task-data/test-NER.txt") in `folder`; without one the official file if present, else the sample."""
    if folder is not None:
        _utf8(folder)
        candidates = [Source(folder / file, "custom")]
    else:
        candidates = [Source(DATA / file, "official"), Source(SAMPLE / file, "sample")]
    for source in candidates:
        if os.path.exists(source.path):  # False, not an error, for a name too long
            return source
    raise UserError(
        f"{candidates[-1].path}: no such file; --data names a folder that holds task-data/ and edited-data/"
    )


def default_model() -> str:
    return DEFAULT_MODEL if (CACHE / DEFAULT_MODEL / "config.json").is_file() else EMBEDDED_MODEL


def find_model(given: str | None) -> tuple[str, Path]:
    """Name and folder of the model `--model` asks for: a name in hugging_cache/ or a path; else the default.

    The embedded default is prepared on the spot, and said so: a result must not be taken for gpt2-xl's by mistake.
    """
    name = given or default_model()
    _utf8(name)
    if given is None and name == EMBEDDED_MODEL:
        print(
            f"*** {DEFAULT_MODEL} is not in {CACHE}/: using the small embedded model {EMBEDDED_MODEL}. "
            f"`python prepare.py model {DEFAULT_MODEL}` fetches the paper's default. ***",
            file=sys.stderr,
        )
    if name == EMBEDDED_MODEL and not (CACHE / name / "config.json").is_file():
        prepare_embedded(CACHE / name)
    folder = Path(name)
    if folder.name == name and os.path.isfile(CACHE / name / "config.json"):  # no path: joined to one, "/x" would win
        return name, CACHE / name
    if os.path.isfile(folder / "config.json"):
        return folder.resolve().name, folder
    there = sorted(p.parent.name for p in CACHE.glob("*/config.json"))
    raise UserError(
        f"no model '{name}': neither {CACHE / name} nor the path itself holds a config.json; "
        f"in {CACHE}/: {', '.join(there) or 'none yet'}"
    )


def _utf8(name: str | Path) -> None:
    """UserError for a name that no result file could hold."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        raise UserError(f"{short(str(name))}: expected a name in UTF-8") from None
