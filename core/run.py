"""The two things every experiment does: edit a model, and score it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from core.errors import UserError
from core.generate import complete
from core.model import LM
from core.quality import Probe, probe
from core.types import Completion, Edit, Editor, Mode, Sample, Score, Task
from core.weights import add_

Regularize = Callable[[Tensor, Tensor], Tensor]
"""(weight as it is now, its delta) -> the delta to add."""


@dataclass(frozen=True, slots=True)
class Update:
    """One update of the weights: the edits in it, the norm of the change per parameter, the editor's own numbers."""

    edits: list[int]
    norms: dict[str, float]
    notes: dict[str, Any]
    seconds: float


def batches(edits: Sequence[Edit], mode: Mode, batch_size: int | None = None) -> Iterator[Sequence[Edit]]:
    """The edits of each update: one, all, or `batch_size` (a smaller last batch is a batch too)."""
    size = {"Instance-Sequential": 1, "Batch-Single": len(edits)}.get(mode, batch_size)
    assert size, "Batch-Sequential needs a batch size"
    for start in range(0, len(edits), size):
        yield edits[start : start + size]


def edit_model(
    lm: LM, editor: Editor, updates: Sequence[Sequence[Edit]], regularize: Regularize | None = None
) -> tuple[list[Update], list[Probe]]:
    """Apply one update per batch, each on the result of the one before. Changes the model.

    Returns the updates, and for every edit what the model said right after its own update.
    """
    done: list[Update] = []
    own: list[Probe] = []
    for batch in tqdm(updates, desc=f"editing with {editor.name}", unit="update"):
        start = time.perf_counter()
        deltas = editor.deltas(batch)
        if regularize is not None:
            deltas = {name: regularize(lm.model.get_parameter(name), delta) for name, delta in deltas.items()}
        add_(lm.model, deltas)
        norms = {name: float(delta.float().norm()) for name, delta in deltas.items()}
        seconds = time.perf_counter() - start
        done.append(Update([edit.index for edit in batch], norms, dict(editor.notes), seconds))
        own += probe(lm, batch)
    return done, own


def limited(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """The samples of the first `limit` records; a record of several samples marks them "<record>/<part>"."""
    if limit is None:
        return list(samples)
    records = dict.fromkeys(sample.id.rsplit("/", 1)[0] for sample in samples)
    kept = set(list(records)[:limit])
    return [sample for sample in samples if sample.id.rsplit("/", 1)[0] in kept]


def score_model(
    lm: LM, task: Task, samples: Sequence[Sample], batch_tokens: int | None = None
) -> list[tuple[Sample, Completion, Score]]:
    """Complete and judge every sample."""
    prompts = [sample.prompt for sample in samples]
    try:
        completions = complete(lm, prompts, task.max_new_tokens, task.choices, batch_tokens)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{task.name}: one prompt alone does not fit in memory; try --dtype bfloat16") from error
    return [(s, c, task.score(s, c)) for s, c in zip(samples, completions, strict=True)]
