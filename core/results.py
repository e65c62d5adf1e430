"""Result files: the only place that names, writes or reads them.

`<stem>.json` says what was measured and what made it, `<stem>.jsonl` holds one line per sample. Both are written under
a temporary name and moved into place, the .json last: where it exists, the result is whole.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.disk.whole import whole
from core.errors import UserError
from core.messages import first_line, short
from core.types import Completion, Measure, Mode, Sample, Score, Scored, per_update

FORMAT = 1
"""Of the .json file; one without this key is older, and otherwise the same."""


@dataclass(frozen=True, slots=True)
class EditPlan:
    """The edits of a run as its file name gives them: `method` with its regulariser, e.g. "ROME-RECT40"."""

    mode: Mode
    method: str
    edits: int
    batch_size: int | None = None

    @property
    def updates(self) -> int:
        return -(-self.edits // per_update(self.mode, self.edits, self.batch_size))


@dataclass(frozen=True, kw_only=True)
class EditRecord:
    """What a result says about the edits before it: JSON values, but for the measures. Older files lack some parts."""

    quality: dict[str, dict[str, Measure]] = field(default_factory=dict)
    """Stage ("before", "own", "after") -> name -> mean over the edits."""
    change: dict[str, dict[str, float]] = field(default_factory=dict)
    """Parameter -> {"norm": of its change, "weight": of the unedited weight}, Frobenius."""
    refused: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    edits: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A .json file. `settings` decide its numbers; `environment` says where it was made, `seconds` how long it took."""

    task: str
    headline: str
    metrics: dict[str, Measure]
    n: int
    """Records; `completions` is the number of samples."""
    completions: int
    truncated: int
    degenerate: dict[str, int]
    published: dict[str, Any] | None
    collapsed: str | None = None
    """How an edited model shows that it has broken down; None if it does not."""
    edited: EditRecord | None = None
    """None for the unedited model. Its fields stand in the file among the others."""
    settings: dict[str, Any]
    environment: dict[str, Any]
    seconds: dict[str, float]

    def to_json(self) -> str:
        """The text of the file."""
        content: dict[str, Any] = {"format": FORMAT}
        for key, value in asdict(self).items():
            if key == "edited":
                content |= value or {}
            elif key != "collapsed" or value:
                content[key] = value
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: object) -> "Result":
        """Read `to_json`'s text, or that of an older file. UserError, naming `where`, for anything else."""
        try:
            return _result(json.loads(text))
        except KeyError as error:
            raise malformed(where, f"it has no {short(error.args[0])}") from error
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise malformed(where, first_line(error)) from error


def malformed(where: object, reason: str) -> UserError:
    """The error to raise for a file that is no result."""
    hint = "move it away, or make it again with --overwrite"
    return UserError(f"{where}: not a result file of this project ({reason}); {hint}")


def _result(content: dict[str, Any]) -> Result:
    if _object(content).get("format", FORMAT) != FORMAT:
        raise ValueError(f"its format is {short(content['format'])}, this version reads {FORMAT}")
    metrics = {name: _measure(value) for name, value in content["metrics"].items()}
    for name, measure in metrics.items():
        if not math.isfinite(measure.value + measure.low + measure.high):
            raise ValueError(f"metric {short(name)} is not a number")
    if content["headline"] not in metrics:
        raise ValueError(f"its headline, {short(content['headline'])}, is not among its metrics")
    settings, published, n = _object(content["settings"]), content.get("published"), int(content["n"])
    edited = _edit_record(content) if settings["edit"] else None
    return Result(
        task=str(content["task"]),
        headline=content["headline"],
        metrics=metrics,
        n=n,
        completions=int(content.get("completions", n)),
        truncated=int(content.get("truncated", 0)),
        degenerate={kind: int(count) for kind, count in (content.get("degenerate") or {}).items()},
        published=published and _object(published),
        collapsed=(reason := content.get("collapsed")) and str(reason),
        edited=edited,
        settings=settings if edited is None else _as_made(settings, edited),
        environment=_object(content["environment"]),
        seconds=_object(content.get("seconds", {})),
    )


