"""A task's samples completed and judged, and the result of them."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch

from core import published
from core.errors import UserError
from core.lm.generate import complete
from core.lm.likelihood import Asked
from core.lm.model import LM
from core.metrics import records, summarize
from core.results import Result
from core.types import Completion, Sample, Score, Scored, Task
from experiment.harness.yardstick import Yardstick


def score_model(
    lm: LM,
    task: Task,
    samples: Sequence[Sample],
    batch_tokens: int | None = None,
    done: MutableMapping[int, Completion] | None = None,
    asked: Sequence[Asked] | None = None,
) -> list[tuple[Sample, Completion, Score]]:
    """Complete and judge every sample, and measure what is `asked` of it (of a yardstick's nothing is).

    `done` holds completions by index: an earlier run's, in the end all.
    """
    prompts = [sample.prompt for sample in samples]
    try:
        if isinstance(task, Yardstick):
            completions = task.complete(lm, samples, batch_tokens, done)
        else:
            completions = complete(lm, prompts, task.max_new_tokens, task.choices, batch_tokens, done, asked)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{task.name}: one prompt alone does not fit in memory; try --dtype bfloat16") from error
    return [(s, c, task.score(s, c)) for s, c in zip(samples, completions, strict=True)]


def result_of(
    task: Task, scored: Scored, settings: dict[str, Any], environment: dict[str, Any], seconds: dict[str, float]
) -> Result:
    """The result of a scored task, as yet without what it says about edits: that is `dataclasses.replace`d."""
    metrics = summarize(task, scored)
    return Result(
        task=task.name,
        headline=next(iter(metrics)),
        metrics=metrics,
        n=len(records(scored)),
        completions=len(scored),
        truncated=sum(completion.truncated for _, completion, _ in scored),
        degenerate=degenerate(scored, task.max_new_tokens > 0),
        published=published.beside(settings, metrics),
        settings=settings,
        environment=environment,
        seconds=seconds,
    )


def degenerate(scored: Scored, said: bool = True) -> dict[str, int]:
    """How many completions show a model that has collapsed: empty, the same over and over, from logits of NaN.

    `said` is whether a text was asked for at all.
    """
    texts = [completion.text.strip() for _, completion, _ in scored if said]
    return {
        "empty": texts.count(""),
        "repeating": sum(map(repeating, texts)),
        "not_finite": sum(not completion.finite for _, completion, _ in scored),
    }


def repeating(text: str) -> bool:
    """Each word three times on average, or 20 characters or more that are one piece three times or more."""
    words = text.split()
    pieces = range(1, len(text) // 3 + 1 if len(text) >= 20 else 0)
    return len(words) >= 3 * len(set(words)) > 0 or any(text[size:] == text[:-size] for size in pieces)
