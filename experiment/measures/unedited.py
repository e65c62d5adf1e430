"""What the unedited model expects at the reference answers of a task: what a drift is measured from.

It is kept beside the unedited model's results, for the cells of a grid and the commands that follow: put there by the
run that scores the unedited model, as a part of that pass, else by the first that needs it, with a pass of its own.
Measuring it anew, with the edits undone, would cost every result such a pass.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from core.disk.whole import whole
from core.errors import UserError
from core.lm.generate import expected
from core.lm.likelihood import TOP, Asked, Expected
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
    file = _file(lm, task, samples, folder)
    found = _read(file, len(samples))
    if found is None:
        found = measured(lm, task, samples)
        _write(file, found)
    return found


@contextmanager
def noted(
    lm: LM, task: Task, samples: Sequence[Sample], folder: Path, asked: Sequence[Asked]
) -> Iterator[Sequence[Asked]]:
    """What is `asked` of the unedited model; at the end of the block, if all of it was answered, `kept` finds its file.

    With the default batches, those of `measured`: others round otherwise.
    """
    found: dict[int, Expected] = {}
    yield [replace(each, expect=partial(found.__setitem__, i)) for i, each in enumerate(asked)]
    if len(found) == len(samples):
        _write(_file(lm, task, samples, folder), [found[i] for i in range(len(samples))])


def _file(lm: LM, task: Task, samples: Sequence[Sample], folder: Path) -> Path:
    """The same where the same model is asked the same in the same way."""
    way = [lm.fingerprint, lm.tokenizer_sha256, lm.model.dtype, lm.device.type, lm.model.config._attn_implementation]
    digest = hashlib.sha256(repr([*way, TOP, task.max_new_tokens]).encode())
    for sample in samples:
        digest.update(repr((sample.prompt, sample.reference_text)).encode())
    return folder / f"{task.name}-{digest.hexdigest()[:16]}.npz"


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
