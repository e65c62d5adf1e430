"""Rows that have gone through the model and go on: behind a shared prefix, token by token, or with an answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad as columns
from transformers import Cache, DynamicCache

from core.lm.forward import Fixed, Frozen, Growing, KeysValues, states_behind, stored, visible
from core.lm.graphs import Recording
from core.lm.model import LM
from core.lm.tokens import Padded, Row, pad


@dataclass(frozen=True)
class Prefix:
    """The first tokens that rows have in common, run once; `states` are their final hidden states, (length, d)."""

    ids: Row = field(default_factory=list)
    layers: KeysValues = ()
    states: Tensor | None = None

    @property
    def length(self) -> int:
        return len(self.ids)

    def cache(self, rows: int) -> Cache:
        """The prefix in front of each of `rows` rows."""
        if not self.ids:
            return DynamicCache()
        return Cache(layers=[Growing(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self.layers])


@torch.inference_mode()
def shared_prefix(lm: LM, rows: Sequence[Row], behind: int) -> Prefix:
    """What all `rows` start with (a task's instruction, say), run once; at least one token of each row is left.

    Nothing where a row with the `behind` tokens that will follow it is longer than a sliding window of attention,
    which would count the padding between prefix and row.
    """
    first, last = min(rows), max(rows)  # what these two share, all share
    shortest = min(map(len, rows)) - 1
    common = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))][:shortest]
    if len(rows) < 2 or not common or (lm.window and max(map(len, rows)) + behind > lm.window):
        return Prefix()
    cache = DynamicCache()
    states = states_behind(lm, pad(lm, [common]), cache)[0]
    return Prefix(common, stored(cache), states)


NOTHING = Prefix()


@dataclass
class Begun:
    """R rows that have gone through the model, and what it takes to go on behind them.

    `mask` is (R, columns), padding on the left; `positions` (R, 1) are those of the rows' last tokens, `last` (R, d)
    the final hidden states there.
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
        if self.lm.recorder is None or tokens < Roomy.PAYS or (self.lm.window and width > self.lm.window):
            return self
        return Roomy(self, tokens)

    def behind(self, index: Sequence[int], rows: Sequence[Row]) -> Tensor:
        """Final hidden states of `rows`, the j-th of them behind row `index[j]`: (len(rows), columns, d).

        Padded on the right. What was begun stays as it is.
        """
        new, at = pad(self.lm, rows, [0] * len(rows)), torch.tensor(index, device=self.lm.device)
        mask = torch.cat([self.mask[at], new.mask], 1)
        held = stored(self.cache)
        if [*index] != [*range(len(self.mask))]:  # else each once, in order: shared, as `Frozen` only reads
            held = tuple((k[at.to(k.device)], v[at.to(v.device)]) for k, v in held)
        layers: list[Any] = [Frozen(k, v) for k, v in held]
        return states_behind(
            self.lm, Padded(new.ids, mask, self.positions[at] + 1 + new.positions), Cache(layers=layers)
        )


class Roomy(Begun):
    """With columns for the tokens to come: every step is the same computation in the same place, which is recorded."""

    PAYS = 6

    def __init__(self, begun: Begun, tokens: int) -> None:
        width, mask = begun.mask.shape[1], columns(begun.mask, (0, tokens))
        self.at = torch.tensor([width], device=mask.device)  # the column of the next token
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
        self.last.copy_(states_behind(self.lm, Padded(self.ids, mask, self.positions), self.cache)[:, -1])
        self.at += 1

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        layers: list[Any] = [Fixed(k, v, self.at) for k, v in stored(self.cache)]
        self.cache = Cache(layers=layers)
        self._settle()


PIECE = {"cpu": 1024, "cuda": 8192}
"""Tokens of prompts that go through at a time. On a CPU the activations of more leave its caches; a GPU is busy with so
many, and of more, whose lengths differ more, many are padding (docs/speed.md)."""


@torch.inference_mode()
def begin(
    lm: LM, rows: Sequence[Row], prefix: Prefix = NOTHING, look: Callable[[range, Tensor], None] | None = None
) -> Begun:
    """Run `rows`, which stand behind `prefix`, piece by piece.

    `look` is shown each piece: which rows, and their final hidden states (rows, columns, d), padded on the left.
    """
    begun = []
    for piece in _pieces(rows, PIECE.get(lm.device.type, PIECE["cuda"])):
        tokens, cache = pad(lm, rows[piece.start : piece.stop]), prefix.cache(len(piece))
        mask = columns(tokens.mask, (prefix.length, 0), value=1)
        positions = tokens.positions + prefix.length
        states = states_behind(lm, Padded(tokens.ids, mask, positions), cache)
        if look is not None:
            look(piece, states)
        begun.append(Begun(lm, mask, positions[:, -1:], states[:, -1].clone(), cache))  # a view would hold all states
    return begun[0] if len(begun) == 1 else _stacked(begun)


def _pieces(rows: Sequence[Row], size: int) -> Iterator[range]:
    """Neighbouring rows, at most `size` tokens as a rectangle, or a single row."""
    start, width = 0, 0
    for stop, row in enumerate(rows):
        width = max(width, len(row))
        if stop > start and (stop + 1 - start) * width > size:
            yield range(start, stop)
            start, width = stop, len(row)
    yield range(start, len(rows))


def _stacked(parts: Sequence[Begun]) -> Begun:
    """All rows as one rectangle: padding in front of the narrower ones. The parts are used up."""
    widest = max(part.mask.shape[1] for part in parts)
    mask = torch.cat([columns(part.mask, (widest - part.mask.shape[1], 0)) for part in parts])
    layers: list[Any] = []
    for _ in range(len(parts[0].cache.layers)):
        these: Any = [part.cache.layers.pop(0) for part in parts]  # so that memory holds one layer twice, not all
        k, v = (_rectangle([getattr(layer, name) for layer in these], widest) for name in ("keys", "values"))
        layers.append(Growing(k, v))
    positions, last = (torch.cat([getattr(part, name) for part in parts]) for name in ("positions", "last"))
    return Begun(parts[0].lm, mask, positions, last, Cache(layers=layers))


def _rectangle(parts: Sequence[Tensor], width: int) -> Tensor:
    """Keys or values of one layer, (rows, heads, columns, head size) each, with zeros in front of the narrower ones."""
    rows, (_, heads, _, size) = sum(map(len, parts)), parts[0].shape
    whole = parts[0].new_zeros(rows, heads, width, size)
    for into, part in zip(whole.split([*map(len, parts)]), parts, strict=True):
        into[:, :, width - part.shape[2] :] = part
    return whole
