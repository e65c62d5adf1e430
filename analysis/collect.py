"""Result files, read and checked: what was measured, and on what."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.types import Measure

SKIPPED = "unfinished"
"""A folder of this name holds runs that are still going on."""


@dataclass(frozen=True)
class Model:
    name: str
    sha256: str
    dtype: str


@dataclass(frozen=True)
class Setting:
    """How a model was edited, apart from which edits and how many: one curve of a figure."""

    mode: str
    method: str
    batch_size: int | None
    regularizer: str
    """"none", or the regulariser's name."""
    keep: float | None
    details: str
    """The rest, as JSON: the method's settings, the files it depends on, the edit file."""

    @property
    def group(self) -> tuple[str, str, int | None]:
        """Settings that share a figure."""
        return self.method, self.mode, self.batch_size


@dataclass(frozen=True, eq=False)
class Result:
    """One result file. `edit` is None for the unedited model; `content` is the file."""

    path: Path
    place: str
    """Its path inside the folder that was read."""
    task: str
    model: Model
    data: tuple[str, str, int | None]
    """Kind ("official", "sample", "custom"), SHA-256, limit."""
    edit: Setting | None
    edits: int
    repeat: str
    """What tells runs of one setting apart: which edits, which draw of them, which seed."""
    headline: str
    metrics: Mapping[str, Measure]
    n: int
    content: Mapping[str, Any] = field(repr=False)

    @property
    def draw(self) -> int | None:
        return (self.content["settings"]["edit"] or {}).get("draw")


def results(root: Path) -> tuple[list[Result], int]:
    """Every result in `root` and below, by path, and how many copies of one with the same settings were left out.

    Hidden folders and those of unfinished runs are not looked into. Raises UserError if there is none, or for a file
    that is no result.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name one that holds result files, e.g. test-result/")
    files = sorted(file for file in root.rglob("result-*.json") if _visible(file.relative_to(root)))
    if not files:
        raise UserError(f"{root}: no result-*.json in it or below; test-task.py and test-task-after.py write them")
    found: dict[str, Result] = {}
    for file in files:
        result = read(file, root)
        found.setdefault(_identity(result.content["settings"]), result)
    return list(found.values()), len(files) - len(found)


def read(file: Path, root: Path) -> Result:
    """One result file. Raises UserError, naming it, if it is malformed."""
    try:
        return _parsed(json.loads(file.read_text(encoding="utf-8")), file, root)
    except KeyError as error:
        reason = f"it has no {error}"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
    raise UserError(f"{file}: not a result file of this project ({reason}); move it away or make it again")


def _parsed(content: Mapping[str, Any], file: Path, root: Path) -> Result:
    settings = content["settings"]
    edit, data = settings["edit"], settings["data"]
    metrics = {name: _measure(name, value) for name, value in content["metrics"].items()}
    if content["headline"] not in metrics:
        raise ValueError(f"its headline, {content['headline']}, is none of its metrics")
    if not file.with_suffix(".jsonl").is_file():
        raise ValueError(f"{file.with_suffix('.jsonl').name} is not beside it")
    content["environment"].items()
    return Result(
        path=file,
        place=file.relative_to(root).as_posix(),
        task=str(content["task"]),
        model=Model(*(str(settings["model"][key]) for key in ("name", "sha256", "dtype"))),
        data=(str(data["kind"]), str(data["sha256"]), settings["limit"]),
        edit=None if edit is None else _setting(edit),
        edits=0 if edit is None else len(range(*edit["range"])),
        repeat="" if edit is None else json.dumps([edit.get("draw"), edit["range"], settings["seed"]]),
        headline=content["headline"],
        metrics=metrics,
        n=int(content["n"]),
        content=content,
    )


def _setting(edit: Mapping[str, Any]) -> Setting:
    rule = edit["regularizer"]
    rest = {"hparams": edit["hparams"], "files": edit.get("files"), "edits": edit["data"]["sha256"]}
    rest["max_update"] = edit.get("max_update")
    return Setting(
        str(edit["mode"]),
        str(edit["method"]),
        edit["batch_size"],
        "none" if rule is None else str(rule["name"]),
        None if rule is None else float(rule["keep"]),
        json.dumps(rest, sort_keys=True),
    )


def _measure(name: str, value: Mapping[str, Any]) -> Measure:
    numbers = [float(value[key]) for key in ("value", "low", "high")]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"metric {name} is not a number")
    return Measure(*numbers)


def _visible(path: Path) -> bool:
    return not any(part.startswith(".") or part == SKIPPED for part in path.parts)


def _identity(settings: Mapping[str, Any]) -> str:
    """Equal for two results that say the same was measured. Where a data file lay does not matter, its hash does."""
    return json.dumps(_without_paths(settings), sort_keys=True)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        hashed = "sha256" in value
        return {key: _without_paths(part) for key, part in value.items() if not (hashed and key == "path")}
    return value


def nearest(result: Result, candidates: Sequence[Result]) -> Result | None:
    """The candidate that shares most folders with `result`; the first of equals."""
    folders = result.path.parents
    return max(candidates, key=lambda other: len(set(folders) & set(other.path.parents)), default=None)
