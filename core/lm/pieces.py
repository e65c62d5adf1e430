"""Rows through the model, piece by piece; what all or some of them start with is run once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from core.lm.batches import families, side_by_side
from core.lm.begun import Begun
from core.lm.forward import Growing, KeysValues, empty, states_behind, stored
from core.lm.model import LM
from core.lm.tokens import Row, pad

PIECE = {"cpu": 1024, "cuda": 8192}
"""Tokens of prompts that go through at a time. On a CPU the activations of more leave its caches; a GPU is busy with so
many, and of more, whose lengths differ more, many are padding (docs/speed.md)."""
PASS = 12
"""A pass takes as long as a piece by this, beside what its tokens take."""


@dataclass(frozen=True)
class Prefix:
    """The first tokens that rows have in common, run once; `states` are their final hidden states, (length, d).

    What only some of the rows share `may_share` a pass too.
    """

    ids: Row = field(default_factory=list)
    layers: KeysValues = ()
    states: Tensor | None = None
    may_share: bool = False

    @property
    def length(self) -> int:
        return len(self.ids)

    def order(self, rows: Sequence[Row]) -> list[int] | None:
        """In which rows that start with it are best run, for what they share behind it. None: as for `in_batches`."""
        return side_by_side([row[self.length :] for row in rows]) if self.may_share else None


@torch.inference_mode()
def shared_prefix(lm: LM, rows: Sequence[Row], behind: int) -> Prefix:
    """What all `rows` start with (a task's instruction, say), run once; at least one token of each row is left.

    Nothing where a row with the `behind` tokens that will follow it is longer than a sliding window of attention, which
    would count the padding between prefix and row; and some may share more only where twice the longest fits.
    """
    longest = max(map(len, rows))
    if lm.window and longest + behind > lm.window:
        return NOTHING
    # a row may stand behind padding as wide as the longest start, and with it in a piece as wide as the longest row
    may_share = not lm.window or 2 * longest + behind <= lm.window
    first, last = min(rows), max(rows)  # what these two share, all share
    shortest = min(map(len, rows)) - 1
    common = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))][:shortest]
    if len(rows) < 2 or not common:
        return Prefix(may_share=may_share)
    cache = empty()
    states = states_behind(lm, pad(lm, [common]), cache)[0]
    return Prefix(common, stored(cache), states, may_share)


NOTHING = Prefix()


Look = Callable[[Sequence[Sequence[int]], Sequence[Row], Tensor, Tensor | None], None]
"""Is shown tokens that have gone through: the rows that each text of them is part of, the texts, their final hidden
states (texts, columns, d), padded on the left, and those of the token before each, (texts, d)."""


@torch.inference_mode()
def begin(lm: LM, rows: Sequence[Row], prefix: Prefix = NOTHING, look: Look | None = None) -> Begun:
    """Run `rows`, which stand behind `prefix`, piece by piece; what some of them start with is run once, if it pays.

    `look` is shown all tokens, those of the prefix first.
    """
    before = None
    if prefix.states is not None:
        mask = torch.ones(1, prefix.length, dtype=torch.long, device=lm.device)
        before = Begun(lm, mask, mask.sum(1, keepdim=True) - 1, prefix.states[-1:], _growing(prefix.layers))
        if look is not None:
            look([range(len(rows))], [prefix.ids], prefix.states.unsqueeze(0), None)
    return _run(lm, rows, before, look, prefix.may_share)


def _run(lm: LM, rows: Sequence[Row], before: Begun | None, look: Look | None, may_share: bool) -> Begun:
    """Run `rows`, all of them behind the one row that is `before` them, if any; `may_share` is as for `Prefix`."""
    size = PIECE.get(lm.device.type, PIECE["cuda"])
    found = families(rows) if may_share else []
    if sum(family.saved for family in found) <= size // PASS:  # what is shared is a pass of its own
        return _stacked([*_Group(before, [*range(len(rows))], rows, [0] * len(rows)).run(lm, look, size)])
    kin, alone = ([f for f in found if bool(f.shared) is so] for so in (True, False))

    def shown(texts: Sequence[Sequence[int]], *seen: Any) -> None:
        assert look is not None
        look([[i for k in those for i in kin[k].rows] for those in texts], *seen)

    starts = _run(lm, [rows[f.rows[0]][: f.shared] for f in kin], before, look and shown, may_share)
    members = [(i, rows[i][f.shared :], k) for k, f in enumerate(kin) for i in f.rows]
    parts = [*_Group(starts, *zip(*members, strict=True)).run(lm, look, size)]
    del starts  # before all are joined
    if others := [(i, rows[i], 0) for f in alone for i in f.rows]:
        parts += _Group(before, *zip(*others, strict=True)).run(lm, look, size)
    return _stacked(parts)


@dataclass
class _Group:
    """Rows that are to be run: their numbers, their tokens, and behind which row of `before` each stands."""

    before: Begun | None
    numbers: Sequence[int]
    rows: Sequence[Row]
    behind: Sequence[int]

    def run(self, lm: LM, look: Look | None, size: int) -> "Iterator[_Part]":
        """Piece by piece, those of like length together."""
        order = sorted(range(len(self.rows)), key=lambda j: -len(self.rows[j]))
        for piece in _pieces([self.rows[j] for j in order], size):
            some = sorted(order[j] for j in piece)
            numbers, rows = [self.numbers[j] for j in some], [self.rows[j] for j in some]
            cache = empty()
            tokens, last = pad(lm, rows), None
            if self.before is not None:
                behind = [self.behind[j] for j in some]
                tokens, last = self.before.followed(tokens, behind), self.before.last[behind]
                cache = _growing(self.before.held(behind))
            states = states_behind(lm, tokens, cache)
            if look is not None:
                look([[i] for i in numbers], rows, states, last)
            # a view would hold all states
            yield numbers, Begun(lm, tokens.mask, tokens.positions[:, -1:], states[:, -1].clone(), cache)


_Part = tuple[list[int], Begun]
"""Numbers of rows, and the rows."""


def _pieces(rows: Sequence[Row], size: int) -> list[range]:
    """Neighbouring rows, at most `size` tokens as a rectangle, or a single row; parted so that it takes least.

    That is as many tokens as the rectangles have, and some for each pass.
    """
    blocks = [*_blocks(rows, size)]
    least, firsts = [0], [0]  # of the blocks before each: what they take, and the first of their last piece
    for stop in range(1, len(blocks) + 1):
        count, width = 0, 0
        choices: list[tuple[int, int]] = []
        for first in range(stop - 1, -1, -1):
            count, width = count + len(blocks[first]), max(width, len(rows[blocks[first].start]))
            if choices and count * width > size:
                break
            choices.append((least[first] + count * width + size // PASS, first))
        took, first = min(choices)
        least.append(took)
        firsts.append(first)
    pieces, stop = [], len(blocks)
    while stop:
        pieces.append(range(blocks[firsts[stop]].start, blocks[stop - 1].stop))
        stop = firsts[stop]
    return pieces[::-1]


def _blocks(rows: Sequence[Row], size: int) -> Iterator[range]:
    """Neighbours of one length that are not parted, a sixteenth of a piece at most: few even of many short rows."""
    start = 0
    for i, row in enumerate(rows):
        if len(row) != len(rows[start]) or (i - start + 1) * len(row) > size // 16:
            if i > start:
                yield range(start, i)
            start = i
    if rows:
        yield range(start, len(rows))


def _growing(layers: KeysValues) -> Cache:
    grown: list[Any] = [Growing(k, v) for k, v in layers]
    return Cache(layers=grown)


def _stacked(parts: Sequence[_Part]) -> Begun:
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
    positions, last = (torch.cat([getattr(part, name) for part in begun]) for name in ("positions", "last"))
    return Begun(begun[0].lm, mask, positions[back], last[back], Cache(layers=layers))


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
        whole[number, :, to] = part[row, :, column]
    return whole
