"""What the unedited model expects at the reference answers of a task: what a drift is measured from.

It takes a pass of its own over the task's prompts, so it is kept beside the unedited model's results, for the cells of
a grid and the commands that follow. Measuring it anew, with the edits undone, would cost every result such a pass.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from core.disk.whole import whole
from core.errors import UserError
from core.lm.generate import expected
from core.lm.likelihood import TOP, Expected
from core.lm.model import LM
from core.messages import first_line
from core.types import Sample, Task
from experiment.measures.asked import reference

logger = logging.getLogger(__name__)


def measured(lm: LM, task: Task, samples: Sequence[Sample]) -> list[Expected]:
    """What the model, as it is now, expects at the end of each prompt and at its reference answer."""
    answers = [reference(lm, sample.reference_text) for sample in samples]
    return expected(lm, [sample.prompt for sample in samples], task.max_new_tokens, answers)


def kept(lm: LM, task: Task, samples: Sequence[Sample], folder: Path) -> list[Expected]:
    """The same of a model whose weights are those of its files: read from `folder`, or measured and put there."""
    file = folder / f"{task.name}-{_key(lm, task, samples)}.npz"
    found = _read(file, len(samples))
    if found is None:
        found = measured(lm, task, samples)
        _write(file, found)
    return found


def _key(lm: LM, task: Task, samples: Sequence[Sample]) -> str:
    """Equal where the same model is asked the same in the same way."""
    way = [lm.fingerprint, lm.tokenizer_sha256, lm.model.dtype, lm.device.type, lm.model.config._attn_implementation]
    digest = hashlib.sha256(repr([*way, TOP, task.max_new_tokens]).encode())
    for sample in samples:
        digest.update(repr((sample.prompt, sample.reference_text)).encode())
    return digest.hexdigest()[:16]


def _read(file: Path, samples: int) -> list[Expected] | None:
    """What is in the file; None if there is none, or a damaged one."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            ids, logp = (torch.from_numpy(stored[name]) for name in ("ids", "logp"))
            positions = [int(n) for n in stored["positions"]]
        parts = zip(ids.long().split(positions), logp.split(positions), strict=True)
        found = [Expected(*part) for part in parts]
    except FileNotFoundError:
        return None
    except Exception as error:  # NumPy raises nearly anything for a damaged archive
        logger.warning("%s: damaged (%s), made anew", file, first_line(error))
        return None
    return found if len(found) == samples else None


def _write(file: Path, each: Sequence[Expected]) -> None:
    """Whole or not at all. A folder that cannot be written costs the next command a pass; results will say so first."""
    arrays = {
        "ids": torch.cat([one.ids for one in each]).int().numpy(),
        "logp": torch.cat([one.logp for one in each]).numpy(),
        "positions": np.array([len(one.ids) for one in each]),
    }
    try:
        with whole(file) as new:
            np.savez(new, **arrays)  # type: ignore[arg-type]
    except UserError as error:
        logger.debug("%s: what the unedited model expects is measured by every command", error)
