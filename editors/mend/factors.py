"""What goes into MEND's network and out of it: gradient factors of a loss, and a model with low-rank updates added.

Both are forward hooks. The gradient factors of a weight are its module's input and the gradient with respect to its
output: no weight requires a gradient. An edited model is the model whose modules add  sum_r g_r (x_r . input)  to
their output, which is what the weight plus  sum_r g_r x_r^T  would do: nothing is copied, and no matrix of a weight's
size is made. Each row of a batch can carry its own update, so that many edits share one pass.

Differs from the released code: pads are in no loss (there, pad labels of a batch's shorter targets were trained on);
positions count a row's own tokens (there a row padded on its left started late); prompt and target are joined as ids.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.errors import UserError
from core.lm.generate import fit
from core.lm.hooks import replaced, trace, watched
from core.lm.model import LM
from core.lm.reads import Reads, joined
from core.lm.tokens import encode, target_ids
from core.messages import short
from editors.mend.network import Factors, Shape


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


def reads_of(lm: LM, pairs: Sequence[tuple[str, str]]) -> Reads:
    """(prompt, answer) pairs, one row each; a prompt that does not fit with its answer loses tokens on its left."""
    answers = [target_ids(lm, answer) for _, answer in pairs]
    prompts = [fit(lm, encode(lm, prompt), len(ids))[0] for (prompt, _), ids in zip(pairs, answers, strict=True)]
    return Reads.of(lm, [joined(*pair) for pair in zip(prompts, answers, strict=True)], answers)


def gradient_factors(
    lm: LM, names: Sequence[str], loss: Callable[[], Tensor], owner: Tensor
) -> tuple[Tensor, dict[str, Factors]]:
    """The value of `loss()`, which runs the model on rows that belong to the updates `owner` (rows,), and its factors.

    Tokens at which x or g is zero (pads, what the loss does not depend on) are left out. float32, detached.
    """
    paths, scale = [name.removesuffix(".weight") for name in names], lm.loss_scale
    start = torch.zeros((), device=lm.device, requires_grad=True)  # the graph begins at the first module it is added to
    with torch.enable_grad(), ExitStack() as stack:
        for path in paths:
            stack.enter_context(replaced(lm.model, path, lambda out: out + start.to(out)))
        seen = stack.enter_context(trace(lm.model, *paths))
        value = loss()
        gradients = torch.autograd.grad(value * scale, [seen[path].output for path in paths])
    factors = {}
    for name, path, g in zip(names, paths, gradients, strict=True):
        x = seen[path].input.detach()
        kept = (x != 0).any(-1) & (g != 0).any(-1)  # (rows, columns)
        rows = kept.nonzero()[:, 0].to(owner.device)
        factors[name] = Factors(x[kept].to(owner.device).float(), g[kept].to(owner.device).float() / scale, owner[rows])
    return value.detach(), factors


@contextmanager
def edited(lm: LM, updates: Mapping[str, Factors], owner: Tensor) -> Iterator[None]:
    """Let row b of what the model is run on inside see the weights plus those terms of `updates` for owner[b]."""
    with ExitStack() as stack:
        for name, factors in updates.items():

            def add(given: Tensor, output: Tensor, f: Factors = factors) -> Tensor:
                match = given.to(f.x) @ f.x.T  # (B, T, R)
                match = match * (owner[:, None, None] == f.owner)
                change: Tensor = (match @ f.g).to(output)  # (B, T, d_out)
                return output + change

            stack.enter_context(watched(lm.model, name.removesuffix(".weight"), add))
        yield


def mean_by(owner: Tensor, values: Tensor, n: int) -> Tensor:
    """Mean of the `values` (N,) of each of n owners, 0 for one that has none: (n,)."""
    sums = values.new_zeros(n).index_add(0, owner, values)
    return sums / owner.bincount(minlength=n).clamp(min=1)
