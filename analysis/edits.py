"""What results say about the edits themselves: did they take, how far have the weights moved, is the model broken?"""

import math
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from analysis import compare
from analysis.collect import Run
from core.metrics import Array
from core.results import EditRecord
from core.types import Measure

NAMES = ("reliability", "generalisation", "locality")


@cache
def quality(runs: tuple[Run, ...], stage: str, name: str) -> Measure | None:
    """Mean over the edits, and over repeated runs.

    `stage`: "before" any edit, after an edit's "own" update, or "after" the last one.
    The interval of one run is its own, over edits; of several a bootstrap over runs and, within each, over edits.
    """
    parts = [part for run in runs if (part := _record(run).quality.get(stage, {}).get(name))]
    if not parts or len(parts) < len(runs):
        return None
    if len(runs) == 1:
        return parts[0]
    value = float(np.mean([part.value for part in parts]))
    each = [_per_edit(run, stage, name) for run in runs]
    drawn = [compare.resamples(len(v), stream=2 + i) @ v / len(v) for i, v in enumerate(each) if len(v)]
    if len(drawn) < len(runs):
        return Measure(value, math.nan, math.nan)
    return compare.interval(value, compare.over_repeats(np.stack(drawn, axis=1)))


def _per_edit(run: Run, stage: str, name: str) -> Array:
    """0 or 1 for each edit that can be judged so."""
    values = []
    for edit in _record(run).edits:
        was, now = edit["before"], edit[stage]
        value = {
            "reliability": now["success"],
            "generalisation": now["rephrase_success"],
            "locality": None if was["locality_ids"] is None else was["locality_ids"] == now["locality_ids"],
        }[name]
        values += [] if value is None else [float(value)]
    return np.array(values)


def growth(run: Run) -> float | None:
    """||W_k - W_0|| / ||W_0|| over all edited parameters together; None if the result does not say."""
    parts = _record(run).change.values()
    whole = math.hypot(*(part["weight"] for part in parts))
    return math.hypot(*(part["norm"] for part in parts)) / whole if whole else None


def moved(runs: Sequence[Run]) -> Measure | None:
    """The mean growth of repeated runs, from the smallest to the largest; None where it is not known or not finite."""
    grown = [value for run in runs if (value := growth(run)) and math.isfinite(value)]
    return Measure(sum(grown) / len(grown), min(grown), max(grown)) if grown else None


def updates(run: Run) -> list[tuple[int, float]]:
    """(edits so far, Frobenius norm of the update over all its parameters) for every update."""
    done, norms = 0, []
    for update in _record(run).updates:
        done += len(update["edits"])
        norms.append((done, math.hypot(*update["norms"].values())))
    return norms


def collapse(runs: Iterable[Run]) -> tuple[int, str] | None:
    """After how many edits the first of these runs to collapse has, and how that shows; None if none has."""
    return min(((run.edits, run.result.collapsed) for run in runs if run.result.collapsed), default=None)


def _record(run: Run) -> EditRecord:
    return run.result.edited or EditRecord()
