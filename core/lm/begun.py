"""Rows that have gone through the model and go on: token by token, with an answer, or as the start of others.

Those of several passes are `stacked` as one rectangle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad as columns
from transformers import Cache

from core.lm.cached import Filling, Fixed, Frozen, Growing, KeysValues, stored, wider
from core.lm.forward import states_behind, visible
from core.lm.kernels.graphs import Recording
from core.lm.model import LM
from core.lm.tokens import Padded, Row, pad, placed


@dataclass
class Begun:
    """R rows that have gone through the model, and what it takes to go on behind them.

    `mask` is (R, columns), a row's last token in the last one; `positions` (R, 1) are those of the rows' last tokens,
    `last` (R, d) the final hidden states there.
    """

    lm: LM
    mask: Tensor
    positions: Tensor
    last: Tensor
    cache: Cache
    PAYS: ClassVar[int] = 1
    """How many steps have to follow for rows that have ended to be left behind."""

    @cached_property
    def logits(self) -> Tensor:
        """Of the next token of each row: (R, vocabulary) float32."""
        return self.lm.logits(self.last).float()

    def step(self, ids: Tensor) -> None:
        """Put one more token behind every row: `ids` (R, 1)."""
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], 1)
        self.positions = self.positions + 1
        self.last = states_behind(self.lm, Padded(ids, self.mask, self.positions), self.cache)[:, -1]
        vars(self).pop("logits", None)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows alone: `rows` are their indices."""
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.last = self.last[rows.to(self.last.device)]
        layers: Any = self.cache.layers
        self.cache = Cache(layers=[layer.some(rows) for layer in layers])
        vars(self).pop("logits", None)

    def going_on(self, tokens: int) -> "Begun":
        """The same with room for so many more tokens behind every row, so that a step copies nothing.

        What it is called on is used up.
        """
        width = self.mask.shape[1] + tokens
        if self.lm.recorder and tokens >= Roomy.FROM and not (self.lm.window and width > self.lm.window):
            return Roomy(self, tokens)
        for layer in range(len(self.cache.layers) if tokens > 0 else 0):
            self.widen(layer, tokens)
        return self

    def widen(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, with so many more columns; they are what the cache has from now on."""
        keys, values = (wider(x, tokens) for x in stored(self.cache)[layer])
        self.cache.layers[layer] = Filling(keys, values, self.mask.shape[1])
        return keys, values

    def behind(self, index: Sequence[int], rows: Sequence[Row]) -> Tensor:
        """Final hidden states of `rows`, the j-th of them behind row `index[j]`: (len(rows), columns, d).

        Padded on the right. What was begun stays as it is.
        """
        layers: list[Any] = [Frozen(k, v) for k, v in self.held(index)]
        return states_behind(self.lm, self.followed(pad(self.lm, rows, [0] * len(rows)), index), Cache(layers=layers))

    def followed(self, tokens: Padded, index: Sequence[int]) -> Padded:
        """Rows of tokens as they stand behind those of `index`, whose columns the mask has too."""
        at = placed(self.lm, index)
        mask, positions = torch.cat([self.mask[at], tokens.mask], 1), self.positions[at] + 1 + tokens.positions
        return Padded(tokens.ids, mask, positions)

    def ends(self, index: Sequence[int]) -> Tensor:
        """The final hidden states of these rows' last tokens, (len(index), d)."""
        return self.last[placed(self.lm, index).to(self.last.device)]

    def held(self, index: Sequence[int]) -> KeysValues:
        """The keys and values of these rows, to be read alone."""
        if [*index] == [*range(len(self.mask))]:
            return stored(self.cache)
        if len(self.mask) == 1:
            return tuple(
                (k.expand(len(index), -1, -1, -1), v.expand(len(index), -1, -1, -1)) for k, v in stored(self.cache)
            )
        at = placed(self.lm, index)
        return tuple((k[at.to(k.device)], v[at.to(v.device)]) for k, v in stored(self.cache))


class Roomy(Begun):
    """With columns for the tokens to come: every step is the same computation in the same place, which is recorded."""

    PAYS = 6
    FROM: ClassVar[int] = 3
    """How many steps have to follow for a recording to pay."""

    def __init__(self, begun: Begun, tokens: int) -> None:
        mask = columns(begun.mask, (0, tokens))
        self.at = placed(begun.lm, [begun.mask.shape[1]])  # the column of the next token
        # layer by layer, so that memory holds one of them twice
        layers: list[Any] = [Fixed(*begun.widen(i, tokens), self.at) for i in range(len(begun.cache.layers))]
        super().__init__(begun.lm, mask, begun.positions.clone(), begun.last.clone(), Cache(layers=layers))
        self._settle()

    def _settle(self) -> None:
        self.ids, self.recording = torch.empty_like(self.positions), Recording(self.lm.recorder)

    def step(self, ids: Tensor) -> None:
        self.ids.copy_(ids)
        self.recording(self._advance)
        vars(self).pop("logits", None)

    def _advance(self) -> None:
        self.mask.index_fill_(1, self.at, 1)
        self.positions += 1
        mask = visible(self.lm, self.mask, self.mask.shape[1] - 1)  # what is not in use yet is padding
        self.last.copy_(states_behind(self.lm, Padded(self.ids, mask, self.positions), self.cache)[:, -1])
        self.at += 1

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self._settle()


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
