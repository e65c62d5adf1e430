"""Result files: the only place that names or writes them.

`<stem>.json` says what was measured and what made it, `<stem>.jsonl` holds one line per sample. Both are written under
a temporary name and moved into place, the .json last: where it exists, the result is whole.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.disk.whole import whole
from core.errors import UserError
from core.messages import short
from core.types import Completion, Measure, Mode, Sample, Score


@dataclass(frozen=True, slots=True)
class EditPlan:
    """The edits of a run, as far as a file name tells: `method` with its regulariser, e.g. "ROME-RECT40"."""

    mode: Mode
    method: str
    edits: int
    batch_size: int | None = None

    @property
    def updates(self) -> int:
        size = {"Instance-Sequential": 1, "Batch-Single": self.edits}.get(self.mode, self.batch_size)
        assert size
        return -(-self.edits // size)


def stem(root: Path, task: str, plan: EditPlan | None) -> Path:
    """The path of a result without its ending: test-<task>/result-<task>-..., fixed by the protocol."""
    if plan is None:
        tail = "before-edit"
    else:
        count = f"{plan.batch_size}*{plan.updates}" if plan.mode == "Batch-Sequential" else str(plan.edits)
        tail = f"{plan.mode}-{plan.method}-{count}"
    return root / f"test-{task}" / f"result-{task}-{tail}"


def existing(path: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The result at this stem if it was made with these settings; None if it is to be made.

    Raises UserError for one made with other settings, unless `overwrite`.
    """
    file = _ending(path, ".json")
    if overwrite or not file.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        made_with = found["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: not a result file of this project; move it away or use --overwrite") from error
    if made_with == settings:
        return found
    differing = differences(made_with, settings)
    raise UserError(
        f"{file} was made with other settings ({differing}); use --overwrite, or --results DIR for another place"
    )


def differences(old: Any, new: Any, path: str = "") -> str:
    """The settings that differ, by their dotted names: ten at each level, as a foreign file can hold any number."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        named = {key: f"{path}.{short(key)[1:-1]}".lstrip(".") for key in keys[:10]}
        told = [differences(old.get(key), new.get(key), name) for key, name in named.items()]
        return ", ".join(told + [f"and {len(keys) - 10} more"] * (len(keys) > 10))
    return f"{path}: {short(old, 24)}, now {short(new, 24)}"


def write(path: Path, summary: dict[str, Any], scored: Sequence[tuple[Sample, Completion, Score]]) -> None:
    """Write both files of a result, the summary last. Raises UserError if there is no room or no permission.

    An older result is only touched once both files are on the disk under temporary names.
    """
    lines = (
        {"id": s.id, "prompt": s.prompt, "completion": c.text, "choice": c.choice, "truncated": c.truncated}
        | {"answer": score.answer, "reference": s.reference, "score": score.value, "parts": dict(score.parts)}
        for s, c, score in scored
    )
    samples = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    place(path, samples, json.dumps(summary, ensure_ascii=False, indent=1) + "\n")


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


def table(metrics: dict[str, Measure] | dict[str, dict[str, float]], n: int) -> str:
    """Metric, value and interval, one a line; the first is the headline."""
    rows = [(name, m if isinstance(m, dict) else asdict(m)) for name, m in metrics.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'metric':<{width}}   value   95 % interval     n"]
    lines += [f"{name:<{width}}  {m['value']:6.3f}  [{m['low']:.3f}, {m['high']:.3f}]  {n:5d}" for name, m in rows]
    return "\n".join(lines)
