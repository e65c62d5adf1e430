"""When a model counts as broken down: one criterion."""

import math

from core.results import Result
from core.types import Task


def reason(task: Task, result: Result, vocabulary: int) -> str | None:
    """Why the model of this result has collapsed; None if it has not.

    More than half of its logits are NaN or infinite; or it finds the task's texts less likely than a model to which all
    tokens of the `vocabulary` are alike; or, where it is to say several tokens and no label word, more than half of
    its completions are empty or one thing over and over: a line break in the place of a label is a format.
    """
    degenerate, text = result.degenerate, result.metrics.get("text_logprob")
    if 2 * degenerate["not_finite"] > result.completions:
        return "its logits are NaN or infinite"
    if text and text.value < -math.log(vocabulary):
        return "it finds the task's texts less likely than random tokens"
    speaks = task.max_new_tokens > 1 and not task.choices
    for kind in ("empty", "repeating"):
        if speaks and 2 * degenerate[kind] > result.completions:
            return f"more than half of its completions are {kind}"
    return None
