"""From the measures that a run makes to what is asked of each sample."""

from collections.abc import Collection, Sequence

from core.lm.generate import REFERENCE
from core.lm.likelihood import Asked, Expected
from core.lm.model import LM
from core.lm.tokens import Row, continuation
from core.types import Sample, Task


def questions(
    lm: LM, task: Task, samples: Sequence[Sample], measures: Collection[str], unedited: Sequence[Expected] | None = None
) -> list[Asked]:
    """What to measure of each sample.

    `unedited` is what the unedited model expects of each, for the drift; None if this is the unedited model.
    """
    likely, choice = "reference_logprob" in measures, "choice_probability" in measures
    several = likely and any(len(sample.answers) > 1 for sample in samples)
    asked = []
    for i, sample in enumerate(samples):
        answers = sample.answers if several else sample.answers[: likely or unedited is not None]
        asked.append(
            Asked(
                text="text_logprob" in measures,
                references=tuple(reference(lm, answer) for answer in answers),
                best=several,
                right=_place(task, sample) if choice else None,
                unedited=None if unedited is None else unedited[i],
                known={"drift": 0.0} if "drift" in measures and unedited is None else {},
            )
        )
    return asked


def reference(lm: LM, answer: str | None) -> Row:
    """As many ids as are read of an answer behind a prompt and a blank; none of no answer."""
    return continuation(lm, f" {answer}", REFERENCE) if answer and answer.strip() else []


def _place(task: Task, sample: Sample) -> int | None:
    """Which of the label words is right; None for a task without any."""
    text = sample.reference_text
    return task.choices.index(text) if text in task.choices else None
