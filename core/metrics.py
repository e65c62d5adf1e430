"""Pure functions on text and numbers: reading answers, comparing them, averaging them with an interval.

Every metric of this project is a ratio of sums over samples, so one bootstrap serves all of them:

    mean            sum x / n                    answered only     sum correct / sum answered
    precision       sum tp / sum (tp + fp)       F1                sum 2 tp / sum (2 tp + fp + fn)

The resamples depend on the number of samples alone: two runs over the same data set (before and after an edit) are
resampled alike, so their metrics can be compared pair by pair.
"""

import math
import re
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.types import Measure

RESAMPLES = 1000
SEED = 0
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CURRENCY = re.compile(r"(?<![0-9])[$€£¥₹] ?(?=[-\u2212.0-9])")
# A dash is a sign unless something it could be subtracted from stands before it: "12-5" is 12 and 5.
_NUMBER = re.compile(
    r"(?:(?<![\w)])[-\u2212])?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces (SQuAD 1.1's and NQ-open's evaluation)."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def first_line(text: str) -> str:
    """What stands before the first line break, stripped; "" if the text starts with one."""
    return text.partition("\n")[0].strip()


def numbers(text: str) -> list[float]:
    """All numbers of the text in order; thousands commas and currency signs are dropped: "$1,200." is 1200.

    One too large for a float (above 1.8e308) is none.
    """
    found = _NUMBER.findall(_CURRENCY.sub("", text))
    values = (float(number.replace(",", "").replace("\u2212", "-")) for number in found)
    return [value for value in values if math.isfinite(value)]


def first_number(text: str) -> float | None:
    """The first number of the text, None if it has none."""
    return next(iter(numbers(text)), None)


def rouge(reference: str, text: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L F1 in [0, 1] by rouge-score, without stemming (its default and that of ROUGE-1.5.5)."""
    scores = _rouge_scorer().score(reference, text)
    return {kind: float(scores[kind].fmeasure) for kind in ROUGE_TYPES}


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    # 2 s to import: only when a summary is scored.
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    return RougeScorer(list(ROUGE_TYPES), use_stemmer=False)


def measure(numerators: ArrayLike, denominators: ArrayLike | None = None) -> Measure:
    """sum(numerators) / sum(denominators) over samples, with its 95 % interval; a mean without denominators.

    Shapes: (n,) and (n,). Denominators that sum to 0 give 0.0. Raises ValueError when there are no samples.
    """
    top = np.asarray(numerators, dtype=np.float64)
    return measure_mean([(top, np.ones_like(top) if denominators is None else denominators)])


def measure_mean(ratios: Sequence[tuple[ArrayLike, ArrayLike]]) -> Measure:
    """The mean of several such ratios over the same n samples (a macro average), with its 95 % interval.

    Percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of RESAMPLES seeded resamples; the interval is
    widened to hold the value itself. Raises ValueError when there are no samples.
    """
    columns = np.stack([np.asarray(part, dtype=np.float64) for ratio in ratios for part in ratio])  # (2m, n)
    if columns.ndim != 2 or columns.shape[1] == 0:
        raise ValueError("no samples to measure")
    value = float(_mean_ratio(columns.sum(axis=1)[None])[0])
    # In chunks, so that the counts are never all held as float64.
    chunks = np.array_split(_resample_counts(columns.shape[1]), 10)
    means = np.concatenate([_mean_ratio(chunk @ columns.T) for chunk in chunks])  # (RESAMPLES,)
    low, high = np.percentile(means, [2.5, 97.5])
    return Measure(value, min(float(low), value), max(float(high), value))


def headline(name: str, values: Sequence[float | None]) -> dict[str, Measure]:
    """The three numbers every task starts with: metric, share answered, metric over the answered ones only.

    None is an answer that could not be read: it counts as 0 in the metric.
    """
    answered = [float(value is not None) for value in values]
    scores = [value or 0.0 for value in values]
    return {
        name: measure(scores),
        "answered": measure(answered),
        f"{name}_answered": measure(scores, answered),
    }


def _mean_ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns top, bottom, top, bottom, ... (r, 2m) -> mean over the m of top / bottom, x / 0 being 0 (r,)."""
    top, bottom = sums[:, 0::2], sums[:, 1::2]
    ratios: NDArray[np.float64] = np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)
    means: NDArray[np.float64] = ratios.mean(axis=1)
    return means


@lru_cache(maxsize=4)
def _resample_counts(n: int) -> NDArray[np.int16]:
    """How often each of n samples is drawn in each resample: (RESAMPLES, n), every row sums to n.

    int16 keeps the largest data set (NER, 13000 prompts) at 26 MB.
    """
    rng = np.random.default_rng(SEED)
    counts = np.empty((RESAMPLES, n), dtype=np.int16)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, n, size=n), minlength=n)
    counts.flags.writeable = False
    return counts
