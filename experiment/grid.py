"""A grid of experiments: a settings file in, command lines of the two scripts out, each done once.

A cell of the grid is one sequence of edits of one model. It is a run of test-task-after.py with checkpoints: the model
is edited on from one to the next, and what exists already is not made again.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from experiment.cli import after_parser, parser
from experiment.edit_session import EditSession, Plugins
from experiment.run import Session


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the grid: every method in every mode with every regulariser, "none" or "NAME SHARE"."""

    methods: tuple[str, ...]
    modes: tuple[str, ...]
    regularizers: tuple[str, ...] = ("none",)
    batch_size: int | None = None
    checkpoints: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for rule in self.regularizers:
            name, _, share = rule.partition(" ")
            if bool(share) == (name == "none"):
                raise ValueError(f"regularizers: expected none, or a name and a share as in 'rect 0.4', found '{rule}'")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep's file may say. Numbers of edits count from `begin`; `checkpoints` holds 0 for the unedited model.

    `repeats` random sets of edits are drawn from the edit file, with seeds 1, 2, ...; 0 takes them in the file's order.
    What is left out is as the scripts have it.
    """

    grid: tuple[Block, ...]
    checkpoints: tuple[int, ...] = (0, 1, 2, 5, 10, 20)
    tasks: tuple[str, ...] = ("all",)
    models: tuple[str, ...] = ()
    begin: int = 200
    step: int = 1
    repeats: int = 0
    limit: int | None = None
    seed: int | None = None
    data: str | None = None
    results: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    on_error: str | None = None

    def __post_init__(self) -> None:
        for counts in (self.checkpoints, *(block.checkpoints or () for block in self.grid)):
            if any(count < 0 for count in counts) or list(counts) != sorted(set(counts)):
                raise ValueError(f"checkpoints: expected ascending numbers of edits, found {list(counts)}")
        if self.repeats < 0 or not self.grid:
            raise ValueError("repeats: expected 0 or more, and grid: expected at least one block")
        if self.begin < 0 or self.step < 1:
            raise ValueError("begin: expected 0 or more, and step: 1 or more")

    def counts(self, block: Block) -> tuple[int, ...]:
        """The block's checkpoints: its own, else those of the whole file."""
        return self.checkpoints if block.checkpoints is None else block.checkpoints


@dataclass(frozen=True)
class Cell:
    """One run of a script, by its arguments. `edits` is how many it applies."""

    arguments: tuple[str, ...]
    edits: int = 0

    @property
    def command(self) -> str:
        script = "test-task-after.py" if self.edits else "test-task.py"
        return " ".join(["python", script, *(f'"{a}"' if " " in a else a for a in self.arguments)])

    def session(self, plugins: Plugins) -> Session:
        """The run, resolved and checked but not begun."""
        if self.edits:
            return EditSession(after_parser(plugins).parse_args(self.arguments), plugins)
        return Session(parser("", plugins.tasks).parse_args(self.arguments), plugins.tasks)

    def run(self, plugins: Plugins) -> Iterator[Path]:
        """Make the results that are missing; yields each one's path without its ending, once it is on the disk."""
        return self.session(plugins).run()


def within(sweep: Sweep, records: int) -> tuple[Sweep, list[int]]:
    """The sweep without the checkpoints that need more than so many records of the edit file, and those."""
    room = max(0, (records - sweep.begin) // sweep.step)
    grid = tuple(
        replace(block, checkpoints=tuple(count for count in sweep.counts(block) if count <= room))
        for block in sweep.grid
    )
    beyond = {count for block in sweep.grid for count in sweep.counts(block) if count > room}
    return replace(sweep, grid=grid), sorted(beyond)


def cells(sweep: Sweep) -> list[Cell]:
    """All runs of the grid, those of the unedited models first."""
    flags = {name: getattr(sweep, name) for name in ("limit", "seed", "data", "results", "device", "dtype")}
    flags |= {"batch-tokens": sweep.batch_tokens}
    shared = _flags(flags)
    tasks = ",".join(sweep.tasks)
    models = [_flags({"model": model}) for model in sweep.models or (None,)]
    found = [Cell((tasks, *model, *shared)) for model in models] if 0 in sweep.checkpoints else []
    edited = (*shared, *_flags({"on-error": sweep.on_error}))
    draws = [_flags({"draw": draw}) for draw in (range(1, sweep.repeats + 1) or (None,))]
    for model, draw, block in itertools.product(models, draws, sweep.grid):
        for method, mode, rule in itertools.product(block.methods, block.modes, block.regularizers):
            chosen = (*_regularizer(rule), *draw, *model, *edited)
            for counts in _runs(mode, [count for count in sweep.counts(block) if count]):
                end = sweep.begin + counts[-1] * sweep.step
                size = [block.batch_size] if mode == "Batch-Sequential" and block.batch_size else []
                plan = map(str, (tasks, mode, method, sweep.begin, end, sweep.step, *size))
                stops = _flags({"checkpoints": ",".join(map(str, counts[:-1])) or None})
                found.append(Cell((*plan, *stops, *chosen), counts[-1]))
    return found


def _runs(mode: str, counts: list[int]) -> list[list[int]]:
    """Checkpoints that share one sequence of edits: all of them, but none where a number of edits is one update."""
    if mode == "Batch-Single":
        return [[count] for count in counts]
    return [counts] if counts else []


def _regularizer(rule: str) -> tuple[str, ...]:
    name, _, share = rule.partition(" ")
    return _flags({"regularizer": name, "keep": share}) if share else ()


def _flags(values: dict[str, object]) -> tuple[str, ...]:
    return tuple(itertools.chain(*((f"--{name}", str(value)) for name, value in values.items() if value is not None)))
