"""The figure of retention: which edits still hold, by when they were made. What it shows is computed elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from analysis.collect import Setting
from analysis.plots.style import INK, Looks, bars, grid, handle, legend
from analysis.retention import Cohort

Rows = Mapping[Setting, Sequence[Sequence[Cohort]]]
"""Setting -> for each number of edits its cohorts, oldest first."""
STEP = 0.02
"""How far curves stand side by side, of the width of the axis."""


def draw(rows: Rows, looks: Looks, columns: int) -> Figure:
    """One panel of success by age after each setting's last edit, and a heat map for each setting.

    In a heat map a row is a number of edits made, a column a cohort: the edits between one number and the next.
    """
    figure, axes = grid(1 + len(rows), columns)
    _by_age(axes[0], rows, looks)
    for ax, (setting, table) in zip(axes[1:], rows.items(), strict=True):
        _heat(ax, table)
        ax.set_title(looks[setting].label)
    legend(figure, [handle(looks[setting]) for setting in rows])
    return figure


def _by_age(ax: Axes, rows: Rows, looks: Looks) -> None:
    """Success after the last edit against how many edits were made since."""
    width = max(cohort.age for table in rows.values() for cohort in table[-1]) or 1
    for i, (setting, table) in enumerate(rows.items()):
        look, aside = looks[setting], (i - (len(rows) - 1) / 2) * STEP * width
        known = {cohort.age + aside: cohort.success for cohort in table[-1]}
        style: dict[str, Any] = dict(color=look.colour, zorder=3)
        ax.plot([*known], [y.value for y in known.values()], ls=look.line, marker=look.marker, ms=3.2, **style)
        bars(ax, known, color=look.colour)
    ax.set(xlim=(-0.05 * width, 1.06 * width), ylim=(0, 1.04))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_xlabel("edits made since")
    ax.set_title("share that holds, by age")


def _heat(ax: Axes, table: Sequence[Sequence[Cohort]]) -> None:
    """Darker is less: what is lost is seen. Each cell says its share."""
    firsts = sorted({cohort.first for row in table for cohort in row})
    lasts = {cohort.first: cohort.last for row in table for cohort in row}  # those of the longest row
    shares = np.full((len(table), len(firsts)), np.nan)
    for y, row in enumerate(table):
        for cohort in row:
            x = firsts.index(cohort.first)
            shares[y, x] = cohort.success.value
            dark = cohort.success.value < 0.5
            text: dict[str, Any] = dict(ha="center", va="center", fontsize=6.5, color="white" if dark else INK)
            ax.text(x, y, f"{cohort.success.value:.2f}", **text)
    ax.pcolormesh(
        np.arange(len(firsts) + 1) - 0.5,
        np.arange(len(table) + 1) - 0.5,
        shares,
        cmap=mpl.colormaps["gray"],
        vmin=-0.25,
        vmax=1.1,
        edgecolors="white",
        lw=0.8,
    )
    ax.grid(False)
    ax.xaxis.set_major_locator(FixedLocator(range(len(firsts))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{firsts[int(x)]}\u2013{lasts[firsts[int(x)]]}"))
    ax.yaxis.set_major_locator(FixedLocator(range(len(table))))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{table[int(y)][0].edits}"))
    ax.set(xlabel="edit number", ylabel="after so many edits", ylim=(len(table) - 0.5, -0.5))
    ax.tick_params(axis="x", labelsize=6, length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
