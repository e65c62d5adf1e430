"""Rows through the model, piece by piece; what all or some of them start with is run once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from core.lm.batches import families, side_by_side
from core.lm.begun import Begun, Part, stacked
from core.lm.cached import Frozen, Growing, KeysValues, empty, stored
from core.lm.forward import states_behind
from core.lm.model import LM
from core.lm.tokens import Row, pad, placed

PIECE = {"cpu": 1024, "cuda": 8192}
"""Tokens of prompts that go through at a time. On a CPU the activations of more leave its caches; a GPU is busy with so
many of a large model, and of more, whose lengths differ more, many are padding (docs/speed.md)."""
PASS = {"cpu": 12, "cuda": 24}
"""A pass takes as long as a piece by this, beside what its tokens take."""
LAUNCHED = 3e11
"""Products of a weight and a number that a GPU makes while the kernels of a block are launched: with fewer it waits."""
MOST = 1 << 16
"""Tokens of a piece, however small the model."""


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


Look = Callable[[Sequence[Sequence[int]], Sequence[Row], Sequence[Tensor], Tensor | None], None]
"""Is shown tokens that have gone through: the rows that each text of them is part of, the texts, the final hidden
states of each, (tokens, d), and those of the token before each, (texts, d)."""
Read = Callable[[Sequence[int], Sequence[Tensor]], None]
"""Is shown rows that have gone through, by their numbers: of each the final hidden states of its last token and of its
tail, (1 + tokens of the tail, d)."""


@torch.inference_mode()
def begin(lm: LM, rows: Sequence[Row], prefix: Prefix = NOTHING, look: Look | None = None) -> Begun:
    """Run `rows`, which stand behind `prefix`, piece by piece; what some of them start with is run once, if it pays.

    `look` is shown all tokens, those of the prefix first.
    """
    way = _Way(lm, prefix.may_share, look)
    return stacked(_run(way, rows, [[]] * len(rows), _before(lm, prefix, len(rows), look)))


@torch.inference_mode()
def passed(
    lm: LM,
    rows: Sequence[Row],
    prefix: Prefix = NOTHING,
    look: Look | None = None,
    tails: Sequence[Row] | None = None,
    read: Read | None = None,
) -> Tensor:
    """The final hidden states of the last tokens of `rows`, (R, d), run as by `begin`; nobody can go on behind them.

    No keys and values are kept. What the model is to be read at behind a row, its tail, is run with it.
    """
    way = _Way(lm, prefix.may_share, look, keep=False, read=read)
    parts = _run(way, rows, tails or [[]] * len(rows), _before(lm, prefix, len(rows), look))
    numbers = [i for some, _ in parts for i in some]
    last = torch.cat([part.last for _, part in parts])
    return last[placed(lm, numbers).argsort().to(last.device)]


def _before(lm: LM, prefix: Prefix, rows: int, look: Look | None) -> Begun | None:
    """The prefix as what so many rows stand behind."""
    if prefix.states is None:
        return None
    if look is not None:
        look([range(rows)], [prefix.ids], [prefix.states], None)
    mask = torch.ones(1, prefix.length, dtype=torch.long, device=lm.device)
    return Begun(lm, mask, mask.sum(1, keepdim=True) - 1, prefix.states[-1:], _of(Growing, prefix.layers))


@dataclass(frozen=True)
class _Way:
    """How rows are run: `may_share` is as for `Prefix`; with `keep` somebody will go on behind them."""

    lm: LM
    may_share: bool
    look: Look | None
    keep: bool = True
    read: Read | None = None

    @property
    def least(self) -> int:
        """A pass takes no less than one of so many tokens."""
        if self.lm.device.type == "cpu":
            return 0
        return int(LAUNCHED / sum(p.numel() for p in self.lm.module(self.lm.block(0)).parameters()))

    @property
    def size(self) -> int:
        """Tokens of a piece."""
        piece = PIECE.get(self.lm.device.type, PIECE["cuda"])
        return max(piece, min(2 * self.least, MOST))

    @property
    def more(self) -> int:
        """A pass takes longer than its tokens by so many."""
        return self.size // PASS.get(self.lm.device.type, PASS["cuda"])


def _run(way: _Way, rows: Sequence[Row], tails: Sequence[Row], before: Begun | None) -> list[Part]:
    """Run `rows`, all of them behind the one row that is `before` them, if any."""
    found = families(rows) if way.may_share else []
    if sum(family.saved for family in found) <= max(way.least, way.more):  # what is shared is a pass of its own
        return [*_Group(before, [*range(len(rows))], rows, tails, [0] * len(rows)).run(way)]
    kin, alone = ([f for f in found if bool(f.shared) is so] for so in (True, False))

    def shown(texts: Sequence[Sequence[int]], *seen: Any) -> None:
        assert way.look is not None
        way.look([[i for k in those for i in kin[k].rows] for those in texts], *seen)

    upto = [rows[f.rows[0]][: f.shared] for f in kin]
    start = _Way(way.lm, way.may_share, way.look and shown)
    starts = stacked(_run(start, upto, [[]] * len(kin), before))
    members = [(i, rows[i][f.shared :], tails[i], k) for k, f in enumerate(kin) for i in f.rows]
    parts = [*_Group(starts, *zip(*members, strict=True)).run(way)]
    del starts  # before all are joined
    if others := [(i, rows[i], tails[i], 0) for f in alone for i in f.rows]:
        parts += _Group(before, *zip(*others, strict=True)).run(way)
    return parts


@dataclass
class _Group:
    """Rows that are to be run: their numbers, tokens and tails, and behind which row of `before` each stands."""

    before: Begun | None
    numbers: Sequence[int]
    rows: Sequence[Row]
    tails: Sequence[Row]
    behind: Sequence[int]

    def run(self, way: _Way) -> Iterator[Part]:
        """Piece by piece, those of like length together."""
        whole = [[*row, *tail] for row, tail in zip(self.rows, self.tails, strict=True)]
        order = sorted(range(len(whole)), key=lambda j: -len(whole[j]))
        for piece in _pieces([whole[j] for j in order], way.size, way.more, way.least):
            some = sorted(order[j] for j in piece)
            numbers, rows = [self.numbers[j] for j in some], [self.rows[j] for j in some]
            tokens, last, cache = pad(way.lm, [whole[j] for j in some]), None, empty() if way.keep else None
            if self.before is not None:
                behind = [self.behind[j] for j in some]
                tokens, last = self.before.followed(tokens, behind), self.before.ends(behind)
                cache = _of(Growing if way.keep else Frozen, self.before.held(behind))
            states = states_behind(way.lm, tokens, cache)
            stop = [states.shape[1] - len(self.tails[j]) for j in some]  # the columns behind the rows
            if way.look is not None:
                own = [(end - len(row), end) for row, end in zip(rows, stop, strict=True)]
                way.look([[i] for i in numbers], rows, [states[j, a:b] for j, (a, b) in enumerate(own)], last)
            if way.read is not None:
                way.read(numbers, [states[j, end - 1 :] for j, end in enumerate(stop)])
            # a copy: a view would hold all states
            at = placed(way.lm, [end - 1 for end in stop]).to(states.device)
            ends = states[torch.arange(len(some), device=states.device), at]
            kept = Cache(layers=[]) if cache is None or not way.keep else cache
            del states, cache  # before the next piece is run
            yield numbers, Begun(way.lm, tokens.mask, tokens.positions[:, -1:], ends, kept)


def _pieces(rows: Sequence[Row], size: int, more: int, least: int = 0) -> list[range]:
    """Neighbouring rows, at most `size` tokens as a rectangle, or a single row; parted so that it takes least.

    That is as many tokens as the rectangles have, `least` at least, and `more` for each pass.
    """
    blocks = [*_blocks(rows, size)]
    taken, firsts = [0], [0]  # of the blocks before each: what they take, and the first of their last piece
    for stop in range(1, len(blocks) + 1):
        count, width = 0, 0
        choices: list[tuple[int, int]] = []
        for first in range(stop - 1, -1, -1):
            count, width = count + len(blocks[first]), max(width, len(rows[blocks[first].start]))
            if choices and count * width > size:
                break
            choices.append((taken[first] + max(count * width, least) + more, first))
        took, first = min(choices)
        taken.append(took)
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


def _of(kind: type[Growing], layers: KeysValues) -> Cache:
    held: list[Any] = [kind(k, v) for k, v in layers]
    return Cache(layers=held)
