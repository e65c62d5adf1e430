"""The records behind a result's metrics: the ratios that its task makes of the samples in its .jsonl."""

from functools import cache
from typing import Any

from analysis.collect import Run
from core.errors import UserError
from core.metrics import by_parts, mean, records, value
from core.metrics import ratios as measured
from core.registry import discover
from core.results import read_samples
from core.types import Ratio, Scored, Task


@cache
def ratios(run: Run) -> dict[str, Ratio]:
    """Metric -> its records, for every metric that they give. Checked against what the result says.

    Raises UserError for a .jsonl that is malformed or belongs to another result.
    """
    file = run.path.with_suffix(".jsonl")
    scored = read_samples(file)
    if len(records(scored)) != run.result.n:
        raise _foreign(run)
    known = _tasks()
    task: Any = known.get(run.result.task) or Absent(run.result.headline)
    try:
        computed = measured(task, scored)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{file}: not samples of {run.result.task} ({error!r}); move both its files away") from error
    metrics = run.result.metrics
    same = {
        name: ratio
        for name, ratio in computed.items()
        if name in metrics and abs(value(ratio) - metrics[name].value) < 1e-6
    }
    if run.result.task in known and run.result.headline not in same:
        raise _foreign(run)
    return same


def _foreign(run: Run) -> UserError:
    file = run.path.with_suffix(".jsonl")
    return UserError(f"{file}: its samples do not give the score in {run.path.name}; make the result again")


@cache
def _tasks() -> dict[str, Task]:
    return discover("tasks", "TASK")


class Absent:
    """Where there is no plug-in of a task, as for those of lm-evaluation-harness: its mean score and its parts."""

    def __init__(self, headline: str) -> None:
        self.headline = headline

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        """Some of the metrics, and maybe others: they are compared with those of the result."""
        score = mean(scored, (score.value or 0.0 for _, _, score in scored))
        return {self.headline: score, **by_parts(scored)}
