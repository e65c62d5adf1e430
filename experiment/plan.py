"""From what is asked for to what will be done: names resolved, files read and checked, nothing made.

`resolve` reads every file that an `Experiment` depends on and gives a `Plan`, in which nothing is left to decide.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import hparams, results
from core.disk.digest import sha256
from core.errors import UserError
from core.registry import discover
from core.types import Edit, Editor, EditSet, Regularizer, Sample, Task
from experiment.asked import EditRequest, Experiment, checked, edit_file, measure_names, task_names, updates_of
from experiment.harness.installed import KIND
from inputs.sources import Source, default_model, find_data, settings_file

if TYPE_CHECKING:  # torch takes seconds to import, and command lines are read without it
    from experiment.harness.found import Yardsticks
    from experiment.models import Model, Models

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A result to be made: of which task, after how many edits, at which path (without its ending).

    `settings` decide its numbers: two runs with equal settings give the same result.
    """

    task: Task
    edits: int
    stem: Path
    settings: dict[str, Any]

    def beside(self, ending: str) -> Path:
        """A hidden file of a run at work, beside the result."""
        return self.stem.with_name(f".{self.stem.name}.{ending}")


@dataclass(frozen=True)
class Schedule:
    """Edits cut into updates, and what makes and applies these; `counts` are the numbers of edits to score at.

    `settings` is the part "edit" of the results' settings, of all the edits.
    """

    request: EditRequest
    editor: type[Editor]
    hp: Any
    regularizer: Regularizer | None
    edits: list[Edit]
    updates: list[Sequence[Edit]]
    counts: list[int]
    settings: Mapping[str, Any]

    def updates_until(self, count: int) -> list[Sequence[Edit]]:
        """The updates that make the first `count` edits."""
        return self.updates[: [0, *itertools.accumulate(map(len, self.updates))].index(count)]

    def settings_until(self, count: int) -> dict[str, Any]:
        """The settings of a run that ends after `count` edits: what it gives is what this one has at that point."""
        begin, _, step = self.settings["range"]
        return {**self.settings, "range": [begin, begin + count * step, step]}

    def name_until(self, count: int) -> results.EditPlan:
        """What a result's file name says of the first `count` edits."""
        label = self.editor.name + ("" if self.regularizer is None else f"-{self.regularizer.label}")
        return results.EditPlan(self.settings["mode"], label, count, self.request.batch_size)


@dataclass(frozen=True)
class Plan:
    """An experiment with everything settled. `wanted` are its results, in the order in which they are made."""

    experiment: Experiment
    model: Model
    root: Path
    sources: Mapping[str, Source]
    samples: Mapping[str, list[Sample]]
    schedule: Schedule | None
    wanted: tuple[Wanted, ...]
    measures: tuple[str, ...] = ()

    @property
    def unedited(self) -> Path:
        """Where the results of the unedited model are: `root`, but for drawn edits, which have a folder in it."""
        return self.root if self.schedule is None or self.schedule.request.draw is None else self.root.parent

    def measured(self, task: Task) -> tuple[str, ...]:
        """What is measured beside a task's score: nothing beside that of a task of lm-evaluation-harness."""
        return () if self.sources[task.name].kind == KIND else self.measures

    @property
    def edited(self) -> dict[str, Any]:
        """What decides the edited weights."""
        assert self.schedule is not None
        settings = self.wanted[0].settings
        return {"model": settings["model"], "seed": settings["seed"], "edit": self.schedule.settings}


def resolve(experiment: Experiment, models: Models) -> Plan:
    """Read and check everything that the experiment depends on. Raises UserError for whatever is wrong with it.

    Nothing on the disk changes, but that the embedded model is prepared where it is asked for and absent.
    """
    experiment = checked(experiment)
    tasks, sources, samples = _asked(experiment, models.yardsticks)
    request = experiment.edit
    parts = None if request is None else _parts(request, experiment.data)  # before a model is hashed
    model = models.identify(experiment.model)
    root = experiment.results / ("" if model.name == default_model() else model.name)
    schedule = None
    if request is not None and parts is not None:
        schedule = _schedule(request, parts, model.name)
        root /= "" if request.draw is None else f"draw-{request.draw}"
    described = {name: source.describe() for name, source in sources.items()}
    wanted = []
    for count in schedule.counts if schedule else [0]:
        for task in tasks:
            settings = {
                "task": task.name,
                "model": model.settings(experiment.placement.dtype),
                "data": described[task.name],
                "limit": experiment.limit,
                "seed": experiment.effective_seed,
                "edit": schedule.settings_until(count) if schedule else None,
            }
            stem = results.stem(root, task.name, schedule.name_until(count) if schedule else None)
            stem = results.beside_another_range(stem, settings)
            wanted.append(Wanted(task, count, stem, settings))
    measures = measure_names(experiment.measures)
    return Plan(experiment, model, root, sources, samples, schedule, tuple(wanted), measures)


