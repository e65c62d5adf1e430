"""Is a score another one than before the edits, or without the regulariser? Paired by record, two-sided."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr
from scipy.stats import binomtest

from core.metrics import SEED, Array, columns, one, value
from core.types import Measure, Ratio

RESAMPLES = 10_000
SMALLEST = 2 / (RESAMPLES + 1)
"""The smallest p of a bootstrap: it does not survive Holm's correction over 250 comparisons."""
LEVEL = 0.05
FEW = 500
"""Records, whose resamples take 40 MB as floats."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Score minus the score `before`, its 95 % interval, and the two-sided p of no difference, by which test."""

    measure: Measure
    p: float
    test: str
    before: float
    records: int
    """How many pairs of them there are."""


def binary(ratio: Ratio) -> bool:
    """Right or wrong, once per record."""
    return (
        ratio.top.ndim == 1
        and ratio.mean is None
        and bool((ratio.bottom == 1).all() and np.isin(ratio.top, (0, 1)).all())
    )


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p: of the records that changed, `lost` became wrong and `won` right (McNemar 1947)."""
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def fewest_changes(comparisons: int) -> int:
    """How many records must change, all of them one way, before McNemar's exact test is significant after Holm.

    `comparisons`: those that are not significant yet, by which Holm's method multiplies the next p. The smallest m with
    comparisons 2 (1/2)^m < LEVEL, as m changes one way have p = 2 (1/2)^m: 6 for one comparison. Of n records that is a
    difference of m / n; if m > n no difference between n records can be significant.
    """
    return next(m for m in count(1) if comparisons * mcnemar(m, 0) < LEVEL)


def t_test(before: Ratio, after: Ratio) -> float:
    """Two-sided p of Student's t, n - 1 degrees of freedom: the records' shares in the difference have mean 0.

    Of a mean, a record's share is the change of its own value; of another ratio it is that to first order (the delta
    method, Cochran 1977, section 6.3). 1 for a single record.
    """
    shares = _shares(after) - _shares(before)
    n, change = len(shares), shares.mean()
    if n == 1 or change == 0:
        return 1.0
    with np.errstate(divide="ignore"):
        t = change / (shares.std(ddof=1) / n**0.5)
    return float(2 * stdtr(n - 1, -abs(t)))


def _shares(ratio: Ratio) -> Array:
    """Each record's share in a ratio: (n,), their mean is its value."""
    if ratio.mean is not None:
        return _jackknifed(ratio)
    top, bottom = (part.reshape(len(part), -1) for part in (ratio.top, ratio.bottom))  # (n, m)
    whole = bottom.mean(axis=0)
    value = np.divide(top.mean(axis=0), whole, out=np.zeros_like(whole), where=whole != 0)
    beside = np.divide(top - value * bottom, whole, out=np.zeros_like(top), where=whole != 0)
    shares: Array = (value + beside).mean(axis=1)
    return shares


def _jackknifed(ratio: Ratio) -> Array:
    """The same of what is no mean of ratios: how far the value moves without each record (Efron 1982, chapter 3)."""
    rows = columns(ratio.top, ratio.bottom)  # (2m, n)
    without = one(ratio)(rows.sum(axis=1) - rows.T)
    shares: Array = value(ratio) + (len(without) - 1) * (without.mean() - without)
    return shares


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted for their number, step down (Holm 1979), in the order given."""
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


@lru_cache(maxsize=2)
def resamples(n: int, stream: int = 0) -> NDArray[np.int16]:
    """How often each of n is drawn in each resample: (RESAMPLES, n). Streams are independent of each other."""
    rng = np.random.default_rng([SEED, stream, n])
    counts = np.empty((RESAMPLES, n), dtype=np.int16)
    for rows in np.split(counts, 10):
        drawn = rng.integers(0, n, size=rows.shape) + n * np.arange(len(rows))[:, None]
        rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
    counts.flags.writeable = False
    return counts


def resampled(runs: Sequence[Ratio], stream: int = 0) -> Array:
    """The score of each run in each resample of the records they share: (RESAMPLES, runs)."""
    rows = [row for run in runs for row in columns(run.top, run.bottom)]  # m tops and m bottoms of every run
    stacked = np.stack(rows, axis=1)  # (n, 2 runs m)
    sums = np.concatenate([part @ stacked for part in _parts(len(stacked), stream)])
    parts = np.split(sums, len(runs), axis=1)
    return np.stack([one(run)(part) for run, part in zip(runs, parts, strict=True)], axis=1)


def _parts(n: int, stream: int) -> list[Any]:
    """The resamples in parts: as floats, so that they need not be converted each time, where these are few."""
    return np.array_split(_floats(n, stream) if n <= FEW else resamples(n, stream), 10)


@lru_cache(maxsize=2)
def _floats(n: int, stream: int) -> Array:
    return resamples(n, stream).astype(np.float64)


def over_repeats(scores: Array) -> Array:
    """Scores (RESAMPLES, runs) -> their mean over a resample of the runs too: (RESAMPLES,).

    With the records resampled already, this is the pigeonhole bootstrap for crossed factors (Owen 2007).
    """
    runs = scores.shape[1]
    if runs == 1:
        return scores[:, 0]
    means: Array = (scores * resamples(runs, stream=1)).sum(axis=1) / runs
    return means


def interval(center: float, draws: Array) -> Measure:
    """Percentile interval of the resampled values, widened to hold the value itself."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Measure(center, min(float(low), center), max(float(high), center))


def mean(runs: Sequence[Ratio]) -> Measure:
    """The mean score of repeated runs; the interval is over their records and over the runs."""
    return interval(float(np.mean([value(run) for run in runs])), over_repeats(resampled(runs)))


def difference(before: Sequence[Ratio], after: Sequence[Ratio]) -> Difference:
    """The mean score of the runs `after` minus that of `before`, which is one run, or one for each of `after`.

    p: of one run exact McNemar where records are right or wrong, else a paired t-test; of several runs from the paired
    bootstrap. Raises ValueError if the records are not the same.
    """
    if any(run.records != before[0].records for run in (*before, *after)):
        raise ValueError("the records are not the same")
    drawn = resampled([*before, *after])
    draws = over_repeats(drawn[:, len(before) :] - drawn[:, : len(before)])
    start = float(np.mean([value(run) for run in before]))
    measure = interval(float(np.mean([value(run) for run in after])) - start, draws)
    p, test = _tested(before[0], after[0]) if len(after) == 1 else (bootstrap_p(draws), "bootstrap")
    return Difference(measure, p, test, start, len(before[0].records))


def _tested(before: Ratio, after: Ratio) -> tuple[float, str]:
    """The p of one run's difference, and by which test."""
    if binary(after) and binary(before):
        change = after.top - before.top
        return mcnemar(int((change < 0).sum()), int((change > 0).sum())), "McNemar"
    return t_test(before, after), "t"


def bootstrap_p(draws: Array) -> float:
    """Two-sided p that the resampled differences lie about 0: twice the smaller tail, 0 in both, one added to each."""
    below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(draws) + 1))
