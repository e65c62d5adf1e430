"""Rows of tokens in batches that fit the machine."""

from collections.abc import Callable, MutableMapping, Sequence
from typing import TypeVar

import torch
from tqdm import tqdm

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
) -> list[T]:
    """`work` done on length-sorted batches of at most `budget` tokens (at least one row), results in the rows' order.

    `size` is the length of a row in tokens, new ones included. When the device runs out of memory the budget halves and
    the batch is tried again. `done` maps rows to results an earlier run has left, and receives those of this one; the
    batches are the same with and without it, so that the rest comes out to the bit as it would have. `what` is the
    name of the progress bar.
    """
    budget = budget or default_budget(lm)
    order = sorted(range(len(rows)), key=lambda i: -size(rows[i]))
    results: MutableMapping[int, T] = {} if done is None else done
    position = 0
    with tqdm(total=len(rows), desc=what, unit="row", leave=False, disable=len(rows) < 2) as bar:
        while position < len(rows):
            width = size(rows[order[position]])
            batch = order[position : position + max(1, budget // width)]
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
