"""core.metrics: reading, comparing, averaging."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import metrics
from core.metrics import (
    between,
    first_line,
    first_number,
    headline,
    mean,
    measure,
    normalise,
    numbers,
    plain_number,
    rouge,
    summarize,
    value,
)
from core.types import Completion, Measure, Ratio, Sample, Score, Scored


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Quick, brown\tfox!", "quick brown fox"),
        ("A theatre and an ant", "theatre and ant"),
        ("U.S.A.", "usa"),
        ("a.n", ""),
        ("Wilhelm Röntgen\n", "wilhelm röntgen"),
        ("", ""),
        ("an-other", "another"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(max_size=60))
def test_normalise_twice_is_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 18.", [18]),
        ("18.0 eggs", [18]),
        ("$1,200 or 1200", [1200, 1200]),
        ("$ 5 and € 7.50", [5, 7.5]),
        ("-3", [-3]),
        ("= -3", [-3]),
        ("-$5, $-6, \u22127", [-5, -6, -7]),
        ("12-5", [12, 5]),
        ("x-5", [5]),
        ("1,450,000", [1450000]),
        ("1,2,3", [1, 2, 3]),
        ("1,2000", [1, 2000]),
        (".5", [0.5]),
        ("5$6", [5, 6]),
        ("<<16-3-4=9>>9 eggs", [16, 3, 4, 9, 9]),
        ("No.5", [5]),
        ("Rs.18 or Rs.18.50", [18, 18.5]),
        ("- 5", [5]),
        ("16 -5", [16, -5]),
        ("16 - 5", [16, 5]),
        ("\u20135", [5]),  # an en dash
        ("none", []),
        ("", []),
    ],
)
def test_numbers(text: str, expected: list[float]) -> None:
    assert numbers(text) == expected
    assert first_number(text) == (expected[0] if expected else None)


@given(st.integers(-(10**12), 10**12))
def test_a_number_is_read_back_with_and_without_commas(number: int) -> None:
    assert numbers(f"It is ${number:,}.") == numbers(f"It is {number}") == [number]


def test_first_line() -> None:
    assert first_line(" Paris \r\nQ: next") == "Paris"
    assert first_line("\nParis") == ""


def test_rouge_by_hand() -> None:
    # unigrams shared: 4 of 5 and of 4 -> 8/9; bigrams: 2 of 4 and of 3 -> 4/7; longest common subsequence: 4
    scores = rouge("the black cat sat down", "the cat sat down")
    assert scores == pytest.approx({"rouge1": 8 / 9, "rouge2": 4 / 7, "rougeL": 8 / 9})
    assert rouge("cats", "cat")["rouge1"] == 0, "no stemming"
    assert rouge("a b", "") == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        *((text, True) for text in ("18", "-0.5", "1,200", "1,200.5", "$5", "-$5", "$ 5", ".5", "\u22127")),
        *((text, False) for text in ("3/4", "1e6", "1,20,000", "10:30", "5 %", "5k", "", " 5", "5.", "1 2", "\u0663")),
    ],
)
def test_plain_number(text: str, plain: bool) -> None:
    assert plain_number(text) is plain


@pytest.mark.parametrize(
    ("text", "said"), [("x a: b a: c", " b "), ("x a: b", " b"), ("x b", ""), ("a:", ""), ("a:a: b", "")]
)
def test_between(text: str, said: str) -> None:
    assert between(text, "a:") == said


def test_rouge_of_other_scripts() -> None:
    """Words whole, with their marks; characters of scripts without blanks one by one. Mostly Latin text as ever."""
    words = metrics.Words().tokenize
    assert words("Маша пошла, ДОМОЙ!") == ["маша", "пошла", "домой"]
    assert words("小明 AI 回家") == ["小", "明", "ai", "回", "家"]
    assert words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert words("e\u0301 \u00e9") == ["\u00e9", "\u00e9"]
    assert rouge("Маша пошла домой", "Маша ушла домой")["rouge1"] == pytest.approx(2 / 3)
    assert rouge("she met Маша", "she met Иван")["rouge1"] == 1, "the name is no word to rouge-score"
    assert rouge("caf\u00e9 x", "caf x")["rouge1"] == 1


def test_mean() -> None:
    result = measure([1, 0, 1, 1])
    assert result.value == 0.75
    assert 0 <= result.low < 0.75 < result.high <= 1


def test_ratio_of_sums() -> None:
    assert measure([2, 0, 1], [2, 2, 2]).value == 0.5
    assert measure([0, 0], [0, 0]) == Measure(0.0, 0.0, 0.0)
    # a resample that draws the second sample alone has no denominator: 0, not NaN
    result = measure([1, 0], [1, 0])
    assert (result.value, result.low, result.high) == (1.0, 0.0, 1.0)


def test_mean_of_ratios() -> None:
    pairs = [([1, 1], [1, 1]), ([0, 1], [2, 2]), ([0, 0], [0, 0])]
    top, bottom = (np.array([pair[i] for pair in pairs], dtype=float).T for i in (0, 1))
    assert measure(top, bottom).value == pytest.approx((1 + 0.25 + 0) / 3)
    assert measure(top, bottom).value == value(Ratio(("a", "b"), top, bottom))
    assert measure(top[:, :1], bottom[:, :1]) == measure(*pairs[0])


@pytest.mark.parametrize("values", [[], np.zeros(0)])
def test_no_samples(values: list[float]) -> None:
    with pytest.raises(ValueError, match="no samples"):
        measure(values)
    with pytest.raises(ValueError, match="no samples"):
        measure(values, values)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        measure([1, 2], [1])


def test_the_bootstrap_is_deterministic_and_does_not_depend_on_what_ran_before() -> None:
    values = np.arange(50) % 3
    first = measure(values)
    measure(np.arange(7))
    metrics._resample_counts.cache_clear()
    assert measure(values) == first


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    """The matrix product equals drawing samples one by one; and both come near the normal interval p +- 1.96 se."""
    values = np.random.default_rng(3).random(200)
    rng = np.random.default_rng(metrics.SEED)
    means = [values[rng.integers(0, 200, size=200)].mean() for _ in range(metrics.RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    result = measure(values)
    assert (result.low, result.high) == pytest.approx((low, high))
    se = values.std() / math.sqrt(200)
    assert (result.high - result.low) == pytest.approx(2 * 1.96 * se, rel=0.1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_interval_holds_the_value(values: list[float]) -> None:
    result = measure(values)
    assert result.low <= result.value <= result.high


def test_the_counts_are_small_and_shared() -> None:
    counts = metrics._resample_counts(3610)
    assert counts.shape == (metrics.RESAMPLES, 3610)
    assert counts.itemsize == 2
    assert (counts.sum(axis=1) == 3610).all()
    assert metrics._resample_counts(3610) is counts
    with pytest.raises(ValueError, match="read-only"):
        counts[0, 0] = 1


def scored(*values: float | None, ids: str = "a b c d") -> Scored:
    pairs = zip(ids.split(), values, strict=False)
    return [(Sample(id_, "", None), Completion(""), Score(value, "")) for id_, value in pairs]


def test_headline() -> None:
    ratios = headline("accuracy", scored(1.0, 0.0, None, 1.0))
    assert {name: value(ratio) for name, ratio in ratios.items()} == pytest.approx(
        {"accuracy": 0.5, "answered": 0.75, "accuracy_answered": 2 / 3}
    )
    assert list(ratios) == ["accuracy", "answered", "accuracy_answered"]
    assert value(headline("f1", scored(None, None))["f1_answered"]) == 0.0


def test_samples_of_a_record_are_added_up() -> None:
    """Resampled are records: two of them here, of two samples and of one."""
    ratio = mean(scored(1.0, 0.0, 1.0, ids="0/a 1/a 0/b"), [1.0, 0.0, 1.0])
    assert ratio.records == ("0", "1")
    assert (ratio.top.tolist(), ratio.bottom.tolist()) == ([2.0, 0.0], [2.0, 1.0])
    weighted = mean(scored(1.0, 0.0, 1.0, ids="0/a 1/a 0/b"), [1.0, 0.0, 1.0], [1.0, 0.0, 0.0])
    assert weighted.bottom.tolist() == [1.0, 0.0]


class Constant:
    """A task of one metric, whose ratio is given."""

    def __init__(self, ratio: Ratio) -> None:
        self.ratio = ratio

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        return {"x": self.ratio}


def test_summarize_keeps_the_value_of_a_reference_scorer() -> None:
    """If it is the same up to rounding; the interval holds it."""
    top, bottom = np.array([1.0, 1.0, 1.0]), np.array([3.0, 3.0, 3.0])
    third = np.nextafter(1 / 3, 0)
    task: Any = Constant(Ratio(("0", "1", "2"), top, bottom, third))
    assert summarize(task, scored(1.0)) == {"x": Measure(third, third, measure(top, bottom).high)}
    with pytest.raises(AssertionError):
        summarize(Constant(Ratio(("0", "1", "2"), top, bottom, 0.3)), scored(1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no samples"):
        summarize(task, [])


def test_a_difference_is_paired() -> None:
    """The records are resampled together: where every record falls alike there is no doubt about the fall."""
    rng = np.random.default_rng(1)
    records, ones = tuple(map(str, range(40))), np.ones(40)
    before = Ratio(records, rng.random(40), ones)
    after = Ratio(records, before.top - 0.125, ones)
    gap = metrics.difference(before, after)
    assert (gap.value, gap.low, gap.high) == pytest.approx((-0.125,) * 3)
    assert metrics.difference(before, before) == Measure(0.0, 0.0, 0.0)
    other = metrics.difference(before, Ratio(records, rng.random(40), ones))
    assert other.low < other.value < other.high


def test_a_measure_is_compared_where_both_have_it() -> None:
    """b has none before, c none after: of a and d the mean changes by (-1 - 3) / 2."""
    before = Ratio(tuple("abcd"), np.array([1.0, 0.0, 7.0, 2.0]), np.array([1.0, 0.0, 1.0, 1.0]))
    after = Ratio(tuple("abcd"), np.array([0.0, 9.0, 0.0, -1.0]), np.array([1.0, 1.0, 0.0, 1.0]))
    first, last = metrics.shared([before, after])
    assert first.records == last.records == ("a", "d")
    assert metrics.difference(first, last).value == pytest.approx(-2.0)
    assert metrics.shared([before, Ratio(tuple("abcd"), np.zeros(4), np.zeros(4))])[0].records == ()
