"""Which entries of an update stay: the largest by a score, counted exactly."""

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

CHUNK = 1 << 22
"""Entries looked at at a time, so that temporaries stay small beside a 7B model's matrix of 45 million."""


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
