"""analysis.compare: tests and intervals against numbers worked out by hand, and against naive twins."""

import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from analysis import compare
from analysis.compare import bootstrap_p, difference, holm, mcnemar, over_repeats, resampled, resamples
from core.metrics import measure, value
from core.types import Ratio


def ratio(top: list[float], bottom: list[float] | None = None) -> Ratio:
    ids = tuple(map(str, range(len(top))))
    return Ratio(ids, np.array(top, dtype=float), np.array(bottom or [1.0] * len(top)))


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (1, 8, 2 * (1 + 9) / 2**9),  # 0.0390625
        (8, 1, 0.0390625),
        (0, 5, 2 / 2**5),
        (2, 3, 1.0),  # twice a tail of more than half is still a probability
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_many_records() -> None:
    naive = 2 * sum(math.comb(2000, k) for k in range(901)) / 2**2000
    assert mcnemar(900, 1100) == pytest.approx(naive, rel=1e-12)
    assert naive < 1e-5


@pytest.mark.parametrize(
    ("comparisons", "needed"),
    [
        (1, 6),  # 2 / 2^6 = 0.031, and 2 / 2^5 = 0.0625
        (2, 7),  # 2 x 2 / 2^7 = 0.031
        (16, 10),  # 16 x 2 / 2^10 = 0.031
        (48, 11),  # 48 x 2 / 2^11 = 0.047
    ],
)
def test_fewest_changes(comparisons: int, needed: int) -> None:
    """Worked out by hand; one fewer is not enough, however the other comparisons come out."""
    assert compare.fewest_changes(comparisons) == needed
    rest = [1.0] * (comparisons - 1)
    assert holm([mcnemar(needed, 0), *rest])[0] < compare.LEVEL <= holm([mcnemar(needed - 1, 0), *rest])[0]


def test_fewest_changes_among_significant_ones() -> None:
    """Those that are significant already do not count: Holm's method steps down past them."""
    found = [1e-9] * 5
    for changed, significant in ((7, True), (6, False)):
        assert (holm([*found, mcnemar(changed, 0), 1.0])[5] < compare.LEVEL) is significant
    assert compare.fewest_changes(2) == 7


