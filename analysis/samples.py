"""The records behind a score: read from a result's .jsonl, as the two sums whose ratio the score is.

A record is what a data set counts: a sentence of NER has four samples, "12/PER" to "12/MISC". Every score compared here
is a ratio of sums over records: a mean is sum(scores) / count, an entity F1 is sum(2 tp) / sum(2 tp + fp + fn).
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from analysis.collect import Result
from analysis.compare import Ratio
from core.errors import UserError
from core.registry import discover
from core.types import Completion, Sample, Score
from tasks._entities import claims, iob2

Line = Mapping[str, Any]


@cache
def ratios(result: Result) -> dict[str, Ratio]:
    """Metric -> its records, for every metric that its records give. Checked against what the result says.

    Raises UserError for a .jsonl that is malformed or belongs to another result.
    """
    file = result.path.with_suffix(".jsonl")
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        found = _ratios(result, lines)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not the samples of a result ({error!r}); move both its files away") from error
    same = {name: ratio for name, ratio in found.items() if abs(ratio.value - result.metrics[name].value) < 1e-6}
    whole = len(found[result.headline].ids) == result.n
    if not whole or (result.headline not in same and not _agrees(result, lines)):
        raise UserError(f"{file}: its samples do not give the score in {result.path.name}; make the result again")
    return same


def _ratios(result: Result, lines: Sequence[Line]) -> dict[str, Ratio]:
    records: dict[str, list[Line]] = {}
    for line in lines:
        records.setdefault(line["id"].rsplit("/", 1)[0], []).append(line)
    if (result.task, result.headline) == ("NER", "f1"):
        parts = {"f1": [_entities(group) for group in records.values()]}
    else:
        parts = {result.headline: [_mean(group, lambda line: line["score"] or 0.0) for group in records.values()]}
    for name in set(lines[0]["parts"]) & set(result.metrics) if lines else ():
        parts[name] = [_mean(group, lambda line, name=name: line["parts"][name]) for group in records.values()]
    ids = tuple(records)
    return {name: Ratio(ids, *np.array(rows, dtype=np.float64).T.reshape(2, -1)) for name, rows in parts.items()}


def _mean(group: Sequence[Line], value: Any) -> tuple[float, float]:
    return sum(float(value(line)) for line in group), float(len(group))


def _entities(group: Sequence[Line]) -> tuple[float, float]:
    """A sentence's 2 tp and 2 tp + fp + fn, read as tasks.ner reads it."""
    from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

    tokens, tags = (group[0]["reference"][key] for key in ("tokens", "tags"))
    named = [span for line in group for span in claims(line["completion"], line["reference"]["type"], tokens)]
    gold, said = set(get_entities(list(tags))), set(get_entities(iob2(named, len(tokens))))
    return 2.0 * len(gold & said), float(len(gold) + len(said))


def _agrees(result: Result, lines: Sequence[Line]) -> bool:
    """Whether the task itself gets the score from these samples: then it is no ratio of sums, and not compared."""
    task = discover("tasks", "TASK").get(result.task)
    if task is None:
        return True
    scored = [
        (
            Sample(line["id"], line["prompt"], line["reference"]),
            Completion(line["completion"], line["choice"], line["truncated"]),
            Score(line["score"], line["answer"], line["parts"]),
        )
        for line in lines
    ]
    return bool(abs(task.summarize(scored)[result.headline].value - result.metrics[result.headline].value) < 1e-6)
