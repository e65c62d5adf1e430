"""Regularisers of a weight update: of a parameter W and its delta D, what is to be added.

RECT (the paper, section 5) keeps the k entries whose relative change |D / W| is largest and drops the rest; `random`
and `pca` are the paper's baselines, `magnitude` (largest |D|) and `scale` (all of D, made smaller) are ours. None of
them is an editor, and all of them work for every editor. Entries are counted as round(k n), half up, at least one; ties
are kept in order of their position, so that exactly that many stay. A new one is a class here, and its row in
REGULARIZERS.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from core import hparams
from core.errors import UserError
from core.registry import pick
from core.types import Change, Regularizer

CHUNK = 1 << 22
"""Entries looked at at a time, so that temporaries stay small beside a 7B model's matrix of 45 million."""


@dataclass(frozen=True)
class Share(Regularizer):
    """What a share of the update stays of: `keep` in (0, 1]."""

    keep: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            percent = f": did you mean {self.keep / 100:g}?" if 2 <= self.keep <= 100 else ""
            raise ValueError(f"keep: expected a share in (0, 1], found {self.keep:g}{percent}")

    @property
    def label(self) -> str:
        """The name and the share in percent: "RECT40"."""
        return f"{self.name.upper()}{100 * self.keep:g}"

    def settings(self) -> dict[str, Any]:
        """The name and the parameters."""
        return {"name": self.name, **asdict(self)}


class Rect(Share):
    """The entries with the largest relative change."""

    name = "rect"

    def __call__(self, change: Change, memory: dict[str, Tensor], generator: Generator) -> Tensor:
        """See `rect`."""
        return rect(change.weight, change.delta, self.keep)


class Random(Share):
    """A random share of the entries."""

    name = "random"

    def __call__(self, change: Change, memory: dict[str, Tensor], generator: Generator) -> Tensor:
        """See `keep_random`."""
        return keep_random(change.delta, self.keep, generator)


class PCA(Share):
    """The largest singular values."""

    name = "pca"

    def __call__(self, change: Change, memory: dict[str, Tensor], generator: Generator) -> Tensor:
        """See `pca`."""
        return pca(change.delta, self.keep)


class Magnitude(Share):
    """The entries that are largest."""

    name = "magnitude"

    def __call__(self, change: Change, memory: dict[str, Tensor], generator: Generator) -> Tensor:
        """See `keep_top`."""
        return keep_top(change.delta, change.delta.abs(), self.keep)


class Scale(Share):
    """Less of everything: the control that a regulariser has to do better than at as many edits that hold."""

    name = "scale"

    def __call__(self, change: Change, memory: dict[str, Tensor], generator: Generator) -> Tensor:
        """`keep` times the delta."""
        return change.delta * self.keep


REGULARIZERS: dict[str, type[Any]] = {rule.name: rule for rule in (Rect, Random, PCA, Magnitude, Scale)}
"""Name -> frozen dataclass (core.types.Regularizer) whose fields are its own parameters."""


def make(name: str, given: Mapping[str, object]) -> Regularizer | None:
    """The regulariser of that name with the parameters `given`; None for "none", whatever is given.

    `name` may hold parameters of its own, which come first: "rect:keep=0.4" (name:key=value,key=value). UserError for
    an unknown name or parameter, or a bad value.
    """
    name, colon, text = name.partition(":")
    own = {key: _plain(value) for key, _, value in (part.partition("=") for part in text.split(",") if colon)}
    kind = pick("regularizer", name, {"none": None, **REGULARIZERS})
    if kind is None:
        if own:
            raise UserError(f"regularizer none: takes no parameters, found {text}")
        return None
    rule: Regularizer = hparams.build(kind, {**given, **own}, f"regularizer {name}")
    return rule


def _plain(text: str) -> object:
    """A value of the command line as an integer or a truth value, if it looks like one."""
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else {"true": True, "false": False}.get(text, text)


def count(keep: float, n: int) -> int:
    """round(keep * n), half up, at least 1."""
    return max(1, math.floor(keep * n + 0.5))


def rect(weight: Tensor, delta: Tensor, keep: float) -> Tensor:
    """RECT: keep the entries of D with the largest |D / (W + 1e-8)|, W the weight before the update."""
    change = delta / (weight.to(delta) + 1e-8)
    return keep_top(delta, change.abs_(), keep)


def keep_random(delta: Tensor, keep: float, generator: Generator) -> Tensor:
    """A random share of D's entries. Drawn on the CPU: a seed keeps the same entries whatever the device."""
    return keep_top(delta, torch.rand(delta.shape, generator=generator).to(delta.device), keep)


def pca(delta: Tensor, keep: float) -> Tensor:
    """The best approximation of D (m, n) of rank keep * min(m, n): a rank-one update stays as it is."""
    u, s, v = torch.linalg.svd(delta.float(), full_matrices=False)
    rank = count(keep, len(s))
    low: Tensor = (u[:, :rank] * s[:rank]) @ v[:rank]
    return low.to(delta)


def keep_top(delta: Tensor, score: Tensor, keep: float) -> Tensor:
    """D where the float32 `score` >= 0 is among the count(keep, n) largest, zero elsewhere; the first of ties stay."""
    k = count(keep, delta.numel())
    bits = score.float().contiguous().view(torch.int32).flatten()  # non-negative floats order like their bit patterns
    threshold = _kth_largest(bits, k)
    kept = bits > threshold
    ties = (bits == threshold).nonzero().flatten()
    kept[ties[: k - int(kept.sum())]] = True
    return delta.where(kept.view_as(delta), 0.0)


def _kth_largest(bits: Tensor, k: int) -> int:
    """The k-th largest of non-negative int32 values: two histograms of 16 bits each, exact and without sorting."""
    high = _histogram(chunk >> 16 for chunk in bits.split(CHUNK))
    top, above = _bin_of(high, k)
    low = _histogram((chunk[chunk >> 16 == top] & 0xFFFF) for chunk in bits.split(CHUNK))
    bottom, _ = _bin_of(low, k - above)
    return (top << 16) + bottom


def _histogram(chunks: Iterator[Tensor]) -> Tensor:
    total = torch.zeros(1 << 16, dtype=torch.long)
    for chunk in chunks:
        total += torch.bincount(chunk, minlength=1 << 16).cpu()
    return total


def _bin_of(histogram: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest value, and how many values lie above that bin."""
    from_top = histogram.flip(0).cumsum(0)
    place = int((from_top >= k).nonzero()[0])
    return len(histogram) - 1 - place, int(from_top[place] - histogram[len(histogram) - 1 - place])
