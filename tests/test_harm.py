"""analysis.harm: curves with known answers, a naive twin of the reading off, intervals over records and draws."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import Edited, make

from analysis import compare
from analysis.collect import Setting, read_all
from analysis.harm import HARMS, Balance, Spot, balance, bends, equal, least, rule_of
from analysis.study import DRIFT, REFERENCE, TEXT, Study, studies
from core.metrics import Array

NONE = Setting("Batch-Sequential", "MEMIT", 10, "none", None, "{}")
SCALE, RECT = (replace(NONE, regularizer=name, keep=0.4) for name in ("scale", "rect"))
MEMIT = ("MEMIT", "Batch-Sequential", 10)


def drawn(value: float, spread: float = 0.0, seed: int = 0) -> Array:
    """A value, and resamples of it around it."""
    noise = np.random.default_rng(seed).normal(0, spread, compare.RESAMPLES) if spread else np.zeros(compare.RESAMPLES)
    return np.concatenate([[value], value + noise])


def curve(setting: Setting, *places: tuple[float, float], spread: float = 0.0) -> list[Spot]:
    return [Spot(setting, 10 * (i + 1), drawn(held), drawn(done, spread, i)) for i, (held, done) in enumerate(places)]


# --- reading a curve off -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (10, 1.0),  # a spot
        (20, 2.0),
        (15, 1.5),  # between two
        (5, 0.5),  # between the unedited model and the first
        (0, 0.0),
        (20.1, math.nan),  # more than it ever holds: nothing is made up
    ],
)
def test_a_straight_curve(facts: float, wanted: float) -> None:
    """Harm 0.1 a fact."""
    found = least(curve(RECT, (10, 1.0), (20, 2.0)), drawn(facts))
    assert found == pytest.approx(np.full_like(found, wanted), nan_ok=True)


def test_what_another_spot_beats_does_not_count() -> None:
    """20 edits hold 12 facts with harm 3, but 30 hold 16 with 2; 40 edits hold fewer with more, as after a collapse."""
    spots = curve(RECT, (8, 1.0), (12, 3.0), (16, 2.0), (4, 9.0))
    assert bends(spots) == [(0, 0), (8, 1.0), (16, 2.0)]
    assert [least(spots, drawn(n))[0] for n in (4, 8, 12, 16)] == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_a_gain_is_no_harm() -> None:
    """Where a log p has risen the unedited model is beaten, and fewer facts cost no more than that."""
    spots = curve(RECT, (10, -0.2), (20, 0.2))
    assert bends(spots) == [(10, -0.2), (20, 0.2)]
    assert [least(spots, drawn(n))[0] for n in (5, 10, 15)] == pytest.approx([-0.2, -0.2, 0.0])


def naive(spots: list[tuple[float, float]], facts: float) -> float:
    """The corners of the curve, and numpy's straight lines between them."""
    places = [(0.0, 0.0), *((x, y) for x, y in spots if not math.isnan(x))]
    corners = sorted({a for a in places if not any(b[0] >= a[0] and b[1] <= a[1] and b != a for b in places)})
    x, y = zip(*corners, strict=True)
    return math.nan if facts > x[-1] else float(np.interp(facts, x, y))


def test_reading_off_is_what_a_loop_over_the_resamples_gives() -> None:
    """300 curves of 6 spots, with ties, spots that no draw has, and rises."""
    rng = np.random.default_rng(5)
    held, done = rng.integers(0, 12, (6, 300)).astype(float), rng.integers(-2, 9, (6, 300)) / 4
    held[rng.random(held.shape) < 0.1] = math.nan
    done[np.isnan(held)] = math.nan
    facts = rng.uniform(0, 12, 300)
    found = least([Spot(RECT, i, *pair) for i, pair in enumerate(zip(held, done, strict=True))], facts)
    wanted = [naive(list(zip(held[:, i], done[:, i], strict=True)), facts[i]) for i in range(300)]
    assert found == pytest.approx(np.array(wanted), nan_ok=True)
    assert 20 < np.isnan(wanted).sum() < 200


# --- at equal success ----------------------------------------------------------------------------------------------