def _as_made(settings: dict[str, Any], edited: EditRecord) -> dict[str, Any]:
    """The settings, with words of their own for what an older version understood by the same ones.

    Before results noted their context templates, ROME and MEMIT drew them in another way, and `key: mean` of ROME was
    the mean of the keys alone.
    """
    edit = settings["edit"]
    if edit.get("method") not in ("ROME", "MEMIT") or not edited.updates:
        return settings
    if any("context_templates" in (update.get("notes") or {}) for update in edited.updates):
        return settings
    older = dict(edit.get("hparams") or {})
    older |= {"context_templates": "drawn as of old"} if older.get("context_templates", ()) is None else {}
    older |= {"key": "mean, of keys alone"} if older.get("key") == "mean" else {}
    return {**settings, "edit": {**edit, "hparams": older}}


def _edit_record(content: Mapping[str, Any]) -> EditRecord:
    quality = {
        stage: {name: _measure(value) for name, value in part.items()}
        for stage, part in content.get("quality", {}).items()
    }
    rest = {key: content[key] for key in ("change", "refused", "updates", "edits") if content.get(key) is not None}
    return EditRecord(quality=quality, **rest)


def _measure(value: Mapping[str, Any]) -> Measure:
    return Measure(*(float(value[key]) for key in ("value", "low", "high")))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {short(value)}")
    return value


def stem(root: Path, task: str, plan: EditPlan | None) -> Path:
    """The path of a result without its ending: test-<task>/result-<task>-..., fixed by the protocol."""
    if plan is None:
        tail = "before-edit"
    else:
        count = f"{plan.batch_size}*{plan.updates}" if plan.mode == "Batch-Sequential" else str(plan.edits)
        tail = f"{plan.mode}-{plan.method}-{count}"
    return root / f"test-{task}" / f"result-{task}-{tail}"


def beside_another_range(path: Path, settings: Mapping[str, Any]) -> Path:
    """The stem of a result with these settings: `path`, or a name of its own beside a result of other edits there.

    The edits of the other one are as many, and all else is the same, so that the two are repeats:
    result-NLI-Instance-Sequential-ROME-2@202 begins at record 202, ...@202+3 takes every third from there.
    """
    edit = settings["edit"]
    if edit is None:
        return path
    begin, _, step = edit["range"]
    own = path.with_name(f"{path.name}@{begin}" + (f"+{step}" if step != 1 else ""))
    if _ending(own, ".json").exists():
        return own
    try:
        other = read(_ending(path, ".json")).settings
    except UserError:  # none, or one that `existing` has something to say about
        return path
    theirs = other["edit"]
    if not isinstance(theirs, dict) or theirs.get("range") == edit["range"]:
        return path
    try:
        as_many = len(range(*theirs["range"])) == len(range(*edit["range"]))
    except (KeyError, TypeError, ValueError):  # of no file of ours
        return path
    if not as_many:  # 7 and 10 edits in batches of 5 are both "5*2"
        return path
    return own if same({**other, "edit": {**theirs, "range": edit["range"]}}, settings) else path


def without_paths(value: Any) -> Any:
    """Settings without where data lay: the hash beside a path says what was read, and the kind from where."""
    if isinstance(value, dict):
        return {k: without_paths(part) for k, part in value.items() if not (k == "path" and "sha256" in value)}
    return value


