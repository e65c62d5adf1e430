"""Rows that have gone through the model and go on: token by token, with an answer, or as the start of others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad as columns
from transformers import Cache

from core.lm.forward import Fixed, Frozen, Growing, KeysValues, states_behind, stored, visible
from core.lm.kernels.attention import of_one_token
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
        layers: list[Any] = [Growing(k[rows.to(k.device)], v[rows.to(v.device)]) for k, v in stored(self.cache)]
        self.cache = Cache(layers=layers)
        vars(self).pop("logits", None)

    def going_on(self, tokens: int) -> "Begun":
        """The same with room for so many more tokens behind every row, where that makes their steps faster."""
        width = self.mask.shape[1] + tokens
        if self.lm.recorder is None or tokens < Roomy.FROM or (self.lm.window and width > self.lm.window):
            return self
        return Roomy(self, tokens)

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
    """How many steps have to follow: without room each step copies all keys and values, and is launched anew."""

    def __init__(self, begun: Begun, tokens: int) -> None:
        width, mask = begun.mask.shape[1], columns(begun.mask, (0, tokens))
        self.at = placed(begun.lm, [width])  # the column of the next token
        layers: list[Any] = []
        for i in range(len(begun.cache.layers)):
            k, v = (columns(kv, (0, 0, 0, tokens)) for kv in stored(begun.cache)[i])
            begun.cache.layers[i] = Growing(k[:, :, :width], v[:, :, :width])  # so that memory holds them once
            layers.append(Fixed(k, v, self.at))
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
        with of_one_token():
            self.last.copy_(states_behind(self.lm, Padded(self.ids, mask, self.positions), self.cache)[:, -1])
        self.at += 1

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        layers: list[Any] = [Fixed(k, v, self.at) for k, v in stored(self.cache)]
        self.cache = Cache(layers=layers)
        self._settle()
