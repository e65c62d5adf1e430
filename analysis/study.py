"""Runs sorted into studies, panels, curves and points, so that only like is compared with like.

A study is one model on one kind of data. Its panels are the tasks; a task measured on two different files has two. In a
panel a curve is one setting of an editing method, and a point of it one number of edits: its runs are repeats
of each other, with other edits, other draws of them or other seeds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from analysis import compare
from analysis.collect import Model, Run, Setting, nearest
from analysis.compare import Difference
from analysis.samples import ratios
from core.errors import UserError
from core.metrics import MEASURES, shared
from core.types import Measure, Ratio

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
HEADLINE = "headline"
CHOICE = "choice_accuracy"
RELEASED = "as_released"
REFERENCE, TEXT, DRIFT = "reference_logprob", "text_logprob", "drift"
"""Mean log p per token of the reference answer and of the prompt's own text, KL from the unedited model: in nats."""
PROBABILITY = "choice_probability"
"""Of the right label word among the label words."""

Group = tuple[str, str, int | None]
"""Method, mode, edits per update (Batch-Sequential only): what shares a figure."""


@dataclass(eq=False)
class Panel:
    """One task on one data file."""

    task: str
    sha256: str
    title: str = ""
    unedited: list[Run] = field(default_factory=list)
    runs: dict[Setting, dict[int, list[Run]]] = field(default_factory=dict)

    def all_runs(self) -> Iterator[Run]:
        yield from self.unedited
        for counts in self.runs.values():
            for runs in counts.values():
                yield from runs

    def run(self, setting: Setting, edits: int, repeat: str) -> Run:
        return next(run for run in self.runs[setting][edits] if run.repeat == repeat)

    def up_to(self, setting: Setting, edits: int) -> Iterator[Run]:
        """All runs of a setting after so many edits or fewer."""
        return (run for n, runs in self.runs.get(setting, {}).items() if n <= edits for run in runs)

    def baseline(self, runs: Sequence[Run] = ()) -> Run | None:
        """The unedited run that belongs to these, by the folders they are in."""
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

    def all_runs(self) -> Iterator[Run]:
        for panel in self.panels:
            yield from panel.all_runs()

    def runs(self, setting: Setting, edits: int) -> tuple[Run, ...]:
        """One per repeat, whatever its task: what they say about the edits is the same."""
        runs: dict[str, Run] = {}
        for panel in self.panels:
            for run in panel.runs.get(setting, {}).get(edits, []):
                runs.setdefault(run.repeat, run)
        return tuple(runs.values())

    def counts(self, setting: Setting) -> list[int]:
        """The numbers of edits it was measured after."""
        return sorted({edits for panel in self.panels for edits in panel.runs.get(setting, {})})


@dataclass(frozen=True, eq=False)
class Point:
    """A score after so many edits, with its 95 % interval, and how it differs from one it is compared with."""

    panel: Panel
    setting: Setting
    edits: int
    metric: str
    runs: list[Run]
    measure: Measure
    difference: Difference | None
    p_holm: float | None = None

    @property
    def significant(self) -> bool:
        return self.p_holm is not None and self.p_holm < compare.LEVEL

    @property
    def fall(self) -> bool:
        return self.significant and self.difference is not None and self.difference.measure.value < 0


def studies(runs: Sequence[Run]) -> list[Study]:
    """Sort runs: by model, then kind and limit of the data, then task and file, then setting and edits."""
    by_study: dict[tuple[Model, str, int | None], dict[tuple[str, str], Panel]] = {}
    for run in runs:
        task, (kind, sha256, limit) = run.result.task, run.data
        panels = by_study.setdefault((run.model, kind, limit), {})
        panel = panels.setdefault((task, sha256), Panel(task, sha256))
        if run.edit is None:
            panel.unedited.append(run)
        else:
            panel.runs.setdefault(run.edit, {}).setdefault(run.edits, []).append(run)
    all_studies = []
    for (model, kind, limit), panels in by_study.items():
        files = Counter(panel.task for panel in panels.values())
        for panel in panels.values():
            panel.title = panel.task if files[panel.task] == 1 else f"{panel.task} ({panel.sha256[:6]})"
        all_studies.append(
            Study(model, kind, limit, sorted(panels.values(), key=lambda p: (_place(TASKS, p.task), p.title)))
        )
    return sorted(all_studies, key=lambda s: (s.model.name, s.model.sha256, s.model.dtype, s.kind, s.limit or 0))


