"""A model on its way through a sequence of updates: applied one by one, refused where the numbers are bad."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from core import hparams
from core.errors import EditRefused, UserError
from core.lm.model import LM, transposed
from core.lm.weights import add_, preserved, weight_of
from core.types import HELD, Change, Deltas, Edit, Editor, Notes, Regularizer
from experiment.quality import Probe, probe


def editor_of(cls: type[Editor], lm: LM, hp: Any, seed: int = 0) -> Editor:
    """The method with its settings `hp` on this model. UserError for a layer or weight that the model does not have."""
    hparams.check(hp, lm)
    return cls(lm, hp, seed)


@dataclass(frozen=True, slots=True)
class Update:
    """One update of the weights: the edits in it, and the editor's own numbers.

    Per parameter the norm of the change, and what rounding to the weight's dtype did to it (core.lm.weights.add_).
    """

    edits: list[int]
    norms: dict[str, float]
    rounding: dict[str, float]
    notes: Notes
    seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """How updates are applied.

    `max_update` is the largest norm of an update, in multiples of the weight's norm; what is refused ends the run, or
    with `skip` is left out. `seed` and the update's number seed what a regulariser draws, so that it draws the same
    whether or not the run was stopped before it.
    """

    regularizer: Regularizer | None = None
    seed: int = 0
    max_update: float = float("inf")
    skip: bool = False


@dataclass
class Editing:
    """The edited model and the record of its updates. Nothing else changes its weights meanwhile."""

    lm: LM
    editor: Editor
    rules: Rules = Rules()
    updates: list[Update] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    """Of each update that was refused: its edits and the reason."""
    own: list[Probe] = field(default_factory=list)
    """For every edit so far, what the model said right after its own update."""
    unedited: dict[str, Tensor] = field(default_factory=dict)
    """The parameters that have changed, as they were, on the CPU."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """The regulariser's, over the updates that were applied."""
    settled: tuple[int, ...] = (0, 0, 0)
    """What `_state` was when weights and record last agreed."""

    @property
    def position(self) -> int:
        """How many updates were tried."""
        return len(self.updates) + len(self.refused)

    @property
    def seconds(self) -> float:
        return sum(update.seconds for update in self.updates)

    def step(self, batch: Sequence[Edit]) -> None:
        """One update. Raises UserError for one that is refused, unless the rules say to skip it."""
        edits = [edit.index for edit in batch]
        start, memory = time.perf_counter(), dict(self.memory)
        try:
            deltas, notes = self._deltas(batch, memory)
        except EditRefused as error:
            which = f"edit {edits[0]}" if len(edits) == 1 else f"edits {edits[0]} to {edits[-1]}"
            if not self.rules.skip:
                raise UserError(
                    f"{which}: {error}; the update is refused, --on-error skip goes on without it"
                ) from error
            tqdm.write(f"{which} left out: {error}", file=sys.stderr)
            self.refused.append({"edits": edits, "reason": str(error)})
        else:
            for name in deltas:
                if name not in self.unedited:
                    self.unedited[name] = weight_of(self.lm.model, name).detach().cpu().clone()
            rounding = add_(self.lm.model, deltas)
            self.editor.applied(batch)
            self.memory = memory
            norms = {name: float(delta.float().norm()) for name, delta in deltas.items()}
            seconds = time.perf_counter() - start
            notes = notes if self.updates else {**self.editor.about(), **notes}
            self.updates.append(Update(edits, norms, rounding, notes, seconds))
        self.own += probe(self.lm, batch)
        self.settle()

    @property
    def whole(self) -> bool:
        """Whether the weights are those of the record, to the last bit; not so while an update is being applied."""
        return self.settled == self._state()

    def settle(self) -> None:
        """Weights and record agree as they are now."""
        self.settled = self._state()

    @torch.no_grad()
    def undo(self) -> None:
        """Put every changed parameter back bit for bit, forget all updates, and let the editor start anew.

        Also after an update that was broken off, whatever of it is in the weights.
        """
        for name, weight in self.unedited.items():
            weight_of(self.lm.model, name).copy_(weight)
        self.updates, self.refused, self.own, self.unedited, self.memory = [], [], [], {}, {}
        self.editor.load_state({})
        self.settle()

    def _state(self) -> tuple[int, ...]:
        """How much is on record, and sums over the bits of the edited weights."""
        weights = [weight_of(self.lm.model, name).detach() for name in self.unedited]
        bits = [weight.view(torch.int32 if weight.element_size() == 4 else torch.int16) for weight in weights]
        return len(self.updates), len(self.refused), len(self.own), *(int(b.sum(dtype=torch.int64)) for b in bits)

    def _deltas(self, batch: Sequence[Edit], memory: dict[str, Tensor]) -> tuple[Deltas, Notes]:
        """What is to be added, regularised, and the editor's notes. Raises EditRefused."""
        generator = torch.Generator().manual_seed(((self.rules.seed << 20) + self.position) % 2**63)
        self.editor.carry({key.removeprefix(HELD): held for key, held in memory.items() if key.startswith(HELD)})
        (deltas, notes), regularizer = self.editor.deltas(batch), self.rules.regularizer
        for name, delta in deltas.items():
            if not delta.isfinite().all():
                raise EditRefused(f"the update of {name} holds NaN or infinity")
            weight = weight_of(self.lm.model, name).detach()
            if regularizer is not None:
                deltas[name] = regularizer(self._change(name, delta), memory, generator)
            fits(name, weight, deltas[name], self.rules.max_update)
        return deltas, notes

    def _change(self, name: str, delta: Tensor) -> Change:
        weight = weight_of(self.lm.model, name).detach()
        stored = transposed(self.lm.module(name.rpartition(".")[0]))
        return Change(name, weight, delta, self.unedited.get(name, weight), stored)

    @contextmanager
    def scored(self) -> Iterator[dict[str, bool]]:
        """Inside the block the weights are those to be scored: with all change so far as the regulariser restrains it.

        Yields whether each parameter's is; nothing if it restrains none. Afterwards all are as they were, bit for bit.
        """
        rule = self.rules.regularizer
        less: Deltas = {}
        told: dict[str, bool] = {}
        for name, was in self.unedited.items():
            weight = weight_of(self.lm.model, name).detach()
            delta = weight.float() - was.to(weight.device, torch.float32)
            counts = None if rule is None else rule.restrained(self._change(name, delta))
            if counts is not None:
                told[name] = counts is not delta
                less |= {name: counts} if told[name] else {}
        with preserved(self.lm.model, less):
            for name, delta in less.items():
                weight = weight_of(self.lm.model, name).detach()
                weight.copy_(self.unedited[name].to(weight.device, torch.float32) + delta)
            yield told

    def change(self) -> dict[str, dict[str, float]]:
        """Per parameter the norm of all change so far, and the norm of the unedited weight."""
        now = {name: weight_of(self.lm.model, name).detach().cpu().float() for name in self.unedited}
        return {
            name: {"norm": float((now[name] - was.float()).norm()), "weight": float(was.float().norm())}
            for name, was in self.unedited.items()
        }


def fits(name: str, weight: Tensor, delta: Tensor, max_update: float) -> None:
    """Raise EditRefused for a `delta` larger than `max_update` times the weight, or too large for its dtype."""
    times = float(delta.float().norm() / weight.float().norm())
    if times > max_update:
        raise EditRefused(f"the update of {name} has {times:.3g} times the weight's norm, the limit is {max_update:g}")
    total = (weight.float() + delta.to(weight.device, torch.float32)).to(weight.dtype)
    if not total.isfinite().all():
        raise EditRefused(f"the update of {name} overflows {str(weight.dtype).removeprefix('torch.')}")
