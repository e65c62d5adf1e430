"""The figure of scores against number of edits. What it shows is computed elsewhere."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch
from matplotlib.transforms import Transform

from analysis import words
from analysis.collect import Setting
from analysis.plots.style import (
    INK,
    SOFT,
    TRIVIAL,
    WIDE,
    Curve,
    Looks,
    bar,
    beside,
    count_axis,
    grid,
    handle,
    legend,
    score_axis,
)
from analysis.study import CHOICE, RELEASED, Group, Panel, Point, Study, metric_of
from core.published import curves
from core.types import Measure

UNEDITED: dict[str, Any] = dict(color=INK, marker="s", ms=4.6, ls="none")
MAGNIFIED = 0.5
"""A panel whose axis ends below this says so: noise near 0 would look like a result."""
FILLED = "filled: differs from unedited"


def abilities(points: Sequence[Point], looks: Looks, wanted: str, columns: int) -> Figure:
    """A panel per task: score against number of edits, a curve per setting. Panels of one metric share their axis."""
    panels = list(dict.fromkeys(point.panel for point in points))
    settings = list(dict.fromkeys(point.setting for point in points))
    figure, axes = grid(len(panels), columns)
    seen: set[str] = set()
    counts = [point.edits for point in points]
    scenes = [
        Scene(ax, panel, [point for point in points if point.panel is panel], wanted)
        for ax, panel in zip(axes, panels, strict=True)
    ]
    for scene in scenes:
        for i, setting in enumerate(settings):
            scene.curve(setting, looks[setting], beside(scene.ax, i, len(settings)))
        seen |= scene.seen
        counts += scene.counts
    for scene in scenes:
        scene.finish(columns, max(top for other in scenes if other.metric == scene.metric for top in other.tops))
    for ax in axes:
        count_axis(ax, counts)
    figure.supxlabel("number of edits", fontsize=7.5, color=SOFT)
    extra = [
        Line2D([], [], label="unedited", **UNEDITED),
        Line2D([], [], label="trivial", **TRIVIAL),
        Line2D([], [], color=SOFT, marker="x", lw=0.8, ls=":", label="published"),
        Line2D([], [], color=SOFT, marker="o", ls="none", label=FILLED),
    ]
    handles = [handle(looks[setting], filled=False) for setting in settings]
    legend(figure, [*handles, *(line for line in extra if line.get_label() in seen)])
    return figure


class Scene:
    """One task's panel. `seen` collects what the legend has to explain, `counts` the numbers of edits shown."""

    def __init__(self, ax: Axes, panel: Panel, points: Sequence[Point], wanted: str) -> None:
        self.ax, self.panel, self.points, self.wanted = ax, panel, points, wanted
        self.seen = {FILLED} if any(point.significant for point in points) else set()
        self.counts: list[int] = []
        self.tops = [0.05]
        self.base = panel.baseline([run for point in points for run in point.runs])
        self.start: tuple[int, float] | None = None
        name = metric_of(self.base, wanted) if self.base else None
        if self.base and name:
            self._unedited(self.base.result.metrics[name])
        trivial = (self.base or points[0].runs[0]).result.metrics.get("trivial")
        if trivial and wanted != RELEASED:
            ax.axhline(trivial.value, zorder=1, **TRIVIAL)
            self.seen.add("trivial")
            self.tops.append(trivial.value)

    def _unedited(self, measure: Measure) -> None:
        self.start = 0, measure.value
        self.ax.plot(0, measure.value, zorder=5, clip_on=False, **UNEDITED)
        bar(self.ax, 0, measure, color=INK)
        self.seen.add("unedited")
        self.tops.append(measure.high)

    def curve(self, setting: Setting, curve: Curve, aside: Transform) -> None:
        """A setting's scores, filled markers where they differ from the unedited one; the paper's crosses."""
        points = [point for point in self.points if point.setting == setting]
        style: dict[str, Any] = dict(color=curve.colour, transform=aside)
        line = [(point.edits, point.measure.value) for point in points]
        if line:
            self.ax.plot(*zip(*line, strict=True), ls=curve.line, zorder=3, clip_on=False, **style)
            self._leave(line[0], curve, aside)
        for point in points:
            x, y = point.edits, point.measure
            face = curve.colour if point.significant else "white"
            bar(self.ax, x, y, zorder=3, **style)
            self.ax.plot(x, y.value, marker=curve.marker, mfc=face, mew=1.1, zorder=4, clip_on=False, **style)
            self.tops.append(y.value if math.isnan(y.high) else y.high)
        if self.wanted != CHOICE:
            self._published(setting, curve)

    def _leave(self, first: tuple[int, float], curve: Curve, aside: Transform) -> None:
        """Lead a curve, which is moved aside, from the unedited score, which is not."""
        if self.start:
            ends: dict[str, Any] = dict(coordsA=self.ax.transData, coordsB=aside)
            look: dict[str, Any] = dict(color=curve.colour, ls=curve.line, lw=mpl.rcParams["lines.linewidth"])
            self.ax.add_patch(ConnectionPatch(self.start, first, **ends, **look, zorder=3)).set_clip_on(False)

    def _published(self, setting: Setting, curve: Curve) -> None:
        model = self.points[0].runs[0].model.name
        for line in curves(model, setting.edit, self.panel.task):
            look: dict[str, Any] = dict(color=curve.colour, marker="x", ms=4, lw=0.8, ls=":", zorder=2, clip_on=False)
            self.ax.plot(*zip(*line, strict=True), **look)
            self.seen.add("published")
            self.counts += [x for x, _ in line]
            self.tops += [y for _, y in line]

    @property
    def metric(self) -> str:
        return words.metric(self.points[0].metric)

    def finish(self, columns: int, top: float) -> None:
        """Title and axis: `top` is the highest value of all panels with this metric."""
        score_axis(self.ax, top)
        self.ax.set_title(self.panel.title)
        end = self.ax.get_ylim()[1]
        size = f"axis to {end:.2g}" if end < MAGNIFIED else ""
        said = [part for part in (self.metric if columns == WIDE else "", size) if part]
        self.ax.set_title(
            ", ".join(said), loc="right", fontweight="normal", fontsize=7 if columns == WIDE else 6, color=SOFT
        )


def published(study: Study, group: Group) -> bool:
    """Whether the paper has any score for these settings."""
    settings = [setting for setting in study.settings if setting.group == group]
    return any(curves(study.model.name, setting.edit, panel.task) for setting in settings for panel in study.panels)
