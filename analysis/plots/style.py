"""How figures look, and how they become bytes: the same results give the same bytes.

Colours are those of Okabe and Ito (2008), which the colour-blind tell apart; line styles and markers differ as well.
A figure is drawn twice, with four panels to a row and, for narrow screens, with two. Fewer panels are larger.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from analysis.collect import Setting
from core.script import postponed
from core.types import Measure

WIDE, NARROW = 4, 2
PANEL = (2.55, 1.95)
"""Inches; a panel of the narrow version is smaller by a fifth."""
INK, SOFT, FAINT = "#1a1a1a", "#5c5c5c", "#e4e4e4"
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#595959")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES: tuple[Any, ...] = ("-", (0, (6, 1.2)), (0, (4, 1, 1, 1)), (0, (2, 1)), (0, (8, 1, 1, 1, 1, 1)))
STYLE = {
    "svg.hashsalt": "report",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 5,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}

TRIVIAL: dict[str, Any] = dict(color=SOFT, lw=1.0, ls=(0, (4, 3)))
"""The best constant answer, or the unedited model: something to hold against."""
COLLAPSED: dict[str, Any] = dict(
    color=INK, marker="$\u2020$", ms=6.5, mew=0.3, ls="none", label="collapsed from here on"
)

Draw = Callable[[int], Figure]
"""Columns -> the figure."""


@dataclass(frozen=True)
class Curve:
    """How one curve is drawn, in every figure of a study."""

    label: str
    colour: str
    marker: str
    line: Any


Looks = Mapping[Setting, Curve]


@dataclass(frozen=True)
class Picture:
    """A drawn figure. `svg` and `png` are the wide version."""

    svg: bytes
    png: bytes
    narrow: bytes
    width: float
    """Of the wide version, in CSS pixels at its natural size."""


def curves(labels: Iterable[str]) -> dict[str, Curve]:
    """A look for every label; the lists have lengths without a common divisor, so that no two are alike."""
    return {
        label: Curve(label, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for i, label in enumerate(dict.fromkeys(labels))
    }


@postponed()
def render(draw: Draw) -> Picture:
    with mpl.rc_context(STYLE):
        wide, narrow = _laid_out(draw(WIDE)), _laid_out(draw(NARROW))
        return Picture(_bytes(wide, "svg"), _bytes(wide, "png"), _bytes(narrow, "svg"), 110 * wide.get_figwidth())


def _laid_out(figure: Figure) -> Figure:
    """The same with its panels in their places for good: savefig would lay it out anew for each format."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine(None)
    return figure


def _bytes(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def grid(panels: int, columns: int, most: int | None = None) -> tuple[Figure, list[Axes]]:
    """Panels of a figure as wide as `columns`, at most `most` or `columns` in a row, the rows as even as can be."""
    scale = 1.0 if columns == WIDE else 0.8
    down = -(-panels // (most or columns))
    across = -(-panels // down)
    height = PANEL[1] * min(1.4, (columns / across) ** 0.5)
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06, hspace=0.04, wspace=0.04)
    figure = Figure(figsize=(columns * PANEL[0] * scale, down * height * scale + 0.3), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for spare in axes[panels:]:
        spare.set_axis_off()
    return figure, axes[:panels]


def legend(figure: Figure, handles: Sequence[Artist], title: str = "", side: str = "upper") -> None:
    """One legend for all panels, above or ("lower") below them, in as many columns as it has room for, four at most.

    The figure grows by its height, so that panels keep theirs.
    """
    for ncols in (4, 3, 2, 1):
        drawn = figure.legend(
            handles=list(handles),
            loc=f"outside {side} left",
            ncols=ncols,
            columnspacing=1.6,
            title=title or None,
            title_fontsize=7.5,
            alignment="left",
        )
        if drawn.get_window_extent().width < 0.98 * figure.bbox.width or ncols == 1:
            break
        drawn.remove()
    figure.set_figheight(figure.get_figheight() + drawn.get_window_extent().height / figure.dpi)


def bars(ax: Axes, measures: Mapping[float, Measure], **style: Any) -> None:
    """The 95 % intervals of one curve, by where they stand; of those that have one."""
    known = {x: measure for x, measure in measures.items() if not math.isnan(measure.low)}
    ends = [m.low for m in known.values()], [m.high for m in known.values()]
    ax.vlines([*known], *ends, lw=1.1, capstyle="butt", clip_on=False, **style)


def dagger(ax: Axes, x: float, y: float) -> None:
    """Mark where a model has collapsed, right above a point."""
    place: dict[str, Any] = dict(xytext=(0, 2.5), textcoords="offset points", ha="center", annotation_clip=False)
    halo = [withStroke(linewidth=1.6, foreground="white")]
    ax.annotate("\u2020", (x, y), fontsize=9, color=INK, zorder=6, path_effects=halo, **place)


def score_axis(ax: Axes, top: float) -> None:
    """From 0 to a little more than `top`."""
    ax.set_ylim(0, min(1.02, top * 1.08) or 1)
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def handle(curve: Curve, filled: bool = True) -> Line2D:
    face = curve.colour if filled else "white"
    return Line2D(
        [], [], color=curve.colour, ls=curve.line, marker=curve.marker, mfc=face, mec=curve.colour, label=curve.label
    )
