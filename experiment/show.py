"""What a terminal shows of a run."""

from collections.abc import Mapping
from pathlib import Path

from core import metrics, published, results
from core.errors import UserError
from core.results import EditRecord, Result
from core.types import Measure, Ratio
from experiment import quality
from experiment.plan import Plan, Wanted
from experiment.run import Edited, Made

SHORT = ("answered", "choice_accuracy", "trivial", *metrics.MEASURES)
"""Metrics that are shown with the headline, and `as_released...` where a published score is beside them."""
COMPARED = ("reference_logprob", "text_logprob")
"""Metrics that are compared with those before the edits, beside the headline."""
LARGE = 0.5
"""Of a weight's norm: a change above this is said."""


def text(event: Made | Edited, plan: Plan, all_metrics: bool = False) -> str:
    """Some lines about a result, or about how well edits took."""
    if isinstance(event, Edited):
        tried = len(event.record.updates) + len(event.record.refused)
        title = f"edit quality: {counted(event.edits, 'edit')} in {counted(tried, 'update')}"
        return "\n".join(["", title, quality.table(event.record.quality), *large(event.record)])
    name = event.wanted.task.name
    if event.new:
        title = f"{name}: {counted(event.result.n, 'record')} from {plan.sources[name].path}"
        return scores(title, event, all_metrics)
    asked = set(plan.measured(event.wanted.task)) & {"text_logprob", "drift"}  # those that every task has
    absent = "" if asked <= event.result.metrics.keys() else "; not all measures are in it, which --overwrite changes"
    return scores(f"{name}: already there, made with the same settings{absent}", event, all_metrics)


def scores(title: str, made: Made, all_metrics: bool = False) -> str:
    """A result: what edits did to its headline, some or all metrics, what to know about them, where its files are."""
    result: Result = made.result
    shown = result.metrics if all_metrics else _short(result)
    lines = ["", title, *change(made), results.table(shown, result.n)]
    if len(shown) < len(result.metrics):
        lines.append(f"{len(result.metrics) - len(shown)} more: --all-metrics, or the .json file")
    if result.published:
        lines.append(published.line(result.published))
    return "\n".join([*lines, *remarks(made), f"-> {made.wanted.stem}.json", f"-> {made.wanted.stem}.jsonl"])


def _short(result: Result) -> Mapping[str, Measure]:
    """The headline, and what tells how to read it."""
    released = {name for name in result.metrics if result.published and name.startswith("as_released")}
    return {name: m for name, m in result.metrics.items() if name in {result.headline, *SHORT, *released}}


def change(made: Made) -> list[str]:
    """`NER f1 0.091 -> 0.000 (8 records; not shown to differ)`, if the result before the edits is near; else nothing.

    One line for the headline, one each for what of `COMPARED` was measured both times. It differs where the 95 %
    interval of the paired difference leaves 0 out.
    """
    task, result, before = made.wanted.task, made.result, unedited(made.wanted)
    if before is None or before[0].headline != result.headline:
        return []
    try:
        first, last = (
            metrics.ratios(task, results.read_samples(stem.with_name(f"{stem.name}.jsonl")))
            for stem in (before[1], made.wanted.stem)
        )
    except UserError:
        return []
    names = [name for name in (result.headline, *COMPARED) if name in first and name in last]
    if first[result.headline].records != last[result.headline].records:
        return []
    pairs = {name: [first[name], last[name]] for name in names}
    pairs |= {name: metrics.shared(pair) for name, pair in pairs.items() if name in COMPARED}
    return [f"{task.name} {name} {_difference(*pair)}" for name, pair in pairs.items() if pair[0].records]


def _difference(before: Ratio, after: Ratio) -> str:
    """`0.091 -> 0.000 (8 records; not shown to differ)`."""
    gap = metrics.difference(before, after)
    verdict = f"differs by {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
    verdict = "not shown to differ" if gap.low <= 0 <= gap.high else verdict
    values = " -> ".join(f"{metrics.value(ratio):.3f}" for ratio in (before, after))
    return f"{values} ({counted(len(before.records), 'record')}; {verdict})"


def unedited(wanted: Wanted) -> tuple[Result, Path] | None:
    """The result before the edits, of the same model on the same data, and its stem; None if it is not there.

    Drawn edits have a folder of their own beside it.
    """
    if wanted.settings["edit"] is None:
        return None
    root = wanted.stem.parents[1]
    stem = results.stem(root if wanted.settings["edit"]["draw"] is None else root.parent, wanted.task.name, None)
    try:
        result = results.read(stem.with_name(f"{stem.name}.json"))
    except UserError:
        return None
    settings = {**wanted.settings, "seed": result.settings.get("seed"), "edit": None}  # nothing is drawn without edits
    return (result, stem) if results.same(result.settings, settings) else None


def remarks(made: Made) -> list[str]:
    """That the model has collapsed, says nothing, or nothing that could be read."""
    result, edited = made.result, made.wanted.edits > 0
    lines = [
        f"degenerate: {count} of {counted(result.completions, 'completion')} are {kind.replace('_', ' ')}"
        for kind, count in result.degenerate.items()
        if count > result.completions / 2
    ]
    if result.collapsed:
        lines.append(f"collapsed: {result.collapsed}")
    unread = "answered" in result.metrics and result.metrics["answered"].value == 0
    if unread and "choice_accuracy" in result.metrics and not edited:
        lines.append("no completion could be read as a label (its format, not its ability): see choice_accuracy")
    return lines


def large(record: EditRecord) -> list[str]:
    """A line for each weight that has changed by more than LARGE of its norm."""
    shares = {name: norms["norm"] / norms["weight"] for name, norms in record.change.items() if norms["weight"]}
    return [f"large change: {name} by {share:.0%} of its norm" for name, share in shares.items() if share > LARGE]


def counted(number: int, noun: str) -> str:
    """`1 edit`, `2 edits`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