def test_the_most_facts_that_both_hold() -> None:
    """Editing less: 0.1 a fact up to 30. RECT: 0.3 a fact up to 12. At 12: 3.6 against 1.2."""
    less = curve(NONE, (15, 1.5), (30, 3.0))
    found = equal(rule_of(RECT), DRIFT, curve(RECT, (6, 1.8), (12, 3.6)), less)
    assert (found.facts, found.most) == (12, 12)
    assert (found.own, found.control) == pytest.approx((3.6, 1.2))
    assert found.difference and found.difference.value == pytest.approx(2.4)
    assert found.p == pytest.approx(compare.SMALLEST)
    turned = equal(rule_of(NONE), DRIFT, less, curve(RECT, (6, 1.8), (12, 3.6)))
    assert turned.facts == 12 and turned.difference and turned.difference.value == pytest.approx(-2.4)


def test_where_the_control_holds_as_many() -> None:
    """RECT is read off between its spots; where it never holds as many as a spot of the control there is no number."""
    less = curve(SCALE, (9, 0.9), (30, 3.0))
    rect = curve(RECT, (6, 1.8), (12, 3.6))
    near, far = (equal(rule_of(RECT), DRIFT, rect, less, spot) for spot in less)
    assert (near.facts, near.own, near.control) == pytest.approx((9, 2.7, 0.9))
    assert near.difference and near.difference.value == pytest.approx(1.8)
    assert (far.facts, far.most, far.difference, far.p) == (30, 12, None, None)


