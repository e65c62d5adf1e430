"""The figures of edit quality, and of ability against it. What they show is computed elsewhere."""

import math
from collections.abc import Mapping, Sequence
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
from analysis.plots.style import INK, MARKERS, SOFT, TRIVIAL, Looks, bar, beside, count_axis, grid, handle, legend
from analysis.study import Group, Study
from analysis.tradeoff import Trade, frontier
from core.types import Measure

PANELS = (
    ("reliability, own", "own", "reliability"),
    ("reliability, last", "after", "reliability"),
    ("generalisation", "after", "generalisation"),
    ("locality", "after", "locality"),
)


def edit_quality(study: Study, looks: Looks, columns: int) -> Figure:
    """Panels for how the edits took and how far the weights moved, a curve per setting, against number of edits."""
    runs = {setting: {n: study.runs(setting, n) for n in study.counts(setting)} for setting in looks}
    grown = any(edits.growth(run) for counts in runs.values() for repeats in counts.values() for run in repeats)
    figure, axes = grid(5 + grown, columns)
    for ax, (title, stage, name) in zip(axes, PANELS, strict=False):
        _measured(
            ax, {s: {n: edits.quality(repeats, stage, name) for n, repeats in runs[s].items()} for s in looks}, looks
        )
        ax.set_ylim(0, 1.04)
        ax.set_title(title)
    if grown:
        _measured(axes[4], {s: {n: edits.moved(repeats) for n, repeats in runs[s].items()} for s in looks}, looks)
        axes[4].set_title("change of the weights")
        axes[4].set_ylabel("‖ΔW‖ / ‖W‖")
        size_axis(axes[4])
    _updates(axes[-1], runs, looks)
    figure.supxlabel("number of edits", fontsize=7.5, color=SOFT)
    legend(figure, [handle(curve) for curve in looks.values()])
    return figure


def _measured(ax: Axes, values: Mapping[Setting, Mapping[int, Measure | None]], looks: Looks) -> None:
    for i, (setting, curve) in enumerate(looks.items()):
        known = {n: measure for n, measure in values[setting].items() if measure}
        aside = beside(ax, i, len(looks))
        style: dict[str, Any] = dict(color=curve.colour, transform=aside)
        ax.plot(list(known), [m.value for m in known.values()], ls=curve.line, marker=curve.marker, **style)
        for n, measure in known.items():
            bar(ax, n, measure, **style)
    count_axis(ax, [n for counts in values.values() for n in counts])


def _updates(ax: Axes, runs: Mapping[Setting, Mapping[int, Sequence[Run]]], looks: Looks) -> None:
    """The norm of every update of each setting's longest run."""
    for setting, curve in looks.items():
        series = edits.updates(runs[setting][max(runs[setting])][0]) if runs[setting] else []
        known = [(x, y) for x, y in series if math.isfinite(y)]
        if known:
            marker = curve.marker if len(known) <= 30 else ""
            ax.plot(*zip(*known, strict=True), color=curve.colour, ls=curve.line, marker=marker, ms=3.2, lw=1.1)
    count_axis(ax, [n for counts in runs.values() for n in counts])
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
    """A panel per number of edits: what is left of the abilities against how many edits hold.

    A marker is the setting's own; the method's where there are several.
    """
    counts = sorted({trade.edits for trade in trades})
    groups = dict(zip(dict.fromkeys(trade.setting.group for trade in trades), cycle(MARKERS), strict=False))
    figure, axes = grid(len(counts), columns)
    top = max(1.05, *(trade.ability.high for trade in trades if not math.isnan(trade.ability.high)))
    for ax, count in zip(axes, counts, strict=True):
        mine = [trade for trade in trades if trade.edits == count]
        _frontier(ax, mine)
        for trade in mine:
            colour, x, y = looks[trade.setting].colour, trade.success, trade.ability
            ax.plot([x.low, x.high], [y.value, y.value], color=colour, lw=0.8, alpha=0.55)
            ax.plot([x.value, x.value], [y.low, y.high], color=colour, lw=0.8, alpha=0.55)
            marker = looks[trade.setting].marker if len(groups) == 1 else groups[trade.setting.group]
            ax.plot(x.value, y.value, marker, color=colour, ms=6, mec="white", mew=0.6, zorder=4, clip_on=False)
        ax.axhline(1, zorder=1, **TRIVIAL)
        ax.set(xlim=(0, 1.04), ylim=(0, top * 1.04))
        ax.set_title(words.counted(count, "edit"))
    figure.supxlabel("reliability after the last edit", fontsize=7.5, color=SOFT)
    figure.supylabel("relative ability", fontsize=7.5, color=SOFT)
    legend(figure, _trade_handles(trades, groups, looks))
    return figure


def _frontier(ax: Axes, trades: Sequence[Trade]) -> None:
    best = frontier(trades)
    xs, ys = (
        [0.0, *(t.success.value for t in best), best[-1].success.value],
        [best[0].ability.value, *(t.ability.value for t in best), 0.0],
    )
    ax.plot(xs, ys, color="#b8b8b8", lw=2.2, drawstyle="steps-pre", zorder=2, solid_joinstyle="miter")


def _trade_handles(trades: Sequence[Trade], groups: Mapping[Group, str], looks: Looks) -> list[Line2D]:
    """The settings by colour, then the methods by marker where there are several, then the lines."""
    dot = partial(Line2D, [], [], ls="none", ms=6)
    one = len(groups) == 1
    used = {curve.label: curve for curve in (looks[trade.setting] for trade in trades)}
    settings = [dot(color=c.colour, marker=c.marker if one else "o", label=c.label) for c in used.values()]
    methods = [dot(color=INK, mfc="none", marker=marker, label=words.group(group)) for group, marker in groups.items()]
    best = Line2D([], [], color="#b8b8b8", lw=2.2, label="frontier")
    return [*settings, *([] if one else methods), best, Line2D([], [], label="unedited", **TRIVIAL)]
