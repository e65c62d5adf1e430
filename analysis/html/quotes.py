"""Sentences a reader can quote, from the numbers. They say what was tested, and no more than that."""

from collections.abc import Mapping, Sequence

from analysis import compare, edits, words
from analysis.collect import Run, Setting
from analysis.compare import LEVEL, Difference
from analysis.findings import first_falls
from analysis.retention import Cohort
from analysis.study import Point, Study
from analysis.tradeoff import Trade, frontier

Names = Mapping[Setting, str]
COLLAPSE = 0.1
"""How much the share of degenerate completions has to grow before a sentence is made of it."""
BELOW = f"p < {LEVEL:g}".replace(" ", words.NO_BREAK)
TESTS = {"McNemar": "exact McNemar", "t": "paired t-test", "bootstrap": "paired bootstrap"}


def finding(study: Study, points: Sequence[Point], setting: Setting, name: str) -> str:
    """What is found of a setting after its last edits: a collapse, falls, what is not shown, and if the edits hold.

    `points`: those of its figure.
    """
    count = max(study.counts(setting))
    mine = [point for point in tested(points) if (point.setting, point.edits) == (setting, count)]
    runs = study.runs(setting, count)
    unchanged = [score(point) for point in mine if not point.significant]
    facts = [_collapse(study, setting, count)]
    if mine:
        facts.append(_verdict(mine))
    if 0 < len(unchanged) < len(mine):
        facts.append(f"not shown to differ: {words.listed(unchanged)}")
    facts += [_first_fall(points, setting, count)]
    facts += [words.listed(_quality(runs))]
    first, *rest = [fact for fact in facts if fact] or [
        "nothing was measured but scores that are compared with nothing"
    ]
    return " ".join([f"{after(count, setting, name, len(runs))}, {first}.", *(f"{_capital(r)}." for r in rest)])


def _capital(sentence: str) -> str:
    """A task's or a measure's name at its start stays as it is written."""
    starts = ("all", "none", "not", "the", "reliability")
    return sentence[0].upper() + sentence[1:] if sentence.startswith(starts) else sentence


def _first_fall(points: Sequence[Point], setting: Setting, last: int) -> str:
    """When a score was first significantly lower, and which; "" if not before the last edit."""
    fallen = first_falls(points, setting)
    if not fallen or fallen[0].edits == last:
        return ""
    edits = words.counted(fallen[0].edits, "edit")
    return f"the first significant falls are after {edits}: {words.listed(list(map(score, fallen)))}"


def _collapse(study: Study, setting: Setting, count: int) -> str:
    """That the model has collapsed, if results say so; else the degenerate completions beside those before any edit.

    "" if their share has not grown by a tenth.
    """
    panels = {panel: runs for panel in study.panels if (runs := panel.runs.get(setting, {}).get(count))}
    edited = [run for runs in panels.values() for run in runs]
    if found := edits.collapse(run for panel in study.panels for run in panel.up_to(setting, count)):
        return f"the model has collapsed since {words.counted(found[0], 'edit')}: {found[1]}"
    before = [base for panel, runs in panels.items() if (base := panel.baseline(runs))]
    if _degenerate_share(edited) < _degenerate_share(before) + COLLAPSE:
        return ""
    unedited = f" (before any edit {words.degenerate(before) or 'none'})" if before else ""
    return f"completions degenerate: {words.degenerate(edited)}{unedited}"


def _degenerate_share(runs: Sequence[Run]) -> float:
    whole = sum(run.result.completions for run in runs)
    return sum(sum(run.result.degenerate.values()) for run in runs) / whole if whole else 0.0


def abilities(points: Sequence[Point], names: Names) -> list[str]:
    """A sentence for each setting about its last number of edits."""
    lines, known = [], tested(points)
    for setting in dict.fromkeys(point.setting for point in known):
        mine = [point for point in known if point.setting == setting]
        last = [point for point in mine if point.edits == max(p.edits for p in mine)]
        start = after(last[0].edits, setting, names[setting], max(len(point.runs) for point in last))
        lines.append(f"{start}, {_verdict(last)}.")
    return lines


def tests(points: Sequence[Point]) -> str:
    """What p is corrected for."""
    n = len(tested(points))
    if not n:
        return "No unedited result of this model on the same data and limit: these scores are compared with nothing."
    corrected = f"corrected for {n:,} comparisons by Holm's method" if n > 1 else "that of a single comparison"
    return f"p is {corrected}; significant means {BELOW}."


def tested(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.difference]