@pytest.mark.parametrize(
    ("values", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01, then 2 x 0.03, and never less than the one before
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm(values: list[float], adjusted: list[float]) -> None:
    assert holm(values) == pytest.approx(adjusted)


def test_resamples() -> None:
    counts = resamples(7)
    assert counts.shape == (compare.RESAMPLES, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx([1] * 7, abs=0.05)
    assert counts.var() == pytest.approx(6 / 7, abs=0.02)  # of a multinomial: n (1/n) (1 - 1/n)
    assert not (counts == resamples(7, stream=1)).all()


def test_resampled_is_what_a_loop_over_the_records_gives() -> None:
    runs = [ratio([1, 0, 2], [2, 1, 3]), ratio([0, 0, 1], [2, 1, 3])]
    found = resampled(runs)
    for row, counts in list(zip(found, resamples(3), strict=True))[:200]:
        for score, run in zip(row, runs, strict=True):
            drawn = [i for i, n in enumerate(counts) for _ in range(n)]
            assert score == pytest.approx(sum(run.top[i] for i in drawn) / sum(run.bottom[i] for i in drawn))


def test_resampled_means_of_several_ratios() -> None:
    """As NER's as_released: the mean of m ratios, here of two, beside a run whose second ratio is another."""
    top, bottom = np.array([[1.0, 0], [0, 2], [2, 1]]), np.array([[2.0, 1], [1, 2], [3, 1]])
    ids = ("0", "1", "2")
    first, second = (Ratio(ids, np.ascontiguousarray(top[:, i]), np.ascontiguousarray(bottom[:, i])) for i in (0, 1))
    both = resampled([Ratio(ids, top, bottom), Ratio(ids, top[:, ::-1], bottom[:, ::-1])])
    apart = resampled([first, second]).mean(axis=1)
    assert both == pytest.approx(np.stack([apart, apart], axis=1))
    whole = Ratio(ids, np.eye(3), np.ones((3, 3)))
    assert difference([whole], [whole]).test == "t"


def test_nothing_to_divide_by_is_zero() -> None:
    empty = ratio([0, 0], [0, 0])
    assert value(empty) == 0 and not resampled([empty]).any()


def test_the_interval_is_that_of_the_metrics() -> None:
    """The same bootstrap as in core.metrics, with other draws."""
    values = list(np.random.default_rng(1).random(200))
    ours, theirs = compare.mean([ratio(values)]), measure(values)
    assert ours.value == pytest.approx(theirs.value)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_repeats_that_disagree_widen_the_interval() -> None:
    """Records that are all alike have no variance: what is left is that between the runs."""
    low, high = ratio([0.2] * 5), ratio([0.8] * 5)
    found = compare.mean([low, high])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.2, 0.8))
    same = compare.mean([low, low])
    assert (same.low, same.high) == pytest.approx((0.2, 0.2))


def test_over_repeats_is_what_a_loop_over_the_runs_gives() -> None:
    scores = np.random.default_rng(2).random((compare.RESAMPLES, 3))
    found = over_repeats(scores)
    for i, counts in enumerate(resamples(3, stream=1)[:200]):
        drawn = [run for run, n in enumerate(counts) for _ in range(n)]
        assert found[i] == pytest.approx(np.mean([scores[i, run] for run in drawn]))


def test_difference_of_right_and_wrong() -> None:
    """Of 12 records 8 are lost and 1 is won."""
    before, after = ratio([1] * 8 + [0, 1, 0, 1]), ratio([0] * 8 + [1, 1, 0, 1])
    found = difference([before], [after])
    assert (found.test, found.p) == ("McNemar", pytest.approx(0.0390625))
    assert (found.before, found.records) == (pytest.approx(10 / 12), 12)
    assert found.measure.value == pytest.approx(-7 / 12)
    assert -1 <= found.measure.low < -7 / 12 < found.measure.high < 0


def test_difference_of_graded_scores_is_a_paired_t_test() -> None:
    """Its p is scipy's; its interval that of the records drawn pair by pair."""
    rng = np.random.default_rng(3)
    before = ratio(list(rng.random(30)))
    after = ratio(list(before.top + rng.normal(-0.05, 0.1, 30)))
    found = difference([before], [after])
    change = after.top - before.top
    naive = np.array([np.repeat(change, counts).mean() for counts in resamples(30)])
    assert (found.measure.low, found.measure.high) == pytest.approx(tuple(np.percentile(naive, [2.5, 97.5])))
    assert (found.test, found.p) == ("t", pytest.approx(ttest_rel(after.top, before.top).pvalue))
    assert 1e-4 < found.p < 0.05


def test_t_test_of_a_ratio_of_sums() -> None:
    """By the jackknife, which leaves out one record after the other: the same standard error up to 1 / n."""
    rng = np.random.default_rng(6)
    tops, bottom = rng.integers(0, 5, (2, 300)).astype(float), rng.integers(4, 9, 300).astype(float)
    tops[1] *= 0.93
    before, after = (Ratio(tuple(map(str, range(300))), top, bottom) for top in tops)
    rest = bottom.sum() - bottom
    left_out = (tops[1].sum() - tops[1]) / rest - (tops[0].sum() - tops[0]) / rest
    error = math.sqrt(299 / 300 * ((left_out - left_out.mean()) ** 2).sum())
    t = (value(after) - value(before)) / error
    assert compare.t_test(before, after) == pytest.approx(2 * student.sf(abs(t), 299), rel=0.02)
    both = Ratio(before.records, np.stack(tops, axis=1), np.stack([bottom, bottom], axis=1))  # the mean of two ratios
    swapped = Ratio(before.records, both.top[:, ::-1], both.bottom)
    assert compare.t_test(both, swapped) == 1.0
    assert compare.t_test(both, Ratio(before.records, both.top + bottom[:, None], both.bottom)) == pytest.approx(0)


def test_few_records_that_all_fall_are_no_proof() -> None:
    """Every resample of three falls is a fall: a bootstrap would take that for p = 0.0002."""
    found = difference([ratio([0.5, 0.6, 0.7])], [ratio([0.49, 0.5, 0.2])])
    assert found.measure.high < 0 and found.p > 0.1
    assert compare.t_test(ratio([0.5]), ratio([0.1])) == 1.0


def test_difference_of_the_means_of_several_runs_is_a_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    before = ratio(list(rng.random(30)))
    after = [ratio(list(before.top + rng.normal(-0.05, 0.1, 30))) for _ in range(2)]
    found = difference([before], after)
    draws = over_repeats(resampled([before, *after])[:, 1:] - resampled([before])[:, :1])
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    assert found.test == "bootstrap"
    assert found.p == pytest.approx(2 * (tail + 1) / (compare.RESAMPLES + 1))
    assert compare.SMALLEST <= found.p < 0.05


def test_no_change_is_p_1() -> None:
    for values in ([1.0, 0.0, 1.0], [0.5, 0.2, 0.1]):
        found = difference([ratio(values)], [ratio(values)])
        assert (found.p, found.measure.value, found.measure.low, found.measure.high) == (1.0, 0.0, 0.0, 0.0)


def test_several_runs_are_never_pooled_into_mcnemar() -> None:
    """Three runs on the same records are not three times as many records."""
    before, after = ratio([1] * 9), ratio([0] * 4 + [1] * 5)
    assert difference([before], [after, after, after]).test == "bootstrap"


def test_pairs_of_runs_are_compared_pair_by_pair() -> None:
    """What two runs of a pair share, such as hard edits, is no difference between them."""
    rng = np.random.default_rng(4)
    before = [ratio(list(rng.random(20) * scale)) for scale in (1.0, 0.2, 0.6)]
    after = [ratio(list(run.top + 0.05)) for run in before]
    found = difference(before, after)
    assert (found.measure.value, found.measure.low, found.measure.high) == pytest.approx((0.05, 0.05, 0.05))
    assert found.before == pytest.approx(np.mean([value(run) for run in before]))
    assert found.p == pytest.approx(2 / (compare.RESAMPLES + 1))
    apart = difference([before[0]], after)
    assert apart.measure.high - apart.measure.low > 0.1


def test_other_records_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same"):
        difference([ratio([1, 0])], [Ratio(("0", "2"), np.ones(2), np.ones(2))])


def test_bootstrap_p_is_never_zero() -> None:
    assert bootstrap_p(np.full(compare.RESAMPLES, -0.1)) == pytest.approx(2 / (compare.RESAMPLES + 1))
    assert bootstrap_p(np.array([-1.0, 1.0] * 50)) == 1.0
