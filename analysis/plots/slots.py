"""The axis of numbers of edits: those measured after stand at equal distances, and at each the curves side by side.

So no marker hides another, however near the numbers and however alike the scores are.
"""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.collect import Setting

SHARE = 0.84
"""Of the way from one number of edits to the next, for the curves side by side; the rest is the gap between."""
LARGEST, SMALLEST, APART, DIGIT = 4.8, 1.5, 1.2, 4.6
"""A marker's size and that of a digit of a label, in points; the widest step between curves, in markers."""
BESIDE = 44
"""Points of a panel that its axis does not have: labels and margins."""


class Slots:
    """Places for numbers of edits, 0 first, and for curves at each, which have a setting each.

    `ax` is one of the figure's panels, all of one size.
    """

    def __init__(self, ax: Axes, counts: Iterable[int], curves: Iterable[Setting]) -> None:
        self.counts = [0, *sorted({count for count in counts if count})]
        self.curves = list(curves)
        spec = ax.get_subplotspec()
        assert spec is not None
        panel = 72 * ax.figure.get_figure(root=True).get_figwidth() / spec.get_gridspec().ncols  # type: ignore[union-attr]
        self.width = (panel - BESIDE) / len(self.counts)
        """Points from one number of edits to the next, as nearly as is known before the layout."""
        self.step = min(SHARE / max(1, len(self.curves)), APART * LARGEST / self.width)
        self.marker = min(LARGEST, max(SMALLEST, 0.9 * self.step * self.width))
        """The size of markers, in points, that leaves those of neighbouring curves apart."""

    def x(self, count: float, curve: Setting | None = None) -> float:
        """Where a number of edits stands; for a curve beside it. The unedited model belongs to no curve."""
        aside = 0.0
        if curve is not None and count:
            aside = (self.curves.index(curve) - (len(self.curves) - 1) / 2) * self.step
        return float(np.interp(count, self.counts, range(len(self.counts)))) + aside

    def axis(self, ax: Axes) -> None:
        """Limits, and as many labels as have room; the first and the last always do."""
        last, width = len(self.counts) - 1, self.width
        ax.set_xlim(-0.5, last + 0.5)
        ticks = [0, last] if last else [0]
        for place in range(last - 1, 0, -1):
            room = [abs(place - other) * width - self._label(place) / 2 - self._label(other) / 2 for other in ticks]
            ticks += [place] if min(room) > DIGIT else []
        ax.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{self.counts[round(x)]:g}"))

    def _label(self, place: int) -> float:
        return DIGIT * len(f"{self.counts[place]:g}")
