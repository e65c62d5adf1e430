"""Retention by age: of the edits made early, how many still hold after the last one, and of those made late?

The edits of a run fall into cohorts by when they were made: between one number of edits that a setting was measured
after and the next, or where those are few, in equal parts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import compare
from analysis.collect import Run, Setting
from analysis.study import Study
from core.metrics import Array, measure
from core.types import Measure

FEWEST = 4
"""Cohorts; with fewer measured numbers of edits the sequence is cut evenly."""


@dataclass(frozen=True)
class Cohort:
    """The edits number `first` to `last` of a sequence, from 1, and how many hold after `edits` of them."""

    first: int
    last: int
    edits: int
    success: Measure

    @property
    def age(self) -> int:
        """How many edits were made since."""
        return self.edits - self.last


def cohorts(study: Study, setting: Setting) -> list[list[Cohort]]:
    """For each number of edits it was measured after its cohorts, oldest first. Intervals are those of the last number.

    Cohorts of repeated runs are their mean. Edits of refused updates were not made and do not count. Empty where all
    edits are made in one update, or results do not say which edit was made when.
    """
    if setting.mode == "Batch-Single":
        return []
    counts = study.counts(setting)
    made = {count: [_success(run) for run in study.runs(setting, count)] for count in counts}
    cuts = bounds([count for count in counts if all(values.size for values in made[count])])
    return [row for count in counts if (row := _row(made[count], count, cuts, count == cuts[-1]))] if cuts else []


def bounds(counts: Sequence[int]) -> list[int]:
    """The last edit of each cohort, given the numbers of edits measured after, in rising order."""
    if len(counts) >= FEWEST or not counts:
        return list(counts)
    parts = min(FEWEST, counts[-1])
    return [math.ceil(counts[-1] * i / parts) for i in range(1, parts + 1)]


def _success(run: Run) -> Array:
    """Whether each edit holds after the last one, in the order they were made: 1, 0, or NaN for one never made."""
    record = run.result.edited
    edits = record.edits if record else []
    refused = {index for part in (record.refused if record else ()) for index in part["edits"]}
    return np.array([math.nan if e["index"] in refused else float(e["after"]["success"]) for e in edits])


def _row(made: Sequence[Array], count: int, cuts: Iterable[int], last: bool) -> list[Cohort]:
    """The cohorts after `count` edits; those of the last number with intervals."""
    row, first = [], 1
    for cut in cuts:
        parts = [values[first - 1 : min(cut, count)] for values in made]
        known = [kept for part in parts if (kept := part[~np.isnan(part)]).size]
        if known and len(known) == len(made):
            row.append(Cohort(first, min(cut, count), count, _mean(known, last)))
        first = cut + 1
    return row


def _mean(parts: Sequence[Array], interval: bool) -> Measure:
    """Over the edits of each run, then over the runs; the interval is over both."""
    value = float(np.mean([part.mean() for part in parts]))
    if not interval:
        return Measure(value, math.nan, math.nan)
    if len(parts) == 1:
        return measure(parts[0])
    drawn = [compare.resamples(len(part), stream=2 + i) @ part / len(part) for i, part in enumerate(parts)]
    return compare.interval(value, compare.over_repeats(np.stack(drawn, axis=1)))
