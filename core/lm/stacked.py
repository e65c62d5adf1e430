"""Rows that went through the model in parts, as one rectangle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from core.lm.begun import Begun
from core.lm.forward import Growing

Part = tuple[list[int], Begun]
"""Numbers of rows, and the rows."""


def stacked(parts: Sequence[Part]) -> Begun:
    """All rows, by their numbers, as one rectangle no wider than the longest. The parts are used up."""
    numbers, begun = [i for some, _ in parts for i in some], [part for _, part in parts]
    width = int(torch.cat([part.mask.sum(1) for part in begun]).max())
    if len(parts) == 1 and numbers == [*range(len(numbers))] and begun[0].mask.shape[1] == width:
        return begun[0]
    places = [_Places.of(some, part.mask, width) for some, part in parts]
    mask = begun[0].mask.new_zeros(len(numbers), width)
    for at in places:
        mask[at.number, at.to] = 1
    layers: list[Any] = []
    for _ in range(len(begun[0].cache.layers)):
        these: Any = [part.cache.layers.pop(0) for part in begun]  # so that memory holds one layer twice, not all
        k, v = (_moved([getattr(layer, name) for layer in these], places, mask) for name in ("keys", "values"))
        layers.append(Growing(k, v))
    back = torch.tensor(numbers).argsort()
    positions, last = (torch.cat([getattr(part, name) for part in begun])[back] for name in ("positions", "last"))
    return Begun(begun[0].lm, mask, positions, last, Cache(layers=layers))


@dataclass(frozen=True)
class _Places:
    """Of each token of a part its row and column there, and its row and column among all."""

    row: Tensor
    column: Tensor
    number: Tensor
    to: Tensor

    @classmethod
    def of(cls, numbers: Sequence[int], mask: Tensor, width: int) -> "_Places":
        row, column = mask.nonzero(as_tuple=True)
        end = width - mask.sum(1, keepdim=True)
        return cls(row, column, torch.tensor(numbers, device=mask.device)[row], (end + mask.cumsum(1) - 1)[row, column])


def _moved(parts: Sequence[Tensor], places: Sequence[_Places], mask: Tensor) -> Tensor:
    """Keys or values of one layer, (rows, heads, columns, head size) each, to where `mask` (all rows, width) is 1."""
    _, heads, _, size = parts[0].shape
    whole = parts[0].new_zeros(len(mask), heads, mask.shape[1], size)
    for at, part in zip(places, parts, strict=True):
        row, column, number, to = (x.to(part.device) for x in (at.row, at.column, at.number, at.to))
        _wide(whole)[number, :, to] = _wide(part)[row, :, column]
    return whole


def _wide(x: Tensor) -> Tensor:
    """The same memory as fewer numbers of 16 bytes, where the last dimension has it so: they are copied faster."""
    return x if x.shape[-1] * x.itemsize % 16 else x.view(torch.complex128)
