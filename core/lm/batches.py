"""Rows of tokens in batches that fit the machine."""

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

import torch
from tqdm import tqdm

from core.errors import UserError
from core.lm.model import LM

BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Default token budget of a batch: rows x (longest prompt + new tokens)."""

T = TypeVar("T")
R = TypeVar("R")


def default_budget(lm: LM) -> int:
    """Tokens of a batch where nobody says how many."""
    return BATCH_TOKENS.get(lm.device.type, BATCH_TOKENS["cuda"])


def in_batches(
    rows: Sequence[R],
    work: Callable[[list[R]], list[T]],
    lm: LM,
    size: Callable[[R], int],
    budget: int | None = None,
    done: MutableMapping[int, T] | None = None,
    what: str = "reading",
    order: Sequence[int] | None = None,
) -> list[T]:
    """`work` done on batches of at most `budget` tokens (at least one row), results in the rows' order.

    `size` is the length of a row in tokens, new ones included; rows are taken in the given `order`, longest first if
    there is none. When the device runs out of memory the budget halves and the batch is tried again. `done` maps rows
    to results an earlier run has left, and receives those of this one; the batches are the same with and without it, so
    that the rest comes out to the bit as it would have. `what` is the name of the progress bar. UserError for a budget
    below 1.
    """
    if budget is not None and budget < 1:
        raise UserError(f"tokens of a batch: expected 1 or more, got {budget}")
    budget = budget or default_budget(lm)
    order = sorted(range(len(rows)), key=lambda i: -size(rows[i])) if order is None else order
    results: MutableMapping[int, T] = {} if done is None else done
    position = 0
    with tqdm(total=len(rows), desc=what, unit="row", leave=False, disable=len(rows) < 2) as bar:
        while position < len(rows):
            width = 0
            batch: list[int] = []
            for i in order[position:]:
                wider = max(width, size(rows[i]))
                if batch and (len(batch) + 1) * wider > budget:
                    break
                width = wider
                batch.append(i)
            if not all(i in results for i in batch):
                new: Sequence[T] | None = None
                try:
                    new = work([rows[i] for i in batch])
                except torch.OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                if new is None:  # now nothing holds the batch that was too large
                    budget = len(batch) * width // 2
                    torch.cuda.empty_cache()
                    continue
                results.update(zip(batch, new, strict=True))
            position += len(batch)
            bar.update(len(batch))
    return [results[i] for i in range(len(rows))]


SHORTEST = 8
"""Tokens of a beginning that is worth the trouble."""


@dataclass(slots=True)
class Family:
    """Rows that start with the same `shared` tokens; 0 for a row by itself."""

    shared: int
    rows: list[int]

    @property
    def saved(self) -> int:
        """Tokens that need not be run again."""
        return self.shared * (len(self.rows) - 1)


@dataclass(slots=True)
class _Run:
    """Neighbouring rows, in the order of their tokens, that share a beginning; `families` is how to part them."""

    shared: int
    rows: list[int] = field(default_factory=list)
    tokens: int = 0
    families: list[Family] = field(default_factory=list)
    saved: int = 0

    def take(self, other: "_Run") -> None:
        self.rows += other.rows
        self.tokens += other.tokens
        self.families += other.families
        self.saved += other.saved

    def close(self) -> None:
        """As one family, where that saves more."""
        whole = Family(self.shared, [*self.rows])
        if self.shared >= SHORTEST and whole.saved > max(self.saved, self.tokens // 8):
            self.families, self.saved = [whole], whole.saved


def families(rows: Sequence[Sequence[int]]) -> list[Family]:
    """Rows of tokens parted so that running what each family shares once saves many.

    A family has to save an eighth of its tokens; of each of its rows at least one token is its own. The runs of sorted
    rows that share a beginning are nested: each is one family where that saves more than the families in it, with the
    rest of its rows by themselves.
    """
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    stack = [_Run(0)]
    for this, following in zip(order, [*order[1:], None], strict=False):
        run = _Run(len(rows[this]), [this], len(rows[this]), [Family(0, [this])])
        shared = 0 if following is None else _common(rows[this], rows[following])
        while stack[-1].shared > shared:
            stack[-1].take(run)
            run = stack.pop()
            run.close()
        if stack[-1].shared < shared:
            stack.append(_Run(shared))
        stack[-1].take(run)
    return stack[0].families


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two rows start with, one of each left out."""
    pairs = zip(a[:-1], b[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def side_by_side(rows: Sequence[Sequence[int]]) -> list[int]:
    """An order that has the rows of a family side by side, and those by themselves behind them; longest first."""
    found = sorted(families(rows), key=lambda family: (not family.shared, -max(len(rows[i]) for i in family.rows)))
    return [i for family in found for i in sorted(family.rows, key=lambda i: -len(rows[i]))]
