"""The numbers behind the figures, as tables."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from analysis import edits, words
from analysis.collect import Run, Setting
from analysis.study import CHOICE, Group, Panel, Point, Study
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
    """A row per number of edits and setting, a column per task; falls and rises that are significant are marked."""
    panels = _panels(points)
    start = [head_cell("unedited", 0), *(cell(_base(panel, points)) for panel in panels)]
    rows = [[first, *(_score(by_panel.get(panel)) for panel in panels)] for first, by_panel in _rows(points, names)]
    caption = "Scores with 95 % intervals. ▼ significantly below the unedited model, ▲ above."
    return Table(caption, ["", *(panel.title for panel in panels)], [start, *rows])


def head_cell(name: str, edits: int, runs: int = 1) -> Cell:
    """What a row is about: the regulariser, and below it the number of edits."""
    repeats = f", {words.counted(runs, 'run')}" if runs > 1 else ""
    return Cell(name, (f"{words.counted(edits, 'edit')}{repeats}",))


def _panels(points: Sequence[Point]) -> list[Panel]:
    return list(dict.fromkeys(point.panel for point in points))


def _base(panel: Panel, points: Sequence[Point]) -> Measure | None:
    base = panel.baseline()
    metric = next(point.metric for point in points if point.panel is panel)
    return base.result.metrics.get(metric) if base else None


def _score(point: Point | None) -> Cell:
    if point is None:
        return UNKNOWN
    return cell(point.measure, "" if not point.significant else " ▼" if point.fall else " ▲")


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
    return cell(point.difference.measure, sign=True, below=p)


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


KINDS = {"empty": "empty", "repeating": "repeating", "not_finite": "not finite"}


def degenerate(study: Study, group: Group, names: Names) -> Table | None:
    """How many completions were empty, repeat themselves or came from logits that are not finite; None if none did."""
    panels = [panel for panel in study.panels if any(setting.group == group for setting in panel.runs)]
    measured = [("unedited", 0, [panel.unedited[:1] for panel in panels])]
    for count in sorted({n for setting in names for n in study.counts(setting)}):
        for setting, name in names.items():
            measured.append((name, count, [panel.runs.get(setting, {}).get(count, []) for panel in panels]))
    rows = [
        [head_cell(name, count), *map(_degenerate, runs)]
        for name, count, runs in measured
        if any(_counts(run) for part in runs for run in part)
    ]
    caption = "Degenerate completions: empty, the same over and over, or from logits that are not finite."
    return Table(caption, ["", *(panel.title for panel in panels)], rows) if rows else None


def _counts(run: Run) -> dict[str, int]:
    return {kind: n for kind, n in run.result.degenerate.items() if n}


def _degenerate(runs: Sequence[Run]) -> Cell:
    if not any(run.result.degenerate for run in runs):
        return UNKNOWN
    total = sum((Counter(_counts(run)) for run in runs), Counter[str]())
    if not total:
        return Cell("0")
    whole = sum(run.result.completions for run in runs)
    kinds = tuple(f"{n:,} {KINDS.get(kind, kind)}" for kind, n in sorted(total.items()))
    return Cell(f"{total.total():,} of {whole:,}", kinds)


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
