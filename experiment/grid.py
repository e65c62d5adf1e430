"""A grid of experiments: a settings file in, a list of experiments out.

A cell of the grid is one sequence of edits of one model with checkpoints: the model is edited on from one to the next,
and what exists already is not made again.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from core.folders import RESULTS
from experiment.asked import EditRequest, Experiment, Placement


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the grid: every method in every mode with every regulariser: "none", "rect 0.4", "rect:keep=0.4".

    `hparams` is a file of settings for its methods; `results` a folder of its own below the sweep's, as the results of
    a method with other settings have the same names. Of the sweep's `repeats` a block may want the first few alone.
    """

    methods: tuple[str, ...]
    modes: tuple[str, ...]
    regularizers: tuple[str, ...] = ("none",)
    batch_size: int | None = None
    checkpoints: tuple[int, ...] | None = None
    hparams: str | None = None
    results: str | None = None
    repeats: int | None = None

    def __post_init__(self) -> None:
        if self.results and (Path(self.results).is_absolute() or ".." in Path(self.results).parts):
            raise ValueError(f"results: expected a folder's name below the sweep's results, found '{self.results}'")
        for name in ("batch_size", "repeats"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: expected 1 or more, found {value}")
        for rule in self.regularizers:
            name, _, share = rule.partition(" ")
            if ":" not in rule and (bool(share) == (name == "none") or (share and not _is_number(share))):
                raise ValueError(f"regularizers: expected none, or a name and a share as in 'rect 0.4', found '{rule}'")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep's file may say. Numbers of edits count from `begin`; `checkpoints` holds 0 for the unedited model.

    `repeats` random sets of edits are drawn from the edit file, with seeds 1, 2, ...; 0 takes them in the file's order.
    Repeat r draws all else with `seed` + r. `redraw` and what is left out are as the scripts have it.
    """

    grid: tuple[Block, ...]
    checkpoints: tuple[int, ...] = (0, 1, 2, 5, 10, 20)
    tasks: str | tuple[str, ...] = ("all",)
    lm_eval: tuple[str, ...] = ()
    lm_eval_tasks: str | None = None
    models: tuple[str, ...] = ()
    begin: int = 200
    step: int = 1
    repeats: int = 0
    redraw: bool = False
    limit: int | None = None
    seed: int = 0
    edits: str | None = None
    edit_format: str | None = None
    target: str | None = None
    data: str | None = None
    results: str = str(RESULTS)
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int | None = None
    measures: tuple[str, ...] = ("all",)
    stop_when_collapsed: bool = False
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        for counts in (self.checkpoints, *(block.checkpoints or () for block in self.grid)):
            if any(count < 0 for count in counts) or list(counts) != sorted(set(counts)):
                raise ValueError(f"checkpoints: expected ascending numbers of edits, found {list(counts)}")
        for name in ("limit", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: expected 1 or more, found {value}")
        if not self.tasks:
            raise ValueError("tasks: expected at least one")
        if self.repeats < 0 or not self.grid:
            raise ValueError("repeats: expected 0 or more, and grid: expected at least one block")
        if self.begin < 0 or self.step < 1:
            raise ValueError("begin: expected 0 or more, and step: 1 or more")
        files: dict[tuple[str, str], str | None] = {}
        for block in self.grid:
            for method in block.methods:
                if files.setdefault((method, block.results or "."), block.hparams) != block.hparams:
                    raise ValueError(
                        f"grid: {method} with two files of settings, whose results have the same names: give one block "
                        "`results: NAME`, a folder of its own"
                    )

    @property
    def words(self) -> tuple[str, ...]:
        """Its tasks, of which a file may say one without brackets."""
        return (self.tasks,) if isinstance(self.tasks, str) else self.tasks

    def counts(self, block: Block) -> tuple[int, ...]:
        """The block's checkpoints: its own, else those of the whole file."""
        return self.checkpoints if block.checkpoints is None else block.checkpoints


def within(sweep: Sweep, records: int) -> tuple[Sweep, list[int]]:
    """The sweep without the checkpoints that need more than so many records of the edit file, and those."""
    room = max(0, (records - sweep.begin) // sweep.step)
    grid = tuple(
        replace(block, checkpoints=tuple(count for count in sweep.counts(block) if count <= room))
        for block in sweep.grid
    )
    beyond = {count for block in sweep.grid for count in sweep.counts(block) if count > room}
    return replace(sweep, grid=grid), sorted(beyond)


def cells(sweep: Sweep) -> list[Experiment]:
    """All runs of the grid, those of the unedited models first."""
    models = sweep.models or (None,)
    unedited = [_experiment(sweep, model) for model in models] if 0 in sweep.checkpoints else []
    draws = range(1, sweep.repeats + 1) or (None,)
    edited = []
    for model, draw, block in itertools.product(models, draws, sweep.grid):
        if draw is not None and draw > (block.repeats or sweep.repeats):
            continue
        for method, mode, rule in itertools.product(block.methods, block.modes, block.regularizers):
            for counts in _runs(mode, [count for count in sweep.counts(block) if count]):
                name, _, keep = rule.partition(" ")
                request = EditRequest(
                    method=method,
                    mode=mode,
                    begin=sweep.begin,
                    end=sweep.begin + counts[-1] * sweep.step,
                    step=sweep.step,
                    batch_size=block.batch_size if mode == "Batch-Sequential" else None,
                    edits=sweep.edits,
                    edit_format=sweep.edit_format,
                    target=sweep.target,
                    draw=draw,
                    redraw=sweep.redraw,
                    checkpoints=tuple(counts[:-1]),
                    hparams=None if block.hparams is None else Path(block.hparams),
                    regularizer=name,
                    keep=float(keep) if keep else None,
                    on_error=sweep.on_error,
                )
                experiment = _experiment(sweep, model, request)
                edited.append(replace(experiment, results=experiment.results / (block.results or "")))
    return unedited + edited


def _experiment(sweep: Sweep, model: str | None, edit: EditRequest | None = None) -> Experiment:
    draw = (edit.draw if edit else None) or 0
    return Experiment(
        tasks=sweep.words,
        lm_eval=sweep.lm_eval,
        lm_eval_tasks=None if sweep.lm_eval_tasks is None else Path(sweep.lm_eval_tasks),
        model=model,
        edit=edit,
        data=None if sweep.data is None else Path(sweep.data),
        limit=sweep.limit,
        seed=sweep.seed + draw if sweep.seed else None,
        placement=Placement(device=sweep.device, dtype=sweep.dtype),
        batch_tokens=sweep.batch_tokens,
        measures=sweep.measures,
        stop_when_collapsed=sweep.stop_when_collapsed,
        results=Path(sweep.results),
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _runs(mode: str, counts: list[int]) -> list[list[int]]:
    """Checkpoints that share one sequence of edits: all of them, but none where a number of edits is one update."""
    if mode == "Batch-Single":
        return [[count] for count in counts]
    return [counts] if counts else []
