"""Tables of harm: when it is first shown, what it is where as many facts hold, and which edits are left."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from analysis import compare, words
from analysis.collect import Setting
from analysis.edits import collapse
from analysis.findings import Findings, first_falls
from analysis.harm import HARMS, Equal, Spot
from analysis.html.tables import UNKNOWN, Cell, Names, Table, cell, head_cell
from analysis.retention import Cohort
from analysis.study import CHOICE, HEADLINE, PROBABILITY, REFERENCE, TEXT, Point
from core.types import Measure

FIRST = {
    HEADLINE: "headline score",
    CHOICE: "choice accuracy",
    PROBABILITY: "choice probability",
    REFERENCE: "log p of the reference",
    TEXT: "log p of the text",
}
"""The columns of `first_harm`: what is right or wrong, and beside it what is likely."""
LISTED = 3
"""More tasks than these are counted."""


def first_harm(found: Sequence[Findings]) -> Table:
    """A row per method and setting, a column per measure: after how many edits a fall is first shown, and where."""
    columns = [wanted for wanted in FIRST if any(wanted in f.families for f in found)]
    drift = any(f.drift for f in found)
    rows = []
    for f in found:
        for setting, name in f.names.items():
            since = collapse(
                run for points in f.families.values() for p in points if p.setting == setting for run in p.runs
            )
            method = [words.group(f.group)] if len(found) > 1 else []
            small = (*method, *([f"collapsed after {words.counted(since[0], 'edit')}"] if since else []))
            parts = [_first(f.families.get(wanted, ()), setting) for wanted in columns]
            rows.append([Cell(name, small), *parts, *([_drift(f.drift, setting)] if drift else [])])
    caption = "The smallest number of edits after which a fall is shown, and the tasks that it is shown in."
    return Table(caption, ["", *(FIRST[wanted] for wanted in columns), *(["drift"] if drift else [])], rows)


def _first(points: Iterable[Point], setting: Setting) -> Cell:
    mine = [point for point in points if point.setting == setting and point.difference]
    if not mine:
        return UNKNOWN
    falls = first_falls(mine, setting)
    if not falls:
        return Cell(f"not up to {max(point.edits for point in mine):,}")
    tasks = [point.panel.title for point in falls]
    shown = tasks if len(tasks) <= LISTED else [f"{len(tasks)} of {len({point.panel for point in mine})} tasks"]
    return Cell(words.counted(falls[0].edits, "edit"), tuple(shown))


def _drift(points: Sequence[Point], setting: Setting) -> Cell:
    """The mean over tasks after the first number of edits and after the last: it is never 0 after any change."""
    counts = sorted({point.edits for point in points if point.setting == setting})
    means = {
        n: float(np.mean([point.measure.value for point in points if (point.setting, point.edits) == (setting, n)]))
        for n in dict.fromkeys((*counts[:1], *counts[-1:]))
    }
    texts = [f"{words.number(value)} after {words.counted(n, 'edit')}" for n, value in means.items()]
    return Cell(texts[0], tuple(texts[1:])) if texts else UNKNOWN


def equal_success(found: Sequence[Findings]) -> Table | None:
    """A row per regulariser, a column per measure: its harm minus that of editing less where the most facts hold."""
    measures = [measure for measure in HARMS if any(equal.measure == measure for f in found for equal in f.equals)]
    rows = []
    for f in found:
        for rule, name in f.rule_names.items():
            mine = {equal.measure: equal for equal in f.equals if equal.rule == rule}
            if mine:
                facts = Cell(f"{next(iter(mine.values())).facts:.3g}")
                cells = [_both(mine[measure]) if measure in mine else UNKNOWN for measure in measures]
                rows.append([Cell(name, (words.group(f.group),)), facts, *cells])
    caption = (
        "Harm of each regulariser minus that of editing less, in nats per token, where the most facts hold that both "
        "hold; below it the 95 % interval, the two harms, and p after Holm's correction. ▼ significantly less harm "
        "than editing less, ▲ more."
    )
    return Table(caption, ["", "facts that hold", *(words.HARMS[m] for m in measures)], rows) if rows else None


def _both(equal: Equal) -> Cell:
    if equal.difference is None:
        return Cell("no fact holds")
    less, own, _ = words.change(equal.control, equal.own, equal.difference)
    p = [f"Holm {words.p_value(equal.p_holm)}"] if equal.p_holm is not None else []
    return cell(equal.difference, _mark(equal), sign=True, below=[f"{own} instead of {less}", *p])


def _mark(equal: Equal) -> str:
    return "" if not equal.significant or not equal.difference else " ▲" if equal.difference.value > 0 else " ▼"


def _gap(equal: Equal) -> Cell:
    """The difference with its interval and p; or why there is none."""
    if equal.difference is None:
        return Cell(f"holds {equal.most:.3g} at most")
    p = ["too few draws hold as many"]
    if equal.p is not None and equal.p_holm is not None:
        p = [words.p_value(equal.p), f"Holm {words.p_value(equal.p_holm)}"]
    return cell(equal.difference, _mark(equal), sign=True, below=p)


def at_each(f: Findings, measure: str) -> Table | None:
    """A row per spot of the control, a column per regulariser: its harm minus the control's."""
    equals, names = f.balance.at_each(measure), f.rule_names
    rules = [rule for rule in names if any(equal.rule == rule for equal in equals)]
    rows = []
    for spot in dict.fromkeys(equal.against for equal in equals if equal.against):
        mine = {equal.rule: _gap(equal) for equal in equals if equal.against is spot}
        first = head_cell(f.names[spot.setting], spot.edits)
        facts = Cell(f"{spot.held[0]:.3g}")
        rows.append([first, facts, cell(harm_of(spot)), *(mine.get(rule, UNKNOWN) for rule in rules)])
    caption = (
        f"{words.capital(words.HARMS[measure])}, in nats per token, of each regulariser minus that of editing less "
        "where as many hold, with 95 % intervals, p, and p after Holm's correction over this table."
    )
    head = ["", "facts that hold", "harm", *(names[rule] for rule in rules)]
    return Table(caption, head, rows) if rows else None


