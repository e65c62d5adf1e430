"""From what is asked for to what will be done: names resolved, files read and checked, nothing made.

An `Experiment` says what is wanted, whoever asks: the command line, a grid or a notebook. `resolve` reads every file
that it depends on and gives a `Plan`, in which nothing is left to decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core import hparams, results
from core.disk.digest import sha256
from core.errors import UserError
from core.folders import HPARAMS, RESULTS
from core.registry import discover, pick
from core.types import MODES, Edit, Editor, Mode, Regularizer, Sample, Task, per_update
from edit_sets.zsre import EDIT_SET
from inputs.sources import Source, default_model, find_data

if TYPE_CHECKING:  # torch takes seconds to import: the command line says what is wrong with its words before that
    from experiment.models import Model, Models


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model's weights are, and in which type."""

    device: str | None = None
    dtype: str = "float32"
    device_map: str | None = None
    attn: str | None = None


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """Which edits, by which method, and how they are applied. The edits are range(begin, end, step) of the edit file.

    With `draw`, a seed, as many are drawn from `begin` on. `checkpoints` are numbers of edits to score at on the way;
    `save_every` the seconds after which the edits of a long run are kept.
    """

    method: str
    mode: str
    begin: int
    end: int
    step: int = 1
    batch_size: int | None = None
    draw: int | None = None
    checkpoints: tuple[int, ...] = ()
    regularizer: str = "none"
    keep: float | None = None
    hparams: Path | None = None
    edit_batch: int | None = None
    max_update: float = 1000.0
    on_error: Literal["stop", "skip"] = "stop"
    save_every: float = 60.0
    save_model: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is asked for: tasks to score a model on, as it is (`edit` is None) or after edits."""

    tasks: tuple[str, ...] = ("all",)
    model: str | None = None
    edit: EditRequest | None = None
    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    placement: Placement = field(default_factory=Placement)
    batch_tokens: int | None = None
    results: Path = RESULTS
    overwrite: bool = False


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
    tasks = _tasks(experiment.tasks)
    editor = None if experiment.edit is None else _editor(experiment.edit)
    sources = {task.name: find_data(f"task-data/{task.file}", experiment.data) for task in tasks}
    samples = {t.name: limited(list(t.samples(sources[t.name].path)), experiment.limit) for t in tasks}
    model = models.identify(experiment.model)
    root = experiment.results / ("" if model.name == default_model() else model.name)
    schedule = None
    if editor is not None and experiment.edit is not None:
        schedule = _schedule(experiment.edit, editor, model.name, experiment.data)
        root /= "" if experiment.edit.draw is None else f"draw-{experiment.edit.draw}"
    described = {name: source.describe() for name, source in sources.items()}
    wanted = []
    for count in schedule.counts if schedule else [0]:
        for task in tasks:
            settings = {
                "task": task.name,
                "model": model.settings(experiment.placement.dtype),
                "data": described[task.name],
                "limit": experiment.limit,
                "seed": experiment.seed,
                "edit": schedule.settings_until(count) if schedule else None,
            }
            stem = results.stem(root, task.name, schedule.name_until(count) if schedule else None)
            wanted.append(Wanted(task, count, stem, settings))
    return Plan(experiment, model, root, sources, samples, schedule, tuple(wanted))


def _tasks(names: Sequence[str]) -> list[Task]:
    known: dict[str, Task] = discover("tasks", "TASK")
    return list(known.values()) if tuple(names) == ("all",) else [pick("task", name, known) for name in names]


def limited(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """The samples of the first `limit` records, all of them without a limit."""
    if limit is None:
        return list(samples)
    records = set(list(dict.fromkeys(sample.record for sample in samples))[:limit])
    return [sample for sample in samples if sample.record in records]


def _editor(request: EditRequest) -> type[Editor]:
    """The method that is asked for, in a mode that it has."""
    editor: type[Editor] = pick("method", request.method, discover("editors", "EDITOR"))
    mode = pick("mode", request.mode, {mode: mode for mode in MODES})
    if mode not in editor.modes:
        fitting = [mode for mode in MODES if mode in editor.modes]
        raise UserError(f"{editor.name} does not run in mode {mode}; its modes: {', '.join(fitting)}")
    if (request.batch_size is None) == (mode == "Batch-Sequential"):
        raise UserError(f"{mode} {'needs a' if request.batch_size is None else 'takes no'} BATCH_SIZE")
    return editor


def _schedule(request: EditRequest, editor: type[Editor], model: str, data: Path | None) -> Schedule:
    from editors import regularizers  # brings torch

    given = {} if request.keep is None else {"keep": request.keep}
    regularizer = regularizers.make(request.regularizer, given)
    source = find_data(EDIT_SET.file, data)
    edits = EDIT_SET.edits(source.path, request.begin, request.end, request.step, request.draw)
    mode: Mode = pick("mode", request.mode, {mode: mode for mode in MODES})
    updates = batches(edits, per_update(mode, len(edits), request.batch_size))
    counts = _counts(request.checkpoints, updates)
    hp = settings_of(editor, request, model)
    settings = {
        "mode": mode,
        "method": editor.name,
        "range": [request.begin, request.end, request.step],
        "draw": request.draw,
        "batch_size": request.batch_size,
        "hparams": asdict(hp),
        "files": {name: sha256(path) for name, path in editor.files(hp, model).items()},
        "regularizer": None if regularizer is None else regularizer.settings(),
        "max_update": request.max_update,
        "data": source.describe(),
    }
    return Schedule(request, editor, hp, regularizer, edits, updates, counts, results.plain(settings))


def settings_of(editor: type[Editor], request: EditRequest, model: str) -> Any:
    """The method's settings for a model, from their file and the command line."""
    file = request.hparams or HPARAMS / editor.name / f"{model}.yaml"
    hp = hparams.load(editor.hparams, file)
    if request.edit_batch is None:
        return hp
    if not editor.edit_batch:
        raise UserError(f"--edit-batch: {editor.name} takes its edits one at a time")
    return replace(hp, edit_batch=request.edit_batch)


def batches(edits: Sequence[Edit], size: int) -> list[Sequence[Edit]]:
    """The edits of each update; a smaller last batch is one too."""
    return [edits[start : start + size] for start in range(0, len(edits), size)]


def _counts(asked: Sequence[int], updates: Sequence[Sequence[Edit]]) -> list[int]:
    """The numbers of edits to score at: those asked for, and all. UserError for one at which no update ends."""
    ends = list(itertools.accumulate(map(len, updates)))
    for count in asked:
        if count not in ends:
            shown = ", ".join(map(str, ends[:5])) + (", ..." if len(ends) > 5 else "")
            raise UserError(f"--checkpoints: no update ends at {count} edits; they end at {shown}")
    return sorted({*asked, ends[-1]})