def same(old: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the settings of an older result and these give the same numbers."""
    return bool(without_paths(old) == without_paths(recorded(settings, old)))


def read(file: Path) -> Result:
    """The result in a .json file. UserError for a file that cannot be read or is no result."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise malformed(file, first_line(error)) from error
    return Result.from_json(text, file)


def read_samples(file: Path) -> Scored:
    """The samples in a .jsonl file, in data-set order. UserError if it is malformed."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        return [
            (
                Sample(str(line["id"]), line["prompt"], line["reference"]),
                Completion(
                    line["completion"],
                    line["choice"],
                    line["truncated"],
                    ended=line.get("ended"),
                    full=line.get("full"),
                    measures=_object(line.get("measures", {})),
                ),
                Score(line["score"], line["answer"], _object(line["parts"])),
            )
            for line in lines
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{file}: not the samples of a result ({reason}); move both its files away") from error


def existing(path: Path, settings: dict[str, Any], overwrite: bool) -> Result | None:
    """The result at this stem if it was made with these settings; None if it is to be made.

    Raises UserError for one made with other settings, or for a file that is no result, unless `overwrite`.
    """
    file = _ending(path, ".json")
    if overwrite or not file.exists():
        return None
    result = read(file)
    if same(result.settings, settings):
        return result
    differing = differences(*map(without_paths, (result.settings, recorded(settings, result.settings))))
    raise UserError(
        f"{file} was made with other settings ({differing}); use --overwrite, or --results DIR for another place"
    )


def recorded(settings: Mapping[str, Any], old: Any) -> Mapping[str, Any]:
    """`settings` without what the model part of older ones lacks: it was not recorded then, and is not compared."""
    now, then = (part.get("model") if isinstance(part, dict) else None for part in (settings, old))
    if not isinstance(now, dict) or not isinstance(then, dict):
        return settings
    return {**settings, "model": {key: value for key, value in now.items() if key in then}}


def differences(old: Any, new: Any, path: str = "") -> str:
    """The settings that differ, by their dotted names: ten at each level, as a foreign file can hold any number."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        names = {key: f"{path}.{short(key)[1:-1]}".lstrip(".") for key in keys[:10]}
        parts = [differences(old.get(key), new.get(key), name) for key, name in names.items()]
        return ", ".join(parts + [f"and {len(keys) - 10} more"] * (len(keys) > 10))
    return f"{path}: {short(old, 24)}, now {short(new, 24)}"


def write(path: Path, result: Result, scored: Sequence[tuple[Sample, Completion, Score]]) -> None:
    """Write both files of a result, the .json last. Raises UserError if there is no room or no permission.

    An older result is only touched once both files are on the disk under temporary names.
    """
    lines = (
        {"id": s.id, "prompt": s.prompt, "completion": c.text, "choice": c.choice, "truncated": c.truncated}
        | {"ended": c.ended, "full": c.full}
        | {"answer": score.answer, "reference": s.reference, "score": score.value, "parts": dict(score.parts)}
        | ({"measures": dict(c.measures)} if c.measures else {})
        for s, c, score in scored
    )
    samples = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    place(path, samples, result.to_json())


def place(path: Path, samples: str, summary: str) -> None:
    """Write both files of a result, made here or elsewhere, as `write` says."""
    hint = "--results DIR names another place"
    last, first = _ending(path, ".json"), _ending(path, ".jsonl")
    with whole(last, hint, locked=True) as new_last, whole(first, hint, locked=True) as new_first:
        new_last.write_text(summary, encoding="utf-8")
        new_first.write_text(samples, encoding="utf-8")
        last.unlink(missing_ok=True)  # never an old summary beside new samples


def _ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)  # a model's name may hold a dot


def plain(value: Any) -> Any:
    """`value` as it comes back from a JSON file (tuples become lists)."""
    return json.loads(json.dumps(value))


def writable(root: Path, flag: str = "--results") -> None:
    """Fail before any work is done if results could not be written there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"\0" * 65536)
    except OSError as error:
        raise UserError(f"cannot write results to {root}: {error.strerror}; {flag} DIR names another place") from error


def table(metrics: Mapping[str, Measure], n: int) -> str:
    """Metric, value and interval, one a line; the first is the headline."""
    width = max(map(len, metrics))
    lines = [f"{'metric':<{width}}   value   95 % interval     n"]
    lines += [f"{name:<{width}}  {m.value:6.3f}  [{m.low:.3f}, {m.high:.3f}]  {n:5d}" for name, m in metrics.items()]
    return "\n".join(lines)
