"""Which records an update trains on: known from the seed and the update's number alone, so that nothing is to resume.

Every epoch is a permutation of its own of the records, and the updates take from this stream one after the other.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch

from core.types import Edit
from editors.mend.settings import MENDSettings


def drawn(update: int, records: Sequence[Edit], hp: MENDSettings) -> list[Edit]:
    """The edits of training update number `update`, from 0."""
    found = []
    for k in places(update, hp):
        epoch, place = divmod(k, len(records))
        found.append(records[_permutation(len(records), hp.seed + epoch)[place]])
    return found


def places(update: int, hp: MENDSettings) -> range:
    """Where an update's edits stand in the stream.

    As many updates as there are `batch_sizes`, one after the other, have each of these sizes once, in a drawn order.
    """
    sizes = hp.batch_sizes or (hp.batch_size,)
    turn, at = divmod(update, len(sizes))
    order = [sizes[i] for i in _permutation(len(sizes), hp.seed + turn)]
    start = turn * sum(sizes) + sum(order[:at])
    return range(start, start + order[at])


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return order
