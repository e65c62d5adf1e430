"""What is asked for, whoever asks: the command line, a grid or a notebook; and what is wrong with it at first sight.

Nothing here imports torch, which takes seconds.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.folders import RESULTS
from core.registry import rows, spelled, stated
from core.types import MODES, Edit, EditSet, Mode, per_update
from experiment import measures as measured
from experiment.harness.installed import installed
from inputs.sources import Source, find_data, find_edits, find_model, located, settings_file
from tasks import GROUPS

ALL, NONE = "all", "none"
"""Words for every measure, and for none. What stands for several tasks is in `tasks.GROUPS`."""


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

    `edits` is an edit set's name or a file instead of zsRE's; `edit_format` and `target` say how to read it (see
    inputs.sources.find_edits). With `draw`, a seed, as many are drawn from `begin` on. `redraw` asks for what the
    method's settings state but could draw, context templates, to be drawn again. `checkpoints` are numbers of edits to
    score at on the way; `save_every` the seconds after which the edits of a long run are kept.
    """

    method: str
    mode: str
    begin: int
    end: int
    step: int = 1
    batch_size: int | None = None
    edits: str | Path | None = None
    edit_format: str | None = None
    target: str | None = None
    draw: int | None = None
    redraw: bool = False
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
    """What is asked for: tasks to score a model on, as it is (`edit` is None) or after edits.

    `lm_eval` names tasks of lm-evaluation-harness beside them, also some of the folder `lm_eval_tasks`.
    `seed` is of all that is drawn but the edits. Without one it is that of drawn edits, so that repeats differ in all;
    else 0.
    """

    tasks: tuple[str, ...] = ("all",)
    lm_eval: tuple[str, ...] = ()
    lm_eval_tasks: Path | None = None
    model: str | None = None
    edit: EditRequest | None = None
    data: Path | None = None
    limit: int | None = None
    seed: int | None = None
    placement: Placement = field(default_factory=Placement)
    measures: tuple[str, ...] = ("all",)
    batch_tokens: int | None = None
    stop_when_collapsed: bool = False
    results: Path = RESULTS
    overwrite: bool = False

    @property
    def effective_seed(self) -> int:
        """The seed that holds."""
        given = (self.seed, self.edit.draw if self.edit else None, 0)
        return next(seed for seed in given if seed is not None)


def checked(asked: Experiment) -> Experiment:
    """The experiment with every name as it is spelled here, and each task once.

    UserError for what is wrong with its words, files and numbers, as far as that shows without torch.
    """
    tasks = task_names(asked.tasks)
    for name, (file,) in stated("tasks", "TASK", "file").items():
        if name in tasks:
            located(f"task-data/{file}", asked.data)
    edit = None if asked.edit is None else _edit(asked.edit, asked.model, asked.data)
    measures = measure_names(asked.measures)
    if asked.lm_eval or asked.lm_eval_tasks:
        installed(asked.lm_eval, asked.lm_eval_tasks)
    return replace(
        asked,
        tasks=next(((word,) for word, group in GROUPS.items() if tasks == group), tasks),
        edit=edit,
        measures=(ALL,) if measures == measured.NAMES else measures or (NONE,),
    )


def task_names(words: Sequence[str]) -> tuple[str, ...]:
    """The tasks that are meant, each once. UserError for one that there is not."""
    known = stated("tasks", "TASK", "file")
    lists = (GROUPS.get(word.lower()) or (spelled("task", word, known),) for word in words)
    return tuple(dict.fromkeys(itertools.chain.from_iterable(lists)))


def measure_names(words: Sequence[str]) -> tuple[str, ...]:
    """The measures that are meant, in their order. UserError for one that there is not."""
    meant = {spelled("measure", word, (*measured.NAMES, ALL, NONE)) for word in words}
    if NONE in meant and len(meant) > 1:
        raise UserError("--measures: none goes with no other word")
    return tuple(name for name in measured.NAMES if name in meant or ALL in meant)


def _edit(request: EditRequest, model: str | None, data: Path | None) -> EditRequest:
    modes = stated("editors", "EDITOR", "modes")
    method, mode = spelled("method", request.method, modes), spelled("mode", request.mode, MODES)
    if mode not in modes[method]:
        fitting = [mode for mode in MODES if mode in modes[method]]
        raise UserError(f"{method} does not run in mode {mode}; its modes: {', '.join(fitting)}")
    if (request.batch_size is None) == (mode == "Batch-Sequential"):
        raise UserError(f"{mode} {'needs a' if request.batch_size is None else 'takes no'} BATCH_SIZE")
    name, colon, parameters = request.regularizer.partition(":")
    name = spelled("regularizer", name, ["none", *rows("editors.regularizers", "REGULARIZERS")])
    request = replace(request, method=method, mode=mode, regularizer=f"{name}{colon}{parameters}")
    edit_set, source = edit_file(request, data, located)
    updates_of(request, edit_set.chosen(source.path, request.begin, request.end, request.step, request.draw))
    if model is not None:
        settings_file(method, find_model(model)[0], request.hparams, model)
    return request


def edit_file(
    request: EditRequest, data: Path | None, find: Callable[[str, Path | None], Source] = find_data
) -> tuple[EditSet, Source]:
    """The file of the edits, and what reads it."""
    return find_edits(request.edits, data, find, request.edit_format, request.target)


def updates_of(request: EditRequest, edits: Sequence[Edit]) -> tuple[list[Sequence[Edit]], list[int]]:
    """The edits of each update, and the numbers of edits to score at: those asked for, and all.

    UserError for a number at which no update ends.
    """
    mode: Mode = next(mode for mode in MODES if mode == request.mode)
    updates = batches(edits, per_update(mode, len(edits), request.batch_size))
    ends = list(itertools.accumulate(map(len, updates)))
    for count in request.checkpoints:
        if count not in ends:
            shown = ", ".join(map(str, ends[:5])) + (", ..." if len(ends) > 5 else "")
            raise UserError(f"--checkpoints: no update ends at {count} edits; they end at {shown}")
    return updates, sorted({*request.checkpoints, ends[-1]})


def batches(edits: Sequence[Edit], size: int) -> list[Sequence[Edit]]:
    """The edits of each update; a smaller last batch is one too."""
    return [edits[start : start + size] for start in range(0, len(edits), size)]
