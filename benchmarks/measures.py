"""What the measures beside the scores cost: processor time of a task with them, over that without any.

And what CounterFact's authors compare, the likelihoods of two answers after many prompts, against a naive twin.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from unittest.mock import patch

from benchmarks._common import embedded, printed, versus
from core import folders
from core.lm.generate import complete
from core.lm.likelihood import Asked
from core.lm.model import LM
from core.registry import discover
from core.types import Sample, Task
from edit_sets.counterfact import EDIT_SET
from experiment.measures.asked import questions
from experiment.measures.unedited import measured
from experiment.quality import compared
from tests.reference import likelihood as naive

ANSWERS = ("reference_logprob", "choice_probability")
WAYS = {"answers": ANSWERS, "and text": (*ANSWERS, "text_logprob"), "and drift": (*ANSWERS, "text_logprob", "drift")}
SAMPLES, ROUNDS = 12, 2
"""Of each task; of rounds the fastest counts."""
EDITS = 40


def run() -> Iterator[str]:
    lm = embedded()
    tasks: dict[str, Task] = discover("tasks", "TASK")
    for task in tasks.values():
        samples = list(islice(task.samples(folders.SAMPLE / "task-data" / task.file), SAMPLES))
        unedited = measured(lm, task, samples)
        plain = min(seconds(lm, task, samples, None) for _ in range(ROUNDS))
        costs = []
        for way, names in WAYS.items():
            asked = questions(lm, task, samples, names, unedited if "drift" in names else None)
            cost = min(seconds(lm, task, samples, asked) for _ in range(ROUNDS)) / plain
            costs.append(f"{way} {cost:.2f}x")
        yield f"{task.name:18} {plain / len(samples):6.3f} s a prompt; {', '.join(costs)}"
    yield answers(lm)


def answers(lm: LM) -> str:
    edits = EDIT_SET.edits(folders.SAMPLE / EDIT_SET.file, 0, EDITS, 1)

    def theirs() -> None:
        with patch.object(compared, "log_probabilities", naive.log_probabilities):
            compared.compare(lm, edits)

    fast, slow = versus(lambda: compared.compare(lm, edits), theirs, ROUNDS)
    return (
        f"two answers after all prompts of {EDITS} facts of CounterFact: "
        f"{fast:.1f} s, naive twin {slow:.1f} s: {slow / fast:.2f}x"
    )


def seconds(lm: LM, task: Task, samples: Sequence[Sample], asked: Sequence[Asked] | None) -> float:
    """Processor time."""
    prompts = [sample.prompt for sample in samples]
    start = time.process_time()
    complete(lm, prompts, task.max_new_tokens, task.choices, asked=asked)
    return time.process_time() - start


if __name__ == "__main__":
    printed(run, flagless="measures")
