"""The figure of harm against the facts that hold. What it shows is computed elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import words
from analysis.collect import Setting
from analysis.harm import CONTROLS, Balance, Spot, bends, rule_of
from analysis.plots.overview import change_ticks
from analysis.plots.style import INK, SOFT, Curve, bars, grid, legend
from analysis.study import Group
from core.types import Measure

LESS: dict[str, Any] = dict(color="#bdbdbd", lw=4.5, ls="-", solid_capstyle="butt")
"""The curve of editing less, under all others."""


def draw(balances: Mapping[Group, Balance], looks: Mapping[Setting, Curve], columns: int) -> Figure:
    """A panel per method and measure: harm against facts that hold, a point per setting and number of edits.

    A line runs along the least harm of each regulariser; a broad grey one along that of editing less. `looks` are by
    regulariser, without its parameters.
    """
    panes = [(group, measure) for group, balance in balances.items() for measure in balance.spots]
    figure, axes = grid(len(panes), columns, max(len(balance.spots) for balance in balances.values()))
    for ax, (group, measure) in zip(axes, panes, strict=True):
        spots = balances[group].spots[measure]
        for rule in dict.fromkeys(rule_of(spot.setting) for spot in spots):
            _curve(ax, balances[group].curve(measure, rule), looks[rule])
        for rule in dict.fromkeys(rule_of(s.setting) for s in spots if s.setting.regularizer in CONTROLS[:1]):
            _line(ax, balances[group].control(measure, rule), dict(LESS, zorder=1.5))
        _axes(ax, spots)
        ax.set_title(words.HARMS[measure] if len(balances) == 1 else f"{group[0]}: {words.HARMS[measure]}")
    figure.supxlabel("facts that hold after the last edit", fontsize=7.5, color=SOFT)
    figure.supylabel("harm (nats per token, mean over tasks)", fontsize=7.5, color=SOFT)
    used = {rule_of(spot.setting) for b in balances.values() for spots in b.spots.values() for spot in spots}
    handles = {look.label: _handle(look, rule.regularizer in CONTROLS) for rule, look in looks.items() if rule in used}
    legend(figure, [*handles.values(), Line2D([], [], label="editing less", **LESS)])
    return figure


def _curve(ax: Axes, spots: Sequence[Spot], look: Curve) -> None:
    """One regulariser: its line through the spots that none of its others beats, and all of them with intervals."""
    if spots[0].setting.regularizer not in CONTROLS:
        _line(ax, spots, dict(color=look.colour, ls=look.line, lw=1.3, zorder=3))
    best = bends(spots)
    for spot in spots:
        x, y = float(spot.held[0]), float(spot.harm[0])
        low, high = np.nanpercentile(spot.harm[1:], [2.5, 97.5])
        bars(ax, {x: Measure(y, min(low, y), max(high, y))}, color=look.colour, zorder=3)
        face = look.colour if (x, y) in best else "white"
        ax.plot(x, y, look.marker, color=look.colour, mfc=face, ms=4.4, mew=1.0, zorder=4, clip_on=False)


def _line(ax: Axes, spots: Sequence[Spot], style: dict[str, Any]) -> None:
    """The curve as it is read off: straight, though on a logarithmic axis it looks bent."""
    facts, harm = zip(*bends(spots), strict=True)
    x = np.union1d(np.linspace(facts[0], facts[-1], 200), facts)
    ax.plot(x, np.interp(x, facts, harm), **style)


def _axes(ax: Axes, spots: Sequence[Spot]) -> None:
    """From the unedited model, at 0 and 0, to all points."""
    right = max(float(spot.held[0]) for spot in spots)
    ax.set_xlim(-0.03 * right, 1.05 * right or 1)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.axhline(0, color=INK, lw=0.8, zorder=1)
    ends = [np.nanpercentile(spot.harm, [2.5, 97.5]) for spot in spots]
    values = [float(v) for end, spot in zip(ends, spots, strict=True) for v in (*end, spot.harm[0])]
    change_ticks(ax, min(values), max(values))


def _handle(look: Curve, control: bool) -> Line2D:
    line = "none" if control else look.line
    return Line2D([], [], color=look.colour, ls=line, marker=look.marker, ms=4.4, lw=1.3, label=look.label)
