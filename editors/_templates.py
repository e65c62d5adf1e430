"""Context templates: sentence openings that are put before an edit's prompt, drawn from the unedited model.

Differs from the released code: each opening has its own generator, and is drawn on the CPU in float64 from logits
rounded to three decimals. What rounding does to logits (another number of threads, say) changes a token only where the
draw falls right between two, and with it one opening, not all that come after.
"""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from core.lm.generate import sample
from core.lm.model import LM
from core.lm.tokens import encode

STARTS = ("The", "Therefore", "Because", "I", "You")
LIKELIEST = 5
"""The next token is one of so many."""
DIGITS = 1000
"""Steps per unit that logits are rounded to."""


def context_templates(lm: LM, shapes: Sequence[tuple[int, int]], seed: int) -> tuple[str, ...]:
    """The bare prompt "{}" and sampled sentence openings to put before it; `shapes` = (length, number).

    Top-5 sampling from the model as it is now.
    """
    texts: list[str] = []
    for length, number in shapes:
        each = max(1, number // len(STARTS))
        starts = [encode(lm, start) for start in STARTS for _ in range(each)]
        longest = length + max(map(len, starts))
        if longest > lm.context:
            raise UserError(
                f"context_template_length_params: openings of {length} tokens take {longest}, but '{lm.name}' takes "
                f"{lm.context}"
            )
        generators = [random.Random(f"{seed}/{len(texts) + i}") for i in range(len(starts))]

        def choose(logits: Tensor, generators: list[random.Random] = generators) -> Tensor:
            rows = logits.cpu().double()
            return torch.tensor([[drawn(row, own)] for row, own in zip(rows, generators, strict=True)])

        ids = sample(lm, starts, length, choose).tolist()
        texts += lm.tokenizer.batch_decode(
            [start + new for start, new in zip(starts, ids, strict=True)], skip_special_tokens=True
        )
    return ("{}", *(text.replace("{", " ").replace("}", " ") + ". {}" for text in texts))


def drawn(logits: Tensor, generator: random.Random) -> int:
    """One of the likeliest tokens, by its probability among them; `logits` are (vocabulary,) float64.

    Logits that differ by rounding alone are equal here: the smaller id goes first. UserError for NaN or infinity.
    """
    if not logits.max().isfinite():  # also if any of them is NaN
        raise UserError("no context templates can be drawn: the model's logits are NaN or infinite")
    steps = ((logits - logits.max()) * DIGITS).round()  # (vocabulary,), 0 at the likeliest
    least = steps.topk(min(LIKELIEST, len(steps))).values[-1]
    reached = (steps >= least).nonzero().flatten().tolist()
    chosen = sorted(sorted(reached, key=lambda token: (-float(steps[token]), token))[:LIKELIEST])
    token: int = generator.choices(chosen, [math.exp(float(steps[token]) / DIGITS) for token in chosen])[0]
    return token
