"""Gradient steps on whole parameters of a model that is not touched: what FT-L, FT-M and LocFT-BF share.

What is trained is the change D of each parameter W, in float32 whatever the dtype of W. The model runs with W + D in
the place of W, so that nothing has to be undone but the places.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.lm.forward import resume
from core.lm.model import LM
from core.lm.reads import Reads
from core.types import Deltas, Notes

GOOD_ENOUGH = 1e-2
"""Loss under which a chunk takes no step, and an epoch is the last (as in the released code)."""


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """Settings of every method that trains whole parameters, under the names of the released files.

    `num_steps` epochs over chunks of `batch_size` edits, a step of Adam for each chunk. `weight_decay` is Adam's, an L2
    penalty on the parameter (not on its change).
    """

    num_steps: int
    lr: float
    batch_size: int = 64  # where a released file does not say it
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.batch_size < 1:
            raise ValueError("num_steps and batch_size: expected 1 or more")
        if not self.lr > 0 or self.weight_decay < 0:
            raise ValueError("lr: expected more than 0; weight_decay: 0 or more")


@dataclass(frozen=True)
class Chunk:
    """Edits that share a step: where their targets are read, and a way to the final hidden states read there."""

    reads: Reads
    run: Callable[[], Tensor]

    def __len__(self) -> int:
        return len(self.reads.tokens.ids)

    def nll(self, lm: LM) -> Tensor:
        """-log p of each token of the targets, (N,)."""
        return -self.reads.wanted(self.reads.logp(lm, self.run()))

    def loss(self, lm: LM) -> Tensor:
        """The mean over a target's tokens; of these the mean over the rows."""
        nll = self.nll(lm)
        return (self.reads.sums(nll) / self.reads.sums(torch.ones_like(nll))).mean()


def tuned(
    lm: LM, names: Iterable[str], epoch: Callable[[], Iterable[Chunk]], hp: TuningSettings, limit: float = math.inf
) -> tuple[Deltas, Notes]:
    """The change of each of the parameters `names` that lowers the loss of the edits, and notes of how it fell.

    `epoch` gives the chunks of one round. With a `limit` no entry changes by more (Zhu et al. 2020). Notes: the mean
    loss over the edits in the first and in the last epoch, and how many epochs there were.
    """
    weights = {name: lm.model.get_parameter(name) for name in names}
    changes = {n: torch.zeros_like(w, dtype=torch.float32, requires_grad=True) for n, w in weights.items()}
    adam = torch.optim.Adam(changes.values(), lr=hp.lr)
    means: list[float] = []
    while len(means) < hp.num_steps and not (means and means[-1] < GOOD_ENOUGH):
        total, rows = 0.0, 0
        for chunk in epoch():
            with torch.enable_grad():
                new = {n: (w.float() + changes[n]).to(w.dtype) for n, w in weights.items()}
                with standing_in(lm.model, new):
                    loss = chunk.loss(lm)
            total, rows = total + loss.item() * len(chunk), rows + len(chunk)
            if loss < GOOD_ENOUGH:
                continue
            gradients = torch.autograd.grad(loss * lm.loss_scale, list(changes.values()))
            for change, weight, gradient in zip(changes.values(), weights.values(), gradients, strict=True):
                change.grad = gradient / lm.loss_scale + hp.weight_decay * (weight.float() + change.detach())
            adam.step()
            for change in changes.values():
                change.data.clamp_(-limit, limit)
        means.append(total / rows)
    notes = {"loss_first": means[0], "loss_last": means[-1], "epochs": len(means)}
    return {name: change.detach() for name, change in changes.items()}, notes


@contextmanager
def standing_in(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the model compute with `values`, which may have a graph, in the place of its parameters of these names.

    As torch.func.functional_call does for one call of a module; here it is for whatever runs inside.
    """
    places = {}
    for name in values:
        path, _, own = name.rpartition(".")
        places[name] = model.get_submodule(path)._parameters, own
    kept = {name: slots[own] for name, (slots, own) in places.items()}
    try:
        for name, (slots, own) in places.items():
            slots[own] = values[name]  # type: ignore[assignment]
        yield
    finally:
        for name, (slots, own) in places.items():
            slots[own] = kept[name]


def fixed(lm: LM, layer: int, chunks: Sequence[Reads]) -> Callable[[], Iterable[Chunk]]:
    """Epochs over the same chunks, of which the blocks below `layer`, the lowest that changes, are run only once."""
    made = []
    for reads in chunks:
        points, _ = resume(lm, reads.tokens, range(layer, layer + 1), 0)
        made.append(Chunk(reads, points[layer].run))
    return lambda: made