def test_the_same_curve_is_no_difference() -> None:
    less = curve(NONE, (10, 1.0), (20, 2.0), spread=0.3)
    again = [replace(spot, setting=RECT) for spot in less]
    found = equal(rule_of(RECT), DRIFT, again, less)
    assert found.difference and (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.p == 1


def test_nothing_holds() -> None:
    found = equal(rule_of(RECT), DRIFT, curve(RECT, (0, 0.4)), curve(NONE, (10, 1.0)))
    assert (found.facts, found.difference, found.p) == (0, None, None)


def test_no_interval_where_too_few_draws_hold_as_many() -> None:
    """At the end of RECT's curve half of its resamples hold fewer facts than the control's spot does."""
    rect = [Spot(RECT, 10, drawn(10, spread=1), drawn(1.0))]
    (spot,) = less = curve(NONE, (10, 0.5))
    found = equal(rule_of(RECT), DRIFT, rect, less, spot)
    assert found.difference and found.difference.value == pytest.approx(0.5)
    assert math.isnan(found.difference.low) and found.p is None
    both = equal(rule_of(RECT), DRIFT, rect, less)
    assert both.p == pytest.approx(compare.SMALLEST), "the most that both hold is another number in each resample"


def test_p_is_corrected_for_regularisers_and_measures() -> None:
    """Two regularisers by two measures; the control of a regulariser has its method's settings."""
    other = replace(NONE, details='{"v_lr": 1}')
    rect, random = (replace(RECT, regularizer=name) for name in ("rect", "random"))
    worse, alike = ((5, 0.8), (10, 1.6)), ((5, 0.5), (10, 1.0))
    mine = [*curve(NONE, *alike, spread=0.05), *curve(other, (99, 0.0)), *curve(rect, *worse), *curve(random, *alike)]
    found = Balance({DRIFT: mine, REFERENCE: mine}, 0)
    assert found.rules == [rule_of(rect), rule_of(random)]
    equals = found.at_most()
    assert [(e.rule.regularizer, e.measure) for e in equals] == [
        (name, measure) for name in ("rect", "random") for measure in (DRIFT, REFERENCE)
    ]
    assert [e.facts for e in equals] == [10] * 4
    assert [e.significant for e in equals] == [True, True, False, False]
    assert equals[0].p_holm == pytest.approx(4 * compare.SMALLEST)
    each = found.at_each(DRIFT)
    assert [(e.rule.regularizer, e.facts) for e in each] == [("rect", 5), ("rect", 10), ("random", 5), ("random", 10)]


# --- from result files ---------------------------------------------------------------------------------------------


def run(
    root: Path, count: int, rule: tuple[str, float] | None, hold: float, harm: float, draw: int = 0, lr: float = 0.5
) -> None:
    for task in ("NLI", "dialogue"):
        edited = Edited(count, "MEMIT", "Batch-Sequential", rule, 10, draw, 0, lr, hold)
        make(root, task, 0.5, edited, harm=harm)


def study(root: Path) -> Study:
    for task in ("NLI", "dialogue"):
        make(root, task, 0.5, harm=0.0)
    (found,) = studies(read_all(root)[0])
    return found


def test_a_spot_is_the_mean_over_tasks_and_draws(tmp_path: Path) -> None:
    """Facts: edits times reliability after the last; harm: drift, and what log p has lost, each from the files."""
    for draw, hold, harm in ((0, 0.9, 0.2), (1, 0.5, 0.6)):
        run(tmp_path, 20, None, hold, harm, draw)
    found = balance(study(tmp_path), MEMIT)
    assert list(found.spots) == [REFERENCE, TEXT, DRIFT] and found.lacking == 0
    runs = [r for r in read_all(tmp_path)[0] if r.edit]
    base = {r.result.task: r.result.metrics for r in read_all(tmp_path)[0] if not r.edit}
    success = [r.result.edited.quality["after"]["reliability"].value for r in runs if r.result.edited]
    for measure, sign in HARMS.items():
        (spot,) = found.spots[measure]
        changes = [r.result.metrics[measure].value - base[r.result.task][measure].value for r in runs]
        assert spot.harm[0] == pytest.approx(sign * np.mean(changes)) and spot.harm[0] > 0.1
        assert (spot.edits, spot.held[0]) == (20, pytest.approx(20 * np.mean(success)))
        assert spot.held.shape == spot.harm.shape == (1 + compare.RESAMPLES,)
        low, high = np.percentile(spot.held, [2.5, 97.5])
        assert (low, high) == pytest.approx((20 * min(success), 20 * max(success))), "two draws, resampled"
        assert abs(spot.harm[1:].mean() - spot.harm[0]) < 0.02


def test_points_that_lack_a_task_are_left_out_and_counted(tmp_path: Path) -> None:
    run(tmp_path, 10, None, 0.9, 0.1)
    make(tmp_path, "NLI", 0.5, Edited(20, "MEMIT", "Batch-Sequential", None, 10, 0, 0), harm=0.3)
    found = balance(study(tmp_path), MEMIT)
    assert [spot.edits for spot in found.spots[DRIFT]] == [10] and found.lacking == 1


def test_numbers_of_edits_of_one_draw_are_paired(tmp_path: Path) -> None:
    """Draws that differ by far, in a difference that each has: the interval knows that they are the same draws."""
    for draw, much in ((0, 0.1), (1, 0.9), (2, 0.5)):
        run(tmp_path, 10, None, 0.9, much, draw)
        run(tmp_path, 20, ("rect", 0.4), 0.45, much + 0.3, draw)
    found = balance(study(tmp_path), MEMIT)
    (equal,) = (e for e in found.at_most() if e.measure == DRIFT)
    (spot,) = found.curve(DRIFT, equal.rule)
    assert equal.difference
    wide = np.percentile(spot.harm, 97.5) - np.percentile(spot.harm, 2.5)
    assert equal.difference.high - equal.difference.low < wide / 2
    assert equal.significant and equal.difference.low > 0


def test_draws_of_other_settings_play_no_part(tmp_path: Path) -> None:
    """Two settings of the method, each with a draw of its own, resampled by itself: both have an interval."""
    for draw, lr in ((0, 0.1), (1, 0.5)):
        run(tmp_path, 10, None, 0.9, 0.2, draw, lr)
        run(tmp_path, 20, ("rect", 0.4), 0.45, 0.4, draw, lr)
    found = [e.difference for e in balance(study(tmp_path), MEMIT).at_most() if e.measure == DRIFT]
    assert len(found) == 2
    assert all(difference and 0 < difference.low <= difference.high for difference in found)


def test_older_results_have_none(tmp_path: Path) -> None:
    make(tmp_path, "NLI", 0.5)
    make(tmp_path, "NLI", 0.4, Edited(5))
    (found,) = studies(read_all(tmp_path)[0])
    nothing = balance(found, ("ROME", "Instance-Sequential", None))
    assert nothing.spots == {} and nothing.lacking == 0 and nothing.at_most() == []
