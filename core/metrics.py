"""Pure functions on text and numbers: reading answers, comparing them, averaging them with an interval.

Every metric of this project is a ratio of sums over records, so one bootstrap serves all of them:

    mean            sum x / samples              answered only     sum correct / sum answered
    precision       sum tp / sum (tp + fp)       F1                sum 2 tp / sum (2 tp + fp + fn)

The resamples depend on the number of records alone: two runs over the same data set (before and after an edit) are
resampled alike, so their metrics can be compared pair by pair.
"""

import math
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.types import Measure, Ratio, Scored, Task

RESAMPLES = 1000
SEED = 0
MEASURES = ("text_logprob", "reference_logprob", "reference_logprob_best", "choice_probability", "drift")
"""How likely a model finds the texts of a sample: see core.lm.likelihood."""
BELOW = "/n"
"""Behind the name of one of `Score.parts`: what it is a share of, where that is not 1."""
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")

Array = NDArray[np.float64]

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CURRENCY = re.compile(r"(?<![0-9])[$€£¥₹] ?(?=[-\u2212.0-9])")
# A dash is a sign unless something it could be subtracted from stands before it: "12-5" is 12 and 5.
_NUMBER = re.compile(
    r"(?:(?<![\w)])[-\u2212])?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+)"
)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces (SQuAD 1.1's and NQ-open's evaluation)."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def first_line(text: str) -> str:
    """What stands before the first line break, stripped; "" if the text starts with one."""
    return text.partition("\n")[0].strip()


def between(text: str, mark: str) -> str:
    """What stands between the first and the second `mark`; to the end if there is one, "" if there is none."""
    return "".join(text.split(mark)[1:2])


def numbers(text: str) -> list[float]:
    """All numbers of the text in order; thousands commas and currency signs are dropped: "$1,200." is 1200.

    A hyphen or minus sign makes a number negative if it stands right before it (or its currency sign) and right behind
    no word, number or closing bracket: " -5" and "16 -5" have -5, "x-5" and "12-5" have 5, and so has "- 5", a list.
    A full stop behind a letter begins no fraction: "No.5" is 5. One too large for a float (above 1.8e308) is left out.
    """
    written = _NUMBER.findall(_CURRENCY.sub("", text))
    values = (float(number.replace(",", "").replace("\u2212", "-")) for number in written)
    return [value for value in values if math.isfinite(value)]


def plain_number(text: str) -> bool:
    """Whether the whole text is one number as `numbers` reads it: no fraction, power, time, unit or other grouping."""
    return _NUMBER.fullmatch(_CURRENCY.sub("", text)) is not None


def first_number(text: str) -> float | None:
    """The first number of the text, None if it has none."""
    return next(iter(numbers(text)), None)


def rouge(reference: str, text: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L F1 in [0, 1] by rouge-score, without stemming (its default and that of ROUGE-1.5.5).

    Its words are of the letters a to z and of digits. Where most letters of the reference are not Latin ones, words are
    those of `Words` in both texts.
    """
    letters = [unicodedata.name(char, "").startswith("LATIN") for char in reference if char.isalpha()]
    scores = _rouge_scorer(latin=2 * sum(letters) >= len(letters)).score(reference, text)
    return {kind: float(scores[kind].fmeasure) for kind in ROUGE_TYPES}


class Words:
    """Runs of letters, marks and digits, whatever the script; characters of one written without blanks are words."""

    alone = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

    def tokenize(self, text: str) -> list[str]:
        """Lower-case words in their order, composed and decomposed characters alike."""
        return "".join(map(self._spaced, unicodedata.normalize("NFC", text.lower()))).split()

    def _spaced(self, char: str) -> str:
        if unicodedata.category(char)[0] not in "LMN":
            return " "
        return f" {char} " if unicodedata.name(char, "").startswith(self.alone) else char


@lru_cache(maxsize=2)
def _rouge_scorer(latin: bool) -> Any:
    # 2 s to import: only when a summary is scored.
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    return RougeScorer(list(ROUGE_TYPES), use_stemmer=False, tokenizer=None if latin else Words())


def records(scored: Scored) -> tuple[str, ...]:
    """The records the samples belong to, in data-set order."""
    return tuple(dict.fromkeys(sample.record for sample, _, _ in scored))


def mean(scored: Scored, values: Iterable[float], counted: Iterable[float] | None = None) -> Ratio:
    """The mean of a value per sample, or sum(values) / sum(counted), added up by record."""
    place = {record: i for i, record in enumerate(records(scored))}
    index = [place[sample.record] for sample, _, _ in scored]

    def added(part: Iterable[float]) -> Array:
        sums = np.zeros(len(place))
        np.add.at(sums, index, np.fromiter(part, np.float64))
        return sums

    return Ratio(tuple(place), added(values), added((1.0 for _ in index) if counted is None else counted))


def part(scored: Scored, name: str) -> Ratio:
    """The mean of `Score.parts[name]`."""
    return mean(scored, (score.parts[name] for _, _, score in scored))


def by_parts(scored: Scored) -> dict[str, Ratio]:
    """Each of `Score.parts` summed up, over the sum of the part called so with BELOW, which is 1 where there is none.

    A sample that has not the part does not count.
    """
    parts = [score.parts for _, _, score in scored]
    names = dict.fromkeys(name for own in parts for name in own if not name.endswith(BELOW))
    return {
        name: mean(
            scored,
            (own.get(name, 0.0) for own in parts),
            (own.get(name + BELOW, 1.0) * (name in own) for own in parts),
        )
        for name in names
    }


def shared(parts: Sequence[Ratio]) -> list[Ratio]:
    """A measure's ratios over the records that have a value in all of them: one that is not finite is left out."""
    counted = np.all([ratio.bottom > 0 for ratio in parts], axis=0)
    kept = tuple(record for record, counts in zip(parts[0].records, counted, strict=True) if counts)
    return [replace(ratio, records=kept, top=ratio.top[counted], bottom=ratio.bottom[counted]) for ratio in parts]


def headline(name: str, scored: Scored) -> dict[str, Ratio]:
    """The three metrics every task starts with: the mean score, the share answered, the mean of the answered ones.

    None is an answer that could not be read: it counts as 0 in the first.
    """
    scores = [score.value or 0.0 for _, _, score in scored]
    answered = [float(score.value is not None) for _, _, score in scored]
    return {
        name: mean(scored, scores),
        "answered": mean(scored, answered),
        f"{name}_answered": mean(scored, scores, answered),
    }


def ratios(task: Task, scored: Scored) -> dict[str, Ratio]:
    """Every metric of the task over the same records, headline first, then what was measured with the completions."""
    return {**task.ratios(scored), **likelihoods(scored)}


def likelihoods(scored: Scored) -> dict[str, Ratio]:
    """The mean of each of `Completion.measures` over the samples that have it."""
    measures = [completion.measures for _, completion, _ in scored]
    return {
        name: mean(scored, (m.get(name, 0.0) for m in measures), (float(name in m) for m in measures))
        for name in MEASURES
        if any(name in m for m in measures)
    }


def summarize(task: Task, scored: Scored) -> dict[str, Measure]:
    """Those metrics with their intervals. Raises ValueError if there are no samples."""
    if not scored:
        raise ValueError("no samples to summarize")
    return {name: _measured(ratio) for name, ratio in ratios(task, scored).items()}


def _measured(ratio: Ratio) -> Measure:
    own, value = measure(ratio.top, ratio.bottom, ratio.mean), ratio.by_reference
    if value is None:
        return own
    assert math.isclose(value, own.value, abs_tol=1e-9), (value, own)
    return Measure(value, min(own.low, value), max(own.high, value))


def measure(
    numerators: ArrayLike, denominators: ArrayLike | None = None, mean: Callable[[Array], Array] | None = None
) -> Measure:
    """sum(numerators) / sum(denominators) with its 95 % interval; a mean without denominators.

    Shapes: (n,), or (n, m) for the mean of m such ratios (a macro average; `mean` may be `harmonic_mean`). Denominators
    that sum to 0 give 0.0.
    Percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of RESAMPLES seeded resamples; the interval is widened
    to hold the value itself. Raises ValueError when there are no samples.
    """
    top = np.asarray(numerators, dtype=np.float64)
    rows = columns(top, np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64))
    mean = mean or mean_ratio
    value = float(mean(rows.sum(axis=1)[None])[0])
    # In chunks, so that the counts are never all held as float64.
    chunks = np.array_split(_resample_counts(rows.shape[1]), 10)
    means = np.concatenate([mean(chunk @ rows.T) for chunk in chunks])  # (RESAMPLES,)
    low, high = np.percentile(means, [2.5, 97.5])
    return Measure(value, min(float(low), value), max(float(high), value))


