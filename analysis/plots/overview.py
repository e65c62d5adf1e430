"""The figure that a report opens with: what became of every task, method by method.

A significant fall is a black triangle, point down, whatever the colour of its line: it is seen in grey print as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.edits import collapse
from analysis.plots.slots import Slots
from analysis.plots.style import COLLAPSED, INK, SOFT, WIDE, Curve, Looks, dagger, grid, legend, score_axis
from analysis.study import Panel, Point
from core.types import Measure

FALL: dict[str, Any] = dict(marker="v", color=INK, ls="none", label="significant fall")
RISE: dict[str, Any] = dict(marker="^", color=INK, ls="none", mfc="white", mew=0.8, label="significant rise")
UNEDITED: dict[str, Any] = dict(color=INK, lw=0.8, ls="-", label="unedited")
BAND = 0.16
"""Opacity of an interval."""
SMALL = 6.2
"""Points of a title above one of many panels."""
LINEAR, LOGARITHMIC = 0.1, 1.0
"""Where a change goes beyond the second the scale is linear up to the first, and logarithmic from there on."""


@dataclass(frozen=True)
class Overview:
    """What is drawn: rows of points with a name each, and what is on the vertical axis."""

    rows: Mapping[str, Sequence[Point]]
    """By method, or of one method by measure."""
    change: str
    """What the differences to the unedited model are of, with their unit; "" for the scores themselves."""

    @property
    def points(self) -> list[Point]:
        return [point for points in self.rows.values() for point in points]

    @property
    def panels(self) -> list[Panel]:
        return list(dict.fromkeys(point.panel for point in self.points))


def draw(shown: Overview, looks: Looks, columns: int) -> Figure:
    """A panel per row and task: a line per setting, its 95 % interval as a band, against number of edits.

    Several rows are rows of narrow panels, on a wide page. Changes of one row have one scale, scores of one task.
    """
    panels, matrix = shown.panels, len(shown.rows) > 1 and columns == WIDE
    figure, axes = grid(len(panels) * len(shown.rows), columns, len(panels) if matrix else columns)
    tops = {panel: max(_high(p.measure) for p in shown.points if p.panel is panel) for panel in panels}
    for row, (name, points) in enumerate(shown.rows.items()):
        slots = Slots(axes[0], (point.edits for point in points), dict.fromkeys(point.setting for point in points))
        for place, panel in enumerate(panels):
            ax, mine = axes[row * len(panels) + place], [point for point in points if point.panel is panel]
            if not row or not matrix:
                several = len(shown.rows) > 1
                title = f"{' '.join(name.split())}\n{panel.title}" if several and not matrix else panel.title
                ax.set_title(title, fontsize=SMALL if several else None)
            if not mine and (place or not matrix):
                ax.set_axis_off()
                continue
            if shown.change:
                change_axis(ax, points)
            else:
                score_axis(ax, max(0.05, tops[panel], *_base(mine)))
            _pane(ax, mine, looks, slots, bool(shown.change))
            slots.axis(ax)
            if matrix:
                _narrowed(ax, "" if place else name, hidden=bool(place and shown.change))
    figure.supxlabel("number of edits", fontsize=7.5, color=SOFT)
    figure.supylabel(shown.change or "score", fontsize=7.5, color=SOFT)
    legend(figure, _handles(shown, looks))
    return figure


def _narrowed(ax: Axes, row: str, hidden: bool) -> None:
    """A panel of many: the first of a row has its name, the others no numbers where theirs are those of the first."""
    ax.set_ylabel(row, fontweight="bold", color=INK)
    if hidden:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda *_: ""))


def _pane(ax: Axes, points: Sequence[Point], looks: Looks, slots: Slots, change: bool) -> None:
    """One task; an empty frame, which has the row's name and scale, where it was not measured."""
    start = 0.0
    if not points:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color=SOFT, fontsize=SMALL)
        return
    if not change:
        start = next(iter(_base(points)), math.nan)
    if not math.isnan(start):
        ax.axhline(start, zorder=1.5, **{key: value for key, value in UNEDITED.items() if key != "label"})
    for setting in dict.fromkeys(point.setting for point in points):
        mine = [(point, _shown(point, change)) for point in points if point.setting == setting]
        _line(ax, [(point, measure) for point, measure in mine if measure], looks[setting], slots, start)


def _line(ax: Axes, points: Sequence[tuple[Point, Measure]], look: Curve, slots: Slots, start: float) -> None:
    """One setting, from the unedited model at `start` on."""
    x = [0.0, *(slots.x(point.edits, point.setting) for point, _ in points)]
    known = [Measure(start, start, start), *(measure for _, measure in points)]
    ax.fill_between(x, [m.low for m in known], [m.high for m in known], color=look.colour, alpha=BAND, lw=0, zorder=2)
    ax.plot(x, [m.value for m in known], color=look.colour, ls=look.line, zorder=3)
    for look_of, fall in ((FALL, True), (RISE, False)):
        places = [(slots.x(p.edits, p.setting), m.value) for p, m in points if p.significant and p.fall is fall]
        if places:
            ax.plot(
                *zip(*places, strict=True), zorder=4, clip_on=False, **{**look_of, "ms": slots.marker, "label": None}
            )
    found = collapse(run for point, _ in points for run in point.runs)
    first = next(((point, m) for point, m in points if found and point.edits >= found[0]), None)
    if first:
        dagger(ax, slots.x(first[0].edits, first[0].setting), first[1].value)


def _shown(point: Point, change: bool) -> Measure | None:
    if not change:
        return point.measure
    return point.difference.measure if point.difference else None


def _high(measure: Measure) -> float:
    return measure.value if math.isnan(measure.high) else measure.high


def _base(points: Sequence[Point]) -> list[float]:
    """The unedited score that a task's points are compared with, if it is known."""
    return [point.difference.before for point in points if point.difference][:1]


def change_axis(ax: Axes, points: Sequence[Point]) -> None:
    """Around 0, to all changes with their intervals."""
    known = [point.difference.measure for point in points if point.difference]
    change_ticks(ax, min((m.low for m in known), default=-1.0), max((m.high for m in known), default=1.0))


def change_ticks(ax: Axes, low: float, high: float) -> None:
    """A vertical axis of changes that go from `low` to `high`, either way from 0."""
    if max(-low, high) > LOGARITHMIC:
        ax.set_yscale("symlog", linthresh=LINEAR, linscale=0.6)
        ticks = sorted(sign * 10.0**power for sign in (-1, 1) for power in range(-1, 6))
        ax.yaxis.set_major_locator(FixedLocator([*(t for t in ticks if low <= t <= high), 0.0]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylim(min(1.4 * low, -LINEAR / 2), max(1.4 * high, LINEAR / 2))
    else:
        room = 0.08 * (high - low) or 0.01
        ax.set_ylim(min(low, 0.0) - room, max(high, 0.0) + room)
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+g}".replace("-", "\u2212") if y else "0"))


def _handles(shown: Overview, looks: Looks) -> list[Line2D]:
    """What the legend says: each setting once, and the marks that are there."""
    used = {point.setting for point in shown.points}
    curves = {look.label: look for setting, look in looks.items() if setting in used}
    lines = [Line2D([], [], color=look.colour, ls=look.line, lw=1.8, label=name) for name, look in curves.items()]
    marks = [
        (UNEDITED, True),
        (FALL, any(point.fall for point in shown.points)),
        (RISE, any(point.significant and not point.fall for point in shown.points)),
        (COLLAPSED, collapse(run for point in shown.points for run in point.runs) is not None),
    ]
    return [*lines, *(Line2D([], [], **look) for look, there in marks if there)]
