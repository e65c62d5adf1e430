"""Edits as rows to train on, and gradients where a module's output is made.

No weight requires a gradient for these: they are those of hidden states, by forward hooks that are taken back.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.errors import UserError
from core.lm.generate import fit
from core.lm.hooks import Seen, replaced, trace
from core.lm.model import LM
from core.lm.tokens import Row, encode, of_edit, target_ids
from core.messages import short
from core.types import Edit

Shape = tuple[int, int]
"""(d_in, d_out) of a weight, however its module stores it."""


def rows_of(lm: LM, edits: Sequence[Edit]) -> list[tuple[Row, Row]]:
    """Ids of each edit's prompt, cut on its left where it does not fit with the target, and ids of that target.

    UserError, with the edit's number, for a target that cannot be tokenised.
    """
    rows = []
    for edit in edits:
        with of_edit(edit):
            target = target_ids(lm, edit.target)
        rows.append((fit(lm, encode(lm, edit.prompt), len(target))[0], target))
    return rows


def output_gradients(lm: LM, paths: Sequence[str], loss: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Seen]]:
    """The value of `loss()`, which runs the model once, and per module its input and d loss / d output.

    The gradients stand where `Seen` has the output: (rows, columns, d_out), in the model's dtype and `lm.loss_scale`
    times too large; detached.
    """
    start = torch.zeros((), device=lm.device, requires_grad=True)  # the graph begins at the first module it is added to
    with torch.enable_grad(), ExitStack() as stack:
        for path in paths:
            stack.enter_context(replaced(lm.model, path, lambda out: out + start.to(out)))
        seen = stack.enter_context(trace(lm.model, *paths))
        value = loss()
        gradients = torch.autograd.grad(value * lm.loss_scale, [seen[path].output for path in paths])
    return value.detach(), {p: Seen(seen[p].input.detach(), g) for p, g in zip(paths, gradients, strict=True)}


def shapes_of(lm: LM, names: Sequence[str]) -> dict[str, Shape]:
    """(d_in, d_out) per weight. Raises UserError for a name that is not a linear module's weight inside a block."""
    shapes = {}
    for name in names:
        try:
            module = lm.module(name.removesuffix(".weight"))
        except AttributeError:
            module = None
        if not (name.endswith(".weight") and isinstance(module, nn.Linear | Conv1D) and layer_of(lm, name) is not None):
            raise UserError(
                f"inner_params: {short(name)} is not the weight of a linear module in a block of '{lm.name}'"
            )
        rows, columns = module.weight.shape
        shapes[name] = (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
    return shapes


def layer_of(lm: LM, name: str) -> int | None:
    """The block a weight is in, if it is in one."""
    return next((layer for layer in range(lm.n_layers) if name.startswith(f"{lm.block(layer)}.")), None)