def metric_of(run: Run, wanted: str) -> str | None:
    """The name of the metric in this run's result: `wanted` is HEADLINE, CHOICE or RELEASED; None if it has none.

    The released scorers of ClosedDomainQA and dialogue differ before and after edits. A task of yours has none, and
    results of older versions lack some: their headline is no figure of the released code, nor tested again as one.
    """
    if wanted == HEADLINE:
        return run.result.headline
    names = [wanted]
    if wanted == RELEASED:
        names.append(f"{RELEASED}_{'before' if run.edit is None else 'after'}_edit")
    return next((name for name in names if name in run.result.metrics), None)


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
        plain = panel.runs.get(replace(setting, regularizer="none", keep=None, parameters="{}"), {}).get(edits, [])
        before = {run.repeat: run for run in plain if setting.regularizer != "none"}
        both = [run for run in runs if run.repeat in before]
        points.append(_point(panel, setting, edits, [before[run.repeat] for run in both], both, wanted))
    return [point for point in _corrected(points) if point.difference]


def _measured(panels: Sequence[Panel], group: Group) -> Iterator[tuple[Panel, Setting, int, list[Run]]]:
    for panel in panels:
        for setting in sorted(panel.runs, key=_order):
            if setting.group == group:
                for edits, runs in sorted(panel.runs[setting].items()):
                    yield panel, setting, edits, runs


def _point(
    panel: Panel, setting: Setting, edits: int, before: Sequence[Run | None], runs: list[Run], wanted: str
) -> Point | None:
    metric = metric_of(runs[0], wanted) if runs else None
    if metric is None:
        return None
    return Point(panel, setting, edits, metric, runs, score(runs, metric), differs(before, runs, metric))


def _corrected(points: Iterable[Point | None]) -> list[Point]:
    """Those that are points, their p values corrected for how many comparisons there are."""
    measured = [point for point in points if point]
    adjusted = iter(compare.holm([point.difference.p for point in measured if point.difference]))
    return [replace(point, p_holm=next(adjusted)) if point.difference else point for point in measured]


def score(runs: Sequence[Run], metric: str) -> Measure:
    """Mean over the repeats. A single run keeps the interval of its file, over records; see compare.mean for others.

    Without its records a mean of repeats has no interval: low and high are NaN.
    """
    if len(runs) == 1:
        return runs[0].result.metrics[metric]
    parts = [ratios(run).get(metric) for run in runs]
    if all(parts):
        return compare.mean([part for part in parts if part])
    return Measure(float(np.mean([run.result.metrics[metric].value for run in runs])), float("nan"), float("nan"))


def differs(before: Sequence[Run | None], after: Sequence[Run], metric: str) -> Difference | None:
    """The difference between runs; None where there is nothing to compare with, or records do not give the score."""
    runs = [run for run in (*before, *after) if run]
    parts = shared_records(runs, metric) if before and len(runs) == len(before) + len(after) else None
    return _difference(tuple(parts), len(before), metric in MEASURES) if parts else None


def shared_records(runs: Sequence[Run], metric: str) -> list[Ratio] | None:
    """A metric's records in each run; None where one has none. Raises UserError where they are not the same records."""
    parts = [ratio for run in runs if (ratio := ratios(run).get(metric))]
    if len(parts) < len(runs):
        return None
    for run, ratio in zip(runs, parts, strict=True):
        if ratio.records != parts[0].records:
            raise UserError(f"{run.path}: its samples are not those of {runs[0].path}; make one of them again")
    return parts


@cache
def _difference(parts: tuple[Ratio, ...], before: int, measures: bool) -> Difference | None:
    """Of what follows the first `before` to these; None if they share no record that has the measure."""
    pairs = shared(parts) if measures else list(parts)
    return compare.difference(pairs[:before], pairs[before:]) if pairs[0].records else None


def _order(setting: Setting) -> tuple[object, ...]:
    """None first, then the regularisers by name and by the share they keep, largest first."""
    return (
        *map(str, (setting.method, setting.mode)),
        setting.batch_size or 0,
        _place(("none",), setting.regularizer),
        -(setting.keep or 0),
        setting.details,
        setting.parameters,
    )


def _place(order: Sequence[str], name: str) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)
