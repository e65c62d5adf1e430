"""The figure of scores against number of edits. What it shows is computed elsewhere."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import words
from analysis.collect import Run, Setting
from analysis.edits import collapse
from analysis.plots.slots import Slots
from analysis.plots.style import (
    COLLAPSED,
    INK,
    SOFT,
    TRIVIAL,
    WIDE,
    Curve,
    Looks,
    bars,
    dagger,
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
    scenes = [
        Scene(ax, panel, [point for point in points if point.panel is panel], wanted)
        for ax, panel in zip(axes, panels, strict=True)
    ]
    read_off = [x for scene in scenes for setting in settings for line in scene.published(setting) for x, _ in line]
    slots = Slots(axes[0], [*(point.edits for point in points), max(read_off, default=0)], settings)
    for scene in scenes:
        for setting in settings:
            scene.curve(setting, looks[setting], slots)
    for scene in scenes:
        scene.finish(columns, max(top for other in scenes if other.metric == scene.metric for top in other.tops))
        slots.axis(scene.ax)
    figure.supxlabel("number of edits", fontsize=7.5, color=SOFT)
    seen = {name for scene in scenes for name in scene.seen}
    extra = [
        Line2D([], [], label="unedited", **UNEDITED),
        Line2D([], [], label="trivial", **TRIVIAL),
        Line2D([], [], color=SOFT, marker="x", lw=0.8, ls=":", label="published"),
        Line2D([], [], color=SOFT, marker="o", ls="none", label=FILLED),
        Line2D([], [], **COLLAPSED),
    ]
    handles = [handle(looks[setting], filled=False) for setting in settings]
    legend(figure, [*handles, *(line for line in extra if line.get_label() in seen)])
    return figure


class Scene:
    """One task's panel. `seen` collects what the legend has to explain."""

    def __init__(self, ax: Axes, panel: Panel, points: Sequence[Point], wanted: str) -> None:
        self.ax, self.panel, self.points, self.wanted = ax, panel, points, wanted
        self.seen = {FILLED} if any(point.significant for point in points) else set()
        self.tops = [0.05]
        self.start: list[tuple[float, float]] = []
        base = panel.baseline([run for point in points for run in point.runs])
        name = metric_of(base, wanted) if base else None
        if base and name:
            self._unedited(base.result.metrics[name])
        self._trivial(base or points[0].runs[0])

    def _unedited(self, measure: Measure) -> None:
        self.start = [(0.0, measure.value)]
        self.ax.plot(0, measure.value, zorder=5, clip_on=False, **UNEDITED)
        bars(self.ax, {0: measure}, color=INK)
        self.seen.add("unedited")
        self.tops.append(measure.high)

    def _trivial(self, run: Run) -> None:
        trivial = run.result.metrics.get("trivial")
        if trivial and self.wanted != RELEASED:
            self.ax.axhline(trivial.value, zorder=1, **TRIVIAL)
            self.seen.add("trivial")
            self.tops.append(trivial.value)

    def curve(self, setting: Setting, look: Curve, slots: Slots) -> None:
        """A setting's scores, filled markers where they differ from the unedited one; the paper's crosses."""
        points = {slots.x(p.edits, setting): p for p in self.points if p.setting == setting}
        if points:
            line = [*self.start, *((x, point.measure.value) for x, point in points.items())]
            self.ax.plot(*zip(*line, strict=True), color=look.colour, ls=look.line, zorder=3, clip_on=False)
        bars(self.ax, {x: point.measure for x, point in points.items()}, zorder=3, color=look.colour)
        shape: dict[str, Any] = dict(marker=look.marker, ms=slots.marker, color=look.colour, mew=1.0, ls="none")
        for significant, face in ((False, "white"), (True, look.colour)):
            places = [(x, point.measure.value) for x, point in points.items() if point.significant is significant]
            if places:
                self.ax.plot(*zip(*places, strict=True), mfc=face, zorder=4, clip_on=False, **shape)
        self.tops += [m.value if math.isnan(m.high) else m.high for m in (point.measure for point in points.values())]
        self._collapse(points)
        for read_off in self.published(setting):
            style: dict[str, Any] = dict(color=look.colour, marker="x", ms=3.6, lw=0.8, ls=":", zorder=2, clip_on=False)
            self.ax.plot([slots.x(x) for x, _ in read_off], [y for _, y in read_off], **style)
            self.seen.add("published")
            self.tops += [y for _, y in read_off]

    def _collapse(self, points: Mapping[float, Point]) -> None:
        """Mark the first number of edits at which these, by their places, had collapsed."""
        found = collapse(run for point in points.values() for run in point.runs)
        x, first = next(((x, point) for x, point in points.items() if found and point.edits >= found[0]), (0.0, None))
        if first:
            dagger(self.ax, x, first.measure.value)
            self.seen.add(str(COLLAPSED["label"]))

    def published(self, setting: Setting) -> Sequence[Sequence[tuple[int, float]]]:
        """The paper's curves for a setting."""
        model = self.points[0].runs[0].model.name
        return [] if self.wanted == CHOICE else curves(model, setting.edit, self.panel.task)

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