def _asked(
    experiment: Experiment, yardsticks: Yardsticks
) -> tuple[list[Task], dict[str, Source], dict[str, list[Sample]]]:
    """The tasks, then those of lm-evaluation-harness, and by their names where their records come from, and these."""
    known: dict[str, Task] = discover("tasks", "TASK")
    tasks = [known[name] for name in task_names(experiment.tasks)]
    limit = experiment.limit
    sources = {task.name: find_data(f"task-data/{task.file}", experiment.data) for task in tasks}
    samples = {task.name: limited(list(task.samples(sources[task.name].path)), limit) for task in tasks}
    further = yardsticks.of(experiment.lm_eval, experiment.lm_eval_tasks) if experiment.lm_eval else []
    for yardstick in further:
        if yardstick.name in known:
            raise UserError(f"--lm-eval: {yardstick.name} is the name of a task here, whose results it would replace")
        sources[yardstick.name] = yardstick.source(limit)
        samples[yardstick.name] = yardstick.first(limit)
    return [*tasks, *further], sources, samples


def limited(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """The samples of the first `limit` records, all of them without a limit."""
    if limit is None:
        return list(samples)
    records = set(list(dict.fromkeys(sample.record for sample in samples))[:limit])
    return [sample for sample in samples if sample.record in records]


@dataclass(frozen=True)
class _Parts:
    """What of a schedule does not depend on the model."""

    editor: type[Editor]
    regularizer: Regularizer | None
    source: Source
    reading: dict[str, str]
    edits: list[Edit]


def _parts(request: EditRequest, data: Path | None) -> _Parts:
    editor: type[Editor] = discover("editors", "EDITOR")[request.method]
    regularizer = _regularizer(request)
    edit_set, source = edit_file(request, data)
    edits = edit_set.edits(source.path, request.begin, request.end, request.step, request.draw)
    complete(editor, edits, f"{source.path}: record", edit_set.keys)
    return _Parts(editor, regularizer, source, _reading(request, edit_set), edits)


def complete(
    editor: type[Editor], edits: Sequence[Edit], where: str = "edit", keys: Mapping[str, str] | None = None
) -> None:
    """UserError for an edit that lacks what the method needs: `where` and its index, and what its file calls that."""
    for edit, name in itertools.product(edits, sorted(editor.needs)):
        if not (getattr(edit, name) or "").strip():
            key = (keys or {}).get(name, name)
            raise UserError(f"{where} {edit.index}: {editor.name} needs a text in '{key}', which is absent or empty")


def _regularizer(request: EditRequest) -> Regularizer | None:
    """UserError for a --keep that it cannot take."""
    from editors import regularizers  # brings torch

    name = request.regularizer.partition(":")[0]
    if request.keep is None or name == "none":
        return regularizers.make(request.regularizer, {})
    own = [field.name for field in fields(regularizers.REGULARIZERS[name])]
    if "keep" not in own:
        takes = f"its own are {', '.join(own)}, as in {name}:{own[0]}=..." if own else "it has none"
        raise UserError(f"--keep: the regularizer {name} has no such parameter; {takes}")
    return regularizers.make(request.regularizer, {"keep": request.keep})


def _schedule(request: EditRequest, parts: _Parts, model: str) -> Schedule:
    editor, rule, edits = parts.editor, parts.regularizer, parts.edits
    updates, counts = updates_of(request, edits)
    hp = settings_of(editor, request, model)
    settings = {
        "mode": request.mode,
        "method": editor.name,
        "range": [request.begin, request.begin + len(edits) * request.step, request.step],  # of 200 205 2 too it is 206
        "draw": request.draw,
        "batch_size": request.batch_size,
        "hparams": hparams.recorded(hp),
        "files": {name: sha256(path) for name, path in editor.files(hp, model).items()},
        "regularizer": None if rule is None else rule.settings(),
        "max_update": request.max_update,
        "data": parts.source.describe(),
        **parts.reading,
    }
    return Schedule(request, editor, hp, rule, edits, updates, counts, results.plain(settings))


def _reading(request: EditRequest, edit_set: EditSet) -> dict[str, str]:
    """How the edit file is read, where that was said; what is usual is not recorded, as older results do not say it."""
    usual = discover("edit_sets", "EDIT_SET")[edit_set.name].keys["target"]
    said = {} if request.edit_format is None else {"format": edit_set.name}
    return said if edit_set.keys["target"] == usual else {**said, "target": edit_set.keys["target"]}


def settings_of(editor: type[Editor], request: EditRequest, model: str) -> Any:
    """The method's settings for a model, from their file and the command line."""
    hp = hparams.load(editor.hparams, settings_file(editor.name, model, request.hparams))
    if request.redraw:
        if (redrawn := editor.redrawn(hp)) is hp:
            logger.warning("--redraw changes nothing: %s draws no context templates", editor.name)
        hp = redrawn
    if request.edit_batch is None:
        return hp
    if not editor.edit_batch:
        raise UserError(f"--edit-batch: {editor.name} takes its edits one at a time")
    return replace(hp, edit_batch=request.edit_batch)
