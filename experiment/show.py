"""What a terminal shows of a run."""

from core import published, results
from core.results import Result
from experiment import quality
from experiment.plan import Plan
from experiment.run import Edited, Made


def text(event: Made | Edited, plan: Plan) -> str:
    """Some lines about a result, or about how well edits took."""
    if isinstance(event, Edited):
        tried = len(event.record.updates) + len(event.record.refused)
        title = f"edit quality: {event.edits} edit{'s'[: event.edits != 1]} in {tried} update{'s'[: tried != 1]}"
        return f"\n{title}\n{quality.table(event.record.quality)}"
    name = event.wanted.task.name
    if event.new:
        return scores(f"{name}: {event.result.n} records from {plan.sources[name].path}", event)
    return scores(f"{name}: already there, made with the same settings", event)


def scores(title: str, made: Made) -> str:
    """A result's metrics, the published score, whether the model has collapsed, and where its files are."""
    result: Result = made.result
    lines = ["", title, results.table(result.metrics, result.n)]
    if result.published:
        lines.append(published.line(result.published))
    for kind, count in result.degenerate.items():
        if count > result.completions / 2:
            lines.append(f"collapsed: {count} of {result.completions} completions are {kind.replace('_', ' ')}")
    return "\n".join([*lines, f"-> {made.wanted.stem}.json", f"-> {made.wanted.stem}.jsonl"])
