"""How far labels read agree with the right ones: weighted F1 and Matthews's correlation, as sklearn computes them.

Both are made of ratios of sums over records, so that resamples of the records give their intervals.
"""

from collections.abc import Sequence

import numpy as np

from core.metrics import Array, each_ratio, records
from core.types import Ratio, Scored


def agreement(scored: Scored, labels: Sequence[str], golds: Sequence[str], said: Sequence[str]) -> dict[str, Ratio]:
    """`f1` and `mcc` of what was said; anything that is none of the labels is one more label, which is never right.

    A record is one sample here. f1: each label's F1 by its share of the right answers. mcc: the correlation of several
    classes (Gorodkin 2004), 0 where one side says the same of all.
    """
    gold = np.array([[one == label for label in labels] for one in golds], np.float64)  # (n, K)
    told = np.array([[one == label for label in labels] for one in said], np.float64)
    hits, every = gold * told, np.ones((len(gold), 1))
    nothing = every - told.sum(axis=1, keepdims=True)
    share = np.broadcast_to(every, (len(gold), len(labels) + 1))
    names = records(scored)
    return {
        "f1": Ratio(
            names,
            np.hstack([2 * hits, gold]),
            np.hstack([told + gold, share[:, 1:]]),
            mean=weighted_f1,
        ),
        "mcc": Ratio(
            names,
            np.hstack([hits.sum(axis=1, keepdims=True), gold, told, nothing]),
            np.hstack([every, share[:, 1:], share]),
            mean=matthews,
        ),
    }


def weighted_f1(sums: Array) -> Array:
    """Of sums (r, 4K), the F1 of K labels and their shares of the right answers: (r,)."""
    f1, share = np.split(each_ratio(sums), 2, axis=1)
    weighted: Array = (f1 * share).sum(axis=1)
    return np.minimum(weighted, 1.0)  # it is, but for rounding


def matthews(sums: Array) -> Array:
    """Of sums (r, 4K + 4), the accuracy, the shares of K labels among the right answers, and of K + 1 said: (r,)."""
    ratios = each_ratio(sums)
    accuracy, gold, told = ratios[:, 0], ratios[:, 1 : ratios.shape[1] // 2], ratios[:, ratios.shape[1] // 2 :]
    chance = (gold * told[:, :-1]).sum(axis=1)
    spread = (1 - (gold**2).sum(axis=1)) * (1 - (told**2).sum(axis=1))
    root = np.sqrt(np.maximum(spread, 0.0))
    found = np.divide(accuracy - chance, root, out=np.zeros_like(root), where=spread > 1e-12)
    clipped: Array = np.clip(found, -1.0, 1.0)
    return clipped
