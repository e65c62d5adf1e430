"""How likely answers are, as defined: each token by a pass over all that is before it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.lm.model import LM
from core.lm.tokens import Row


@torch.no_grad()
def log_probabilities(lm: LM, rows: Sequence[Row], answers: Sequence[Sequence[Row]]) -> list[list[Tensor]]:
    """Of each row log p of each token of each of its answers: (tokens of the answer,) float32 each."""
    return [[_of(lm, row, answer) for answer in several] for row, several in zip(rows, answers, strict=True)]


def _of(lm: LM, row: Row, answer: Row) -> Tensor:
    logits = [lm.model(torch.tensor([row + answer[:i]])).logits[0, -1] for i in range(len(answer))]
    return torch.stack(logits).float().log_softmax(-1)[range(len(answer)), answer]