def limits(points: Sequence[Point]) -> list[str]:
    """The smallest difference that McNemar's test could have shown, and the scores too low to fall by as much.

    And that no mean of several runs could be significant, where there are too many comparisons for a bootstrap.
    """
    hollow = [point for point in tested(points) if not point.significant]
    by_test: dict[str, list[tuple[Point, Difference]]] = {}
    for point in hollow:
        if point.difference:
            by_test.setdefault(point.difference.test, []).append((point, point.difference))
    lines = []
    if paired := by_test.get("McNemar"):
        needed = compare.fewest_changes(len(hollow))
        lines += [_smallest(needed, n) for n in sorted({difference.records for _, difference in paired})]
        low = [point for point, d in paired if round(d.before * d.records) < needed <= d.records]
        if scores := list(dict.fromkeys(map(score, low))):
            lines.append(f"No fall of {words.listed(scores)} could have been shown: too few answers were right before.")
    if "bootstrap" in by_test and len(hollow) * compare.SMALLEST >= LEVEL:
        lines.append(f"With {len(hollow):,} comparisons no mean of several runs could have been shown to differ.")
    return [" ".join(lines)] if lines else []


def _smallest(needed: int, n: int) -> str:
    records = words.counted(n, "record")
    if needed > n:
        return f"With {records} no change of right answers could have been significant: that takes {needed} at least."
    share = words.number(needed / n, 2 if needed / n >= 0.1 else 3)
    what = "The smallest difference in right answers that could have been significant"
    return f"{what}: {share} ({needed} of {records}, all of them changing the same way)."


def _verdict(points: Sequence[Point]) -> str:
    """How many of the scores of one setting fell, and the largest fall."""
    n = len(points)
    falls = [point for point in points if point.fall]
    rises = sum(point.significant for point in points) - len(falls)
    largest = max(falls or points, key=lambda point: abs(point.difference.measure.value) if point.difference else 0)
    where = score(largest)
    if n == 1:
        verdict = "significantly lower" if falls else "significantly higher" if rises else "not significantly different"
        return f"{where} is {verdict}: {change(largest)}"
    some = f"{len(falls)} of {n} scores {'is' if len(falls) == 1 else 'are'}"
    share = f"all {n} scores are" if len(falls) == n else some if falls else f"none of {n} scores is"
    higher = f", {rises} significantly higher" if rises else ""
    what = "fall" if falls else "difference"
    return f"{share} significantly lower{higher}; the largest {what} is in {where}, {change(largest)}"


def score(point: Point) -> str:
    """The task and what is measured: "NLI accuracy"."""
    return words.score(point.panel.title, point.metric)


def after(count: int, setting: Setting, name: str, runs: int) -> str:
    """The beginning of a sentence on a setting after so many edits."""
    repeats = f" (mean of {runs} runs)" if runs > 1 else ""
    return f"After {words.counted(count, f'{setting.method} edit')} with {name}{repeats}"


def change(point: Point) -> str:
    """From what to what a score has changed, with interval, p and test."""
    difference, p = point.difference, point.p_holm
    assert difference and p is not None
    start, end, between = words.change(difference.before, point.measure.value, difference.measure)
    if not difference.measure.value:
        return f"{end}{words.unit(point.metric)} both times"
    unit = words.unit(point.metric)
    return f"from {start} to {end}{unit} (difference {between}, {words.p_value(p)}, {TESTS[difference.test]})"


def edit_quality(study: Study, names: Names) -> list[str]:
    """A sentence for each setting about its last number of edits."""
    lines = []
    for setting, name in names.items():
        count = max(study.counts(setting))
        runs = study.runs(setting, count)
        values = _quality(runs)
        moved = edits.moved(runs)
        if moved:
            values.append(f"the edited weights have changed by {words.part(moved.value)} their norm")
        if values:
            lines.append(f"{after(count, setting, name, len(runs))}, {words.listed(values)}.")
    return lines


def _quality(runs: tuple[Run, ...]) -> list[str]:
    """Reliability, generalisation and locality after the last edit, as far as they were measured."""
    measured = {part: edits.quality(runs, "after", part) for part in edits.NAMES}
    return [f"{part} is {words.number(m.value, 2)} {words.bounds(m, 2)}".rstrip() for part, m in measured.items() if m]


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


def retention(tables: Mapping[Setting, Sequence[Sequence[Cohort]]], names: Names) -> list[str]:
    """A sentence for each setting on its first and its last cohort."""
    lines = []
    for setting, table in tables.items():
        parts = [
            f"{words.number(c.success.value, 2)} {words.bounds(c.success, 2)} of the edits {c.first:,} to {c.last:,}"
            for c in dict.fromkeys((table[-1][0], table[-1][-1]))
        ]
        lines.append(f"{after(table[-1][0].edits, setting, names[setting], 1)}, {words.listed(parts)} hold.")
    return lines