def spots(f: Findings) -> Table:
    """A row per setting and number of edits: facts that hold and harm."""
    by_place: dict[tuple[int, Setting], dict[str, Spot]] = {}
    for measure, mine in f.balance.spots.items():
        for spot in mine:
            by_place.setdefault((spot.edits, spot.setting), {})[measure] = spot
    order = list(f.names)
    rows = []
    for (edits, setting), known in sorted(by_place.items(), key=lambda item: (item[0][0], order.index(item[0][1]))):
        held = next(iter(known.values())).held
        harms = [cell(harm_of(known[m])) if m in known else UNKNOWN for m in f.balance.spots]
        facts = _measure(held)
        first = Cell(words.number(facts.value, 1), (words.bounds(facts, 1),))
        rows.append([head_cell(f.names[setting], edits), first, *harms])
    head = ["", "facts that hold", *(words.HARMS[measure] for measure in f.balance.spots)]
    return Table("Facts that hold, and harm in nats per token (mean over tasks), with 95 % intervals.", head, rows)


def harm_of(spot: Spot) -> Measure:
    """With its interval over records and draws."""
    return _measure(spot.harm)


def _measure(values: "np.typing.NDArray[np.float64]") -> Measure:
    return compare.interval(float(values[0]), values[1:])


def retention(tables: Mapping[Setting, Sequence[Sequence[Cohort]]], names: Names) -> Table:
    """A row per setting and cohort after its last edit."""
    rows = [
        [Cell(names[setting]), Cell(f"{c.first:,}\u2013{c.last:,}"), Cell(f"{c.age:,}"), cell(c.success)]
        for setting, table in tables.items()
        for c in table[-1]
    ]
    head = ["", "edits number", "edits made since", "share that holds"]
    return Table("Edits that hold after the last one, by when they were made, with 95 % intervals.", head, rows)
