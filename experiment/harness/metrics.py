"""What the harness says of a record, as the top and the bottom of a ratio over records.

Its metrics are aggregated by a function each. Those that are a mean, or one sum over another, are kept: `Score.parts`
holds what is added up above under the metric's name, and below, where that is not 1, under name + core.metrics.BELOW.
A perplexity becomes the log-probability that it is made of, in nats: exp(-logprob_per_word) is word_perplexity, and
-logprob_per_byte / ln 2 is bits_per_byte.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Part = tuple[float, float]
"""Top and bottom."""
LOGPROBS = {
    "perplexity": "logprob",
    "word_perplexity": "logprob_per_word",
    "byte_perplexity": "logprob_per_byte",
    "bits_per_byte": "logprob_per_byte",
}


def _mean(value: Any) -> Part | None:
    """None for what is no number: it is in no mean."""
    return (float(value), 1.0) if isinstance(value, int | float | np.number | np.bool_) else None


def _nanmean(value: Any) -> Part | None:
    return None if math.isnan(value) else (float(value), 1.0)


def _weighted(value: Any) -> Part:
    return float(value[0]), float(value[1])


def _f1(value: Any) -> Part:
    """Of label 1: 2 true positives over labels and answers that are 1."""
    gold, said = (int(label) == 1 for label in value)
    return 2.0 * (gold and said), float(gold + said)


def _brier(value: Any) -> Part:
    gold, probabilities = value
    return float(sum((p - (i == gold)) ** 2 for i, p in enumerate(probabilities))), 1.0


RATIOS: dict[str, Callable[[Any], Part | None]] = {
    "mean": _mean,
    "nanmean": _nanmean,
    "perplexity": _mean,
    "weighted_perplexity": _weighted,
    "bits_per_byte": _weighted,
    "f1": _f1,
    "brier_score": _brier,
}
"""By the harness's name of the aggregation."""


class Metrics:
    """The metrics of one task of the harness that are ratios over records; `left_out` are the others' names."""

    def __init__(self, task: Any) -> None:
        from lm_eval.api.registry import get_aggregation

        known = {get_aggregation(name): name for name in RATIOS}
        named = {metric: known.get(function) for metric, function in task.aggregation().items()}
        self.kept = {metric: name for metric, name in named.items() if name}
        self.left_out = [metric for metric, name in named.items() if not name]
        self._rising = {metric for metric, rises in task.higher_is_better().items() if rises}

    @property
    def rising(self) -> list[str]:
        """Those that are higher where a model is better, a perplexity's log-probability too."""
        return [metric for metric, name in self.kept.items() if metric in self._rising or metric in LOGPROBS]

    def parts(self, values: Mapping[str, Any], kind: str) -> dict[str, Part]:
        """Of one record, what the harness's `process_results` said behind the filter `kind`; the rising ones first."""
        found: dict[str, Part] = {}
        for metric in sorted(values, key=lambda metric: metric not in self.rising):
            if metric not in self.left_out:
                part = RATIOS[self.kept.get(metric, "mean")](values[metric])  # without a word it is a mean
                if part is not None:
                    found[named(metric, kind)] = part
        return found


def named(metric: str, kind: str) -> str:
    """As the harness writes it, without a filter that is none: "exact_match,strict-match"."""
    name = LOGPROBS.get(metric, metric)
    return name if kind == "none" else f"{name},{kind}"
