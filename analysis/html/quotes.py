"""Sentences a reader can quote, from the numbers. They say what was tested, and no more than that."""

from collections.abc import Mapping, Sequence

from analysis import edits, words
from analysis.collect import Setting
from analysis.compare import LEVEL
from analysis.study import Point, Study
from analysis.tradeoff import Trade, frontier

Names = Mapping[Setting, str]
BELOW = f"p < {LEVEL:g}".replace(" ", words.NO_BREAK)


def abilities(points: Sequence[Point], names: Names) -> list[str]:
    """A sentence for each setting about its last number of edits, then one on the tests."""
    tested = [point for point in points if point.difference]
    if not tested:
        return ["No unedited result of this model on the same data and limit: these scores are compared with nothing."]
    lines = []
    for setting in dict.fromkeys(point.setting for point in tested):
        mine = [point for point in tested if point.setting == setting]
        lines.append(_abilities([point for point in mine if point.edits == max(p.edits for p in mine)], names[setting]))
    return [*lines, f"{_corrected(len(tested))}; significant means {BELOW}."]


def _corrected(n: int) -> str:
    return f"p is corrected for {n:,} comparisons by Holm's method" if n > 1 else "p is that of a single comparison"


def _abilities(points: Sequence[Point], name: str) -> str:
    first, n = points[0], len(points)
    falls = [point for point in points if point.fall]
    rises = sum(point.significant for point in points) - len(falls)
    largest = max(falls or points, key=lambda point: abs(point.difference.measure.value) if point.difference else 0)
    score = words.score(largest.panel.title, largest.metric)
    start = _after(first.edits, first.setting, name, max(len(point.runs) for point in points))
    if n == 1:
        verdict = "significantly lower" if falls else "significantly higher" if rises else "not significantly different"
        return f"{start}, {score} is {verdict}: {_change(largest)}."
    some = f"{len(falls)} of {n} scores {'is' if len(falls) == 1 else 'are'}"
    share = f"all {n} scores are" if len(falls) == n else some if falls else f"none of {n} scores is"
    higher = f", {rises} significantly higher" if rises else ""
    what = "fall" if falls else "difference"
    return f"{start}, {share} significantly lower{higher}; the largest {what} is in {score}, {_change(largest)}."


def _after(count: int, setting: Setting, name: str, runs: int) -> str:
    repeats = f" (mean of {runs} runs)" if runs > 1 else ""
    return f"After {words.counted(count, f'{setting.method} edit')} with {name}{repeats}"


def _change(point: Point) -> str:
    difference, p = point.difference, point.p_holm
    assert difference and p is not None
    before, after = words.number(difference.before, 2), words.number(point.measure.value, 2)
    if before == after and not difference.measure.value:
        return f"{after} both times"
    interval = words.bounds(difference.measure, 2, sign=True)
    test = {"McNemar": "exact McNemar", "bootstrap": "paired bootstrap"}[difference.test]
    change = words.number(difference.measure.value, 2, sign=True)
    return f"from {before} to {after} (difference {change} {interval}, {words.p_value(p)}, {test})"


def edit_quality(study: Study, names: Names) -> list[str]:
    """A sentence for each setting about its last number of edits."""
    lines = []
    for setting, name in names.items():
        count = max(study.counts(setting))
        runs = study.runs(setting, count)
        measured = {part: edits.quality(runs, "after", part) for part in edits.NAMES}
        values = [f"{part} is {words.number(m.value, 2)} {words.bounds(m, 2)}" for part, m in measured.items() if m]
        moved = edits.moved(runs)
        if moved:
            values.append(f"the edited weights have changed by {words.part(moved.value)} their norm")
        if values:
            lines.append(f"{_after(count, setting, name, len(runs))}, {words.listed(values)}.")
    return lines


def trade_off(trades: Sequence[Trade], names: Names) -> list[str]:
    """Which settings are on the frontier at the largest number of edits that several were measured at."""
    by_count = {trade.edits: [other for other in trades if other.edits == trade.edits] for trade in trades}
    several = [count for count, settings in by_count.items() if len(settings) > 1]
    if not several:
        return ["No two settings were measured at the same number of edits."]
    count = max(several)
    best = frontier(by_count[count])
    parts = [
        f"{trade.setting.method} with {names[trade.setting]} (reliability {words.number(trade.success.value, 2)}, "
        f"relative ability {words.number(trade.ability.value, 2)} {words.bounds(trade.ability, 2)})"
        for trade in best
    ]
    verb = "is" if len(best) == 1 else "are"
    lead = f"After {words.counted(count, 'edit')}, {words.listed(parts)} {verb} on the frontier"
    return [
        f"{lead}: of the {len(by_count[count])} settings measured none is better on one count and as good on the other."
    ]
