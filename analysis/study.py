"""Results sorted into studies, panels, curves and points, so that only like is compared with like.

A study is one model on one kind of data. Its panels are the tasks; a task measured on two different files has two. In a
panel a curve is one setting of an editing method, and a point of it one number of edits: the results there are repeats
of each other, with other edits, other draws of them or other seeds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from analysis import compare
from analysis.collect import Model, Result, Setting, nearest
from analysis.compare import Difference, Ratio
from analysis.samples import ratios
from core.errors import UserError
from core.types import Measure

TASKS = (
    "reasoning",
    "NLI",
    "OpenDomainQA",
    "ClosedDomainQA",
    "dialogue",
    "summarization",
    "NER",
    "SentimentAnalysis",
)
"""The paper's order; other tasks follow."""
RULES = ("none", "rect", "random", "pca", "magnitude")
HEADLINE = "headline"
CHOICE = "choice_accuracy"
RELEASED = "as_released"

Group = tuple[str, str, int | None]
"""Method, mode, edits per update (Batch-Sequential only): what shares a figure."""


@dataclass(eq=False)
class Panel:
    """One task on one data file."""

    task: str
    sha256: str
    title: str = ""
    unedited: list[Result] = field(default_factory=list)
    runs: dict[Setting, dict[int, list[Result]]] = field(default_factory=dict)

    def run(self, setting: Setting, edits: int, repeat: str) -> Result:
        return next(run for run in self.runs[setting][edits] if run.repeat == repeat)

    def baseline(self, runs: Sequence[Result] = ()) -> Result | None:
        """The unedited result that belongs to these, by the folders they are in."""
        return nearest(runs[0], self.unedited) if runs else next(iter(self.unedited), None)


@dataclass(eq=False)
class Study:
    """One model on one kind of data, cut at one limit."""

    model: Model
    kind: str
    limit: int | None
    panels: list[Panel]

    @property
    def settings(self) -> list[Setting]:
        return sorted({setting for panel in self.panels for setting in panel.runs}, key=_order)

    @property
    def groups(self) -> list[Group]:
        return list(dict.fromkeys(setting.group for setting in self.settings))

    def results(self) -> Iterator[Result]:
        for panel in self.panels:
            yield from panel.unedited
            for counts in panel.runs.values():
                for runs in counts.values():
                    yield from runs

    def runs(self, setting: Setting, edits: int) -> tuple[Result, ...]:
        """One result per repeat, whatever its task: what they say about the edits is the same."""
        found: dict[str, Result] = {}
        for panel in self.panels:
            for result in panel.runs.get(setting, {}).get(edits, []):
                found.setdefault(result.repeat, result)
        return tuple(found.values())

    def counts(self, setting: Setting) -> list[int]:
        """The numbers of edits there are results for."""
        return sorted({edits for panel in self.panels for edits in panel.runs.get(setting, {})})


@dataclass(frozen=True, eq=False)
class Point:
    """A score after so many edits, with its 95 % interval, and how it differs from one it is compared with."""

    panel: Panel
    setting: Setting
    edits: int
    metric: str
    results: list[Result]
    measure: Measure
    difference: Difference | None
    p_holm: float | None = None

    @property
    def significant(self) -> bool:
        return self.p_holm is not None and self.p_holm < compare.LEVEL

    @property
    def fall(self) -> bool:
        return self.significant and self.difference is not None and self.difference.measure.value < 0


def studies(results: Sequence[Result]) -> list[Study]:
    """Sort results: by model, then kind and limit of the data, then task and file, then setting and edits."""
    sorted_out: dict[tuple[Model, str, int | None], dict[tuple[str, str], Panel]] = {}
    for result in results:
        kind, sha256, limit = result.data
        panels = sorted_out.setdefault((result.model, kind, limit), {})
        panel = panels.setdefault((result.task, sha256), Panel(result.task, sha256))
        if result.edit is None:
            panel.unedited.append(result)
        else:
            panel.runs.setdefault(result.edit, {}).setdefault(result.edits, []).append(result)
    found = []
    for (model, kind, limit), panels in sorted_out.items():
        files = Counter(panel.task for panel in panels.values())
        for panel in panels.values():
            panel.title = panel.task if files[panel.task] == 1 else f"{panel.task} ({panel.sha256[:6]})"
        found.append(Study(model, kind, limit, sorted(panels.values(), key=lambda p: (_place(TASKS, p.task), p.title))))
    return sorted(found, key=lambda s: (s.model.name, s.model.sha256, s.model.dtype, s.kind, s.limit or 0))


