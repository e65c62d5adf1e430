"""Result files, read and checked: what was measured, and on what."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import results
from core.errors import UserError
from core.messages import first_line
from core.results import Result, without_paths
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
    parameters: str = "{}"
    """The regulariser's parameters but `keep`, as JSON."""
    source: str = field(default="", compare=False)
    """The edit file's name, for readers; `details` have its SHA-256."""

    @property
    def group(self) -> tuple[str, str, int | None]:
        """Settings that share a figure."""
        return self.method, self.mode, self.batch_size

    @property
    def edit(self) -> dict[str, Any]:
        """As far as published scores tell settings apart, the "edit" of a result's settings."""
        keep = {} if self.keep is None else {"keep": self.keep}
        rule = None if self.regularizer == "none" else {"name": self.regularizer, **keep}
        return {"mode": self.mode, "method": self.method, "batch_size": self.batch_size, "regularizer": rule}


@dataclass(frozen=True, eq=False)
class Run:
    """One result file, and its settings as a report sorts them. `edit` is None for the unedited model."""

    path: Path
    place: str
    """Its path inside the folder that was read."""
    result: Result = field(repr=False)
    model: Model
    data: tuple[str, str, int | None]
    """Kind ("official", "sample", "custom"), SHA-256, limit."""
    edit: Setting | None
    edits: int
    repeat: str
    """What tells runs of one setting apart: which edits, which draw of them, which seed."""

    @property
    def draw(self) -> str:
        """What runs share that go on with one another's edits: `repeat` without where its edits end."""
        draw, (begin, _, *step), seed = json.loads(self.repeat)
        return json.dumps([draw, begin, step, seed])

    @property
    def headline(self) -> Measure:
        return self.result.metrics[self.result.headline]

    @property
    def released(self) -> list[float]:
        """The published scores beside it."""
        return list((self.result.published or {}).get("as_released", []))


def read_all(root: Path) -> tuple[list[Run], int]:
    """Every result in `root` and below, by path, and how many copies of one with the same settings were left out.

    Hidden folders and those of unfinished runs are not looked into. Raises UserError if there is none, or for a file
    that is no result.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name one that holds result files, e.g. test-result/")
    files = sorted(file for file in root.rglob("result-*.json") if _visible(file.relative_to(root)))
    if not files:
        raise UserError(f"{root}: no result-*.json in it or below; test-task.py and test-task-after.py write them")
    runs: dict[str, Run] = {}
    for file in files:
        run = read(file, root)
        runs.setdefault(_identity(run.result.settings), run)
    return list(runs.values()), len(files) - len(runs)


def read(file: Path, root: Path) -> Run:
    """One result file. Raises UserError, naming it, if it is malformed."""
    result = results.read(file)
    try:
        if not file.with_suffix(".jsonl").is_file():
            raise ValueError(f"{file.with_suffix('.jsonl').name} is not beside it")
        return _run(result, file, root)
    except KeyError as error:
        reason = f"it has no {error}"
    except (ValueError, TypeError, AttributeError) as error:
        reason = first_line(error)
    raise results.malformed(file, reason)


def _run(result: Result, file: Path, root: Path) -> Run:
    settings = result.settings
    edit, data = settings["edit"], settings["data"]
    return Run(
        path=file,
        place=file.relative_to(root).as_posix(),
        result=result,
        model=Model(*(str(settings["model"][key]) for key in ("name", "sha256", "dtype"))),
        data=(str(data["kind"]), str(data["sha256"]), settings["limit"]),
        edit=None if edit is None else _setting(edit),
        edits=0 if edit is None else len(range(*edit["range"])),
        repeat="" if edit is None else json.dumps([edit.get("draw"), edit["range"], settings["seed"]]),
    )


def _setting(edit: Mapping[str, Any]) -> Setting:
    rule = dict(edit["regularizer"] or {"name": "none"})
    rest = {"hparams": edit["hparams"], "files": edit.get("files"), "edits": edit["data"]["sha256"]}
    rest["max_update"] = edit.get("max_update")
    return Setting(
        mode=str(edit["mode"]),
        method=str(edit["method"]),
        batch_size=edit["batch_size"],
        regularizer=str(rule.pop("name")),
        keep=float(rule.pop("keep")) if "keep" in rule else None,
        details=json.dumps(rest, sort_keys=True),
        parameters=json.dumps(rule, sort_keys=True),
        source=Path(edit["data"]["path"]).stem,
    )


def _visible(path: Path) -> bool:
    return not any(part.startswith(".") or part == SKIPPED for part in path.parts)


def _identity(settings: Mapping[str, Any]) -> str:
    """Equal for two results that say the same was measured. Where a data file lay does not matter, its hash does."""
    return json.dumps(without_paths(settings), sort_keys=True)


def nearest(run: Run, candidates: Sequence[Run]) -> Run | None:
    """The candidate that shares most folders with `run`; the first of equals."""
    folders = run.path.parents
    return max(candidates, key=lambda other: len(set(folders) & set(other.path.parents)), default=None)
