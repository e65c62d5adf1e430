"""The figures of edit quality, and of ability against it. What they show is computed elsewhere."""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import edits, words
from analysis.collect import Run, Setting
from analysis.plots.slots import Slots
from analysis.plots.style import MARKERS, SOFT, TRIVIAL, Looks, bars, grid, handle, legend
from analysis.study import Study
from analysis.tradeoff import Trade, frontier
from core.types import Measure

PANELS = (
    ("reliability, own", "own", "reliability"),
    ("reliability, last", "after", "reliability"),
    ("generalisation", "after", "generalisation"),
    ("locality", "after", "locality"),
)

SHAPES = (*MARKERS, ">", "p", "h", "*", "d", "8", "H")


def edit_quality(study: Study, looks: Looks, columns: int) -> Figure:
    """Panels for how the edits took and how far the weights moved, a curve per setting, against number of edits."""
    runs = {setting: {n: study.runs(setting, n) for n in study.counts(setting)} for setting in looks}
    grown = any(edits.growth(run) for counts in runs.values() for repeats in counts.values() for run in repeats)
    figure, axes = grid(5 + grown, columns)
    slots = Slots(axes[0], [n for counts in runs.values() for n in counts], looks)
    for ax, (title, stage, name) in zip(axes, PANELS, strict=False):
        values = {s: {n: edits.quality(repeats, stage, name) for n, repeats in runs[s].items()} for s in looks}
        _measured(ax, values, looks, slots)
        ax.set_ylim(0, 1.04)
        ax.set_title(title)
    if grown:
        _measured(
            axes[4], {s: {n: edits.moved(repeats) for n, repeats in runs[s].items()} for s in looks}, looks, slots
        )
        axes[4].set_title("change of the weights")
        axes[4].set_ylabel("‖ΔW‖ / ‖W‖")
        size_axis(axes[4])
    _updates(axes[-1], runs, looks, slots)
    figure.supxlabel("number of edits", fontsize=7.5, color=SOFT)
    legend(figure, [handle(curve) for curve in looks.values()])
    return figure


def _measured(ax: Axes, values: Mapping[Setting, Mapping[int, Measure | None]], looks: Looks, slots: Slots) -> None:
    for setting, curve in looks.items():
        known = {slots.x(n, setting): measure for n, measure in values[setting].items() if measure}
        style: dict[str, Any] = dict(ls=curve.line, marker=curve.marker, ms=slots.marker, clip_on=False)
        ax.plot(list(known), [measure.value for measure in known.values()], color=curve.colour, **style)
        bars(ax, known, color=curve.colour)
    slots.axis(ax)


def _updates(ax: Axes, runs: Mapping[Setting, Mapping[int, Sequence[Run]]], looks: Looks, slots: Slots) -> None:
    """The norm of every update of each setting's longest run."""
    for setting, curve in looks.items():
        series = edits.updates(runs[setting][max(runs[setting])][0]) if runs[setting] else []
        known = [(slots.x(n), norm) for n, norm in series if math.isfinite(norm)]
        if known:
            style: dict[str, Any] = dict(ls=curve.line, marker=curve.marker if len(known) == 1 else "", ms=3.2, lw=1.1)
            ax.plot(*zip(*known, strict=True), color=curve.colour, clip_on=False, **style)
    slots.axis(ax)
    size_axis(ax)
    ax.set_title("size of each update")
    ax.set_ylabel("‖D‖")


def size_axis(ax: Axes) -> None:
    """From 0; logarithmic where the values span more than a factor of 30."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines()] or [np.empty(0)])
    values = drawn[drawn > 0]
    if len(values) and values.max() > 30 * values.min():
        ax.set_yscale("log")
        ax.set_ylim(values.min() / 1.5, values.max() * 1.5)
        few = values.max() < 1000 * values.min()
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if few else (1.0,), numticks=6))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.set_ylim(0, 1.08 * max(values, default=1))


def trade_off(trades: Sequence[Trade], looks: Looks, columns: int) -> Figure:
    """A panel per method: what is left of the abilities against how many edits hold, as the number of edits grows.

    Colour is the setting, shape the number of edits; filled are those on the frontier of their number of edits.
    """
    counts = sorted({trade.edits for trade in trades})
    shapes = dict(zip(counts, cycle(SHAPES), strict=False))
    groups = list(dict.fromkeys(trade.setting.group for trade in trades))
    best = {id(trade) for count in counts for trade in frontier([t for t in trades if t.edits == count])}
    figure, axes = grid(len(groups), columns)
    top = max(1.05, *(trade.ability.high for trade in trades if not math.isnan(trade.ability.high)))
    for ax, group in zip(axes, groups, strict=True):
        mine = [trade for trade in trades if trade.setting.group == group]
        for setting in dict.fromkeys(trade.setting for trade in mine):
            _path(ax, [trade for trade in mine if trade.setting == setting], looks[setting].colour, shapes, best)
        ax.axhline(1, zorder=1, **TRIVIAL)
        ax.set(xlim=(0, 1.04), ylim=(0, top * 1.04))
        ax.set_title(words.group(group).replace(", ", "\n"))
        ax.set_xlabel("reliability after the last edit")
    figure.supylabel("relative ability", fontsize=7.5, color=SOFT)
    used = {curve.label: curve.colour for curve in (looks[trade.setting] for trade in trades)}
    colours = [Line2D([], [], color=colour, lw=2.2, label=label) for label, colour in used.items()]
    legend(figure, [*colours, Line2D([], [], label="unedited", **TRIVIAL)], "Colour: setting")
    dot = partial(Line2D, [], [], ls="none", ms=6, color=SOFT)
    marks = [dot(marker=shapes[count], mfc="none", label=words.counted(count, "edit")) for count in counts]
    legend(figure, [*marks, dot(marker="o", label="filled: on the frontier")], "Shape: number of edits", "lower")
    return figure


def _path(ax: Axes, trades: Sequence[Trade], colour: str, shapes: Mapping[int, str], best: AbstractSet[int]) -> None:
    """One setting, its points joined from few edits to many."""
    path = sorted(trades, key=lambda trade: trade.edits)
    ax.plot([t.success.value for t in path], [t.ability.value for t in path], color=colour, lw=1, clip_on=False)
    for trade in path:
        x, y = trade.success, trade.ability
        interval: dict[str, Any] = dict(color=colour, lw=0.8, alpha=0.4, clip_on=False)
        ax.plot([x.low, x.high], [y.value, y.value], **interval)
        ax.plot([x.value, x.value], [y.low, y.high], **interval)
        face = colour if id(trade) in best else "white"
        ax.plot(x.value, y.value, shapes[trade.edits], color=colour, mfc=face, ms=6, zorder=4, clip_on=False)