def metric_of(result: Result, wanted: str) -> str | None:
    """The name of the metric in this result: `wanted` is HEADLINE, CHOICE or RELEASED; None if it has none.

    The released scorer of ClosedDomainQA differs before and after edits, and three tasks have none of their own.
    """
    if wanted == HEADLINE:
        return result.headline
    names = [wanted]
    if wanted == RELEASED:
        names += [f"{RELEASED}_{'before' if result.edit is None else 'after'}_edit", result.headline]
    return next((name for name in names if name in result.metrics), None)


def family(panels: Sequence[Panel], group: Group, wanted: str) -> list[Point]:
    """All points of one figure against the unedited model, their p values corrected for how many there are (Holm)."""
    return _corrected(
        _point(panel, setting, edits, [panel.baseline(runs)], runs, wanted)
        for panel, setting, edits, runs in _measured(panels, group)
    )


def regularised(panels: Sequence[Panel], group: Group, wanted: str) -> list[Point]:
    """The points with a regulariser against the same edits without one; corrected likewise."""
    points = []
    for panel, setting, edits, runs in _measured(panels, group):
        plain = panel.runs.get(replace(setting, regularizer="none", keep=None), {}).get(edits, [])
        before = {run.repeat: run for run in plain if setting.regularizer != "none"}
        both = [run for run in runs if run.repeat in before]
        points.append(_point(panel, setting, edits, [before[run.repeat] for run in both], both, wanted))
    return [point for point in _corrected(points) if point.difference]


def _measured(panels: Sequence[Panel], group: Group) -> Iterator[tuple[Panel, Setting, int, list[Result]]]:
    for panel in panels:
        for setting in sorted(panel.runs, key=_order):
            if setting.group == group:
                for edits, runs in sorted(panel.runs[setting].items()):
                    yield panel, setting, edits, runs


def _point(
    panel: Panel, setting: Setting, edits: int, before: Sequence[Result | None], runs: list[Result], wanted: str
) -> Point | None:
    metric = metric_of(runs[0], wanted) if runs else None
    if metric is None:
        return None
    return Point(panel, setting, edits, metric, runs, score(runs, metric), differs(before, runs, metric))


def _corrected(points: Iterable[Point | None]) -> list[Point]:
    """Those that are points, their p values corrected for how many comparisons there are."""
    found = [point for point in points if point]
    adjusted = iter(compare.holm([point.difference.p for point in found if point.difference]))
    return [replace(point, p_holm=next(adjusted)) if point.difference else point for point in found]


def score(runs: Sequence[Result], metric: str) -> Measure:
    """Mean over the repeats. A single run keeps the interval of its file, over records; see compare.mean for others.

    Without its records a mean of repeats has no interval: low and high are NaN.
    """
    if len(runs) == 1:
        return runs[0].metrics[metric]
    parts = [ratios(run).get(metric) for run in runs]
    if all(parts):
        return compare.mean([part for part in parts if part])
    return Measure(float(np.mean([run.metrics[metric].value for run in runs])), float("nan"), float("nan"))


def differs(before: Sequence[Result | None], after: Sequence[Result], metric: str) -> Difference | None:
    """The difference between runs; None where there is nothing to compare with, or records do not give the score."""
    runs = [run for run in (*before, *after) if run]
    parts = [ratio for run in runs if (ratio := ratios(run).get(metric))]
    if not before or len(parts) < len(before) + len(after):
        return None
    for run, ratio in zip(runs, parts, strict=True):
        if ratio.ids != parts[0].ids:
            raise UserError(f"{run.path}: its samples are not those of {runs[0].path}; make one of them again")
    return _difference(tuple(parts[: len(before)]), tuple(parts[len(before) :]))


@cache
def _difference(before: tuple[Ratio, ...], after: tuple[Ratio, ...]) -> Difference:
    return compare.difference(before, after)


def _order(setting: Setting) -> tuple[object, ...]:
    """None first, then the regularisers by name and by the share they keep, largest first."""
    keep = -(setting.keep or 0)
    return (
        *map(str, (setting.method, setting.mode)),
        setting.batch_size or 0,
        _place(RULES, setting.regularizer),
        keep,
        setting.details,
    )


def _place(order: Sequence[str], name: str) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)