def value(ratio: Ratio) -> float:
    """A metric over all its records, without its interval."""
    return float(one(ratio)(columns(ratio.top, ratio.bottom).sum(axis=1)[None])[0])


def one(ratio: Ratio) -> Callable[[Array], Array]:
    """What makes one number of the sums (r, 2m) of a metric: (r,)."""
    return ratio.mean or mean_ratio


def columns(top: Array, bottom: Array) -> Array:
    """(n,) or (n, m) twice -> (2m, n): top, bottom, top, bottom, ... Raises ValueError for no samples."""
    pair = np.stack([top, bottom])
    if pair.ndim not in (2, 3) or pair.shape[1] == 0:
        raise ValueError("no samples to measure")
    n = pair.shape[1]
    return pair.reshape(2, n, -1).transpose(2, 0, 1).reshape(-1, n)


def mean_ratio(sums: Array) -> Array:
    """Sums in that order (r, 2m) -> mean over the m of top / bottom, x / 0 being 0: (r,)."""
    means: Array = each_ratio(sums).mean(axis=1)
    return means


def harmonic_mean(sums: Array) -> Array:
    """As `mean_ratio`, but the harmonic mean of the m ratios, 0 where one of them is: (r,)."""
    ratios = each_ratio(sums)
    inverse = np.divide(1.0, ratios, out=np.full_like(ratios, np.inf), where=ratios > 0)
    means: Array = 1 / inverse.mean(axis=1)
    return means


def each_ratio(sums: Array) -> Array:
    """Sums in that order (r, 2m) -> top / bottom, x / 0 being 0: (r, m)."""
    top, bottom = sums[:, 0::2], sums[:, 1::2]
    ratios: Array = np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)
    return ratios


@lru_cache(maxsize=4)
def _resample_counts(n: int) -> NDArray[np.int16]:
    """How often each of n records is drawn in each resample: (RESAMPLES, n), every row sums to n.

    int16 keeps the largest data set (OpenDomainQA, 3610 records) at 7 MB.
    """
    rng = np.random.default_rng(SEED)
    counts = np.empty((RESAMPLES, n), dtype=np.int16)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, n, size=n), minlength=n)
    counts.flags.writeable = False
    return counts


def difference(before: Ratio, after: Ratio) -> Measure:
    """A metric `after` minus `before` over the same records, with its 95 % interval: both are resampled alike."""
    assert before.records == after.records, "a paired difference needs the same records"
    counts = _resample_counts(len(before.records))
    first, second = (one(r)(counts @ columns(r.top, r.bottom).T) for r in (before, after))  # (RESAMPLES,) each
    low, high = np.percentile(second - first, [2.5, 97.5])
    return Measure(value(after) - value(before), float(low), float(high))
