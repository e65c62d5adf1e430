"""The numbers behind the figures, as tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from analysis import edits, words
from analysis.collect import Run, Setting
from analysis.study import CHOICE, DRIFT, PROBABILITY, REFERENCE, TEXT, Panel, Point, Study
from analysis.tradeoff import Trade
from core.types import Measure

Names = Mapping[Setting, str]


@dataclass(frozen=True)
class Cell:
    """Text, and what stands below it in small print, line by line."""

    text: str
    small: tuple[str, ...] = ()


UNKNOWN = Cell(words.UNKNOWN)


@dataclass(frozen=True)
class Table:
    """A row's first cell names it."""

    kind: ClassVar = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def cell(measure: Measure | None, mark: str = "", sign: bool = False, below: Iterable[str] = ()) -> Cell:
    """A value with its interval below, if it has one."""
    if measure is None:
        return UNKNOWN
    bounds = words.bounds(measure, sign=sign)
    return Cell(words.number(measure.value, sign=sign) + mark, (*([bounds] if bounds else []), *below))


def unedited(study: Study) -> Table | None:
    """The model before any edit, a row per task; None if it was not measured."""
    rows = []
    for panel in study.panels:
        base = panel.baseline()
        if base:
            result, named = base.result, [Cell(panel.title), Cell(words.metric(base.result.headline))]
            parts = [cell(result.metrics.get(name)) for name in ("trivial", CHOICE, "answered")]
            published = Cell(" or ".join(words.number(score) for score in base.released) or words.UNKNOWN)
            rows.append([*named, Cell(f"{result.n:,}"), cell(base.headline), *parts, published])
    head = ["task", "metric", "records", "score", "trivial", "choice accuracy", "answered", "published"]
    return Table("The unedited model", head, rows) if rows else None


def scores(points: Sequence[Point], names: Names) -> Table:
    """A row per number of edits and setting, a column per task; with marks for significant falls and rises."""
    panels = _panels(points)
    start = [head_cell("unedited", 0), *(_base(panel, points) for panel in panels)]
    rows = [[first, *(_score(by_panel.get(panel)) for panel in panels)] for first, by_panel in _rows(points, names)]
    what = "Scores with 95 % intervals, and degenerate completions."
    if not any(_of_completions(point.metric) for point in points):
        what = f"{words.capital(words.metric(points[0].metric))}, with 95 % intervals."
    marks = " ▼ significantly below the unedited model, ▲ above." if any(p.p_holm is not None for p in points) else ""
    caption = f"{what}{marks}"
    return Table(caption, ["", *(panel.title for panel in panels)], [start, *rows])


def head_cell(name: str, edits: int, runs: int = 1) -> Cell:
    """What a row is about: the regulariser, and below it the number of edits."""
    repeats = f", {words.counted(runs, 'run')}" if runs > 1 else ""
    return Cell(name, (f"{words.counted(edits, 'edit')}{repeats}",))


def _panels(points: Sequence[Point]) -> list[Panel]:
    return list(dict.fromkeys(point.panel for point in points))


def _base(panel: Panel, points: Sequence[Point]) -> Cell:
    base = panel.baseline()
    metric = next(point.metric for point in points if point.panel is panel)
    return cell(base.result.metrics.get(metric), below=_degenerate([base], metric)) if base else UNKNOWN


def _score(point: Point | None) -> Cell:
    if point is None:
        return UNKNOWN
    mark = "" if not point.significant else " ▼" if point.fall else " ▲"
    return cell(point.measure, mark, below=_degenerate(point.runs, point.metric))


def _degenerate(runs: Sequence[Run], metric: str) -> list[str]:
    """A collapse, beside the score that it made."""
    counts = words.degenerate(runs)
    return counts.split(", ") if counts and _of_completions(metric) else []


def _of_completions(metric: str) -> bool:
    """Whether a metric is of completions; choices and likelihoods are not."""
    return metric not in (CHOICE, PROBABILITY, DRIFT, REFERENCE, TEXT)


def differences(points: Sequence[Point], names: Names, to: str = "unedited score") -> Table:
    """The same rows: difference to what the points are compared with, its interval, p before and after correction."""
    panels = _panels(points)
    rows = [
        [first, *(_difference(by_panel.get(panel)) for panel in panels)] for first, by_panel in _rows(points, names)
    ]
    caption = f"Score minus {to}, its 95 % interval, p, and p after Holm's correction."
    return Table(caption, ["", *(panel.title for panel in panels)], rows)


def _difference(point: Point | None) -> Cell:
    if point is None or point.difference is None or point.p_holm is None:
        return UNKNOWN
    p = words.p_value(point.difference.p), f"Holm {words.p_value(point.p_holm)}"
    difference = point.difference
    change = words.written(difference.before, point.measure.value)
    return cell(replace(difference.measure, value=change), sign=True, below=p)


def _rows(points: Sequence[Point], names: Names) -> Iterable[tuple[Cell, dict[Panel, Point]]]:
    """(first cell, point by panel), by edits and then by setting."""
    settings = list(dict.fromkeys(point.setting for point in points))
    for count in sorted({point.edits for point in points}):
        for setting in settings:
            by_panel = {p.panel: p for p in points if (p.edits, p.setting) == (count, setting)}
            if by_panel:
                yield head_cell(names[setting], count, max(len(p.runs) for p in by_panel.values())), by_panel


def edit_quality(study: Study, names: Names) -> Table:
    """A row per number of edits and setting: how the edits took and how far the weights moved."""
    rows = []
    stages = [("own", "reliability"), *(("after", name) for name in edits.NAMES)]
    for count in sorted({n for setting in names for n in study.counts(setting)}):
        for setting, name in names.items():
            runs = study.runs(setting, count)
            if runs:
                moved = edits.moved(runs)
                change = Cell(words.number(moved.value, 4)) if moved else UNKNOWN
                measured = [cell(edits.quality(runs, *stage)) for stage in stages]
                rows.append([head_cell(name, count, len(runs)), *measured, change])
    head = ["", "reliability, own", "reliability, last", "generalisation", "locality", "‖ΔW‖ / ‖W‖"]
    return Table("Quality of the edits with 95 % intervals, and relative change of the edited weights.", head, rows)


def trade_off(trades: Sequence[Trade], names: Names) -> Table:
    rows = [
        [head_cell(names[t.setting], t.edits), Cell(words.group(t.setting.group)), cell(t.success), cell(t.ability)]
        for t in sorted(trades, key=lambda trade: trade.edits)
    ]
    head = ["", "method", "reliability, last", "relative ability"]
    return Table("Edit success and what is left of the abilities, with 95 % intervals.", head, rows)


def refused(study: Study, names: Names) -> Table | None:
    """Updates that were not applied, and why; None if all were."""
    rows = [
        [head_cell(name, count), Cell(words.listed(list(map(str, part["edits"])))), Cell(str(part["reason"]))]
        for setting, name in names.items()
        for count in study.counts(setting)
        for run in study.runs(setting, count)
        for part in (run.result.edited.refused if run.result.edited else ())
    ]
    return Table("Updates that were refused.", ["", "edits refused", "reason"], rows) if rows else None
