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
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.errors import UserError
from core.lm.generate import fit
from core.lm.hooks import replaced, trace, watched
from core.lm.model import LM
from core.lm.tokens import Padded, encode, pad, target_ids
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


@dataclass(frozen=True)
class Asked:
    """Prompts with their answers as one rectangle, and where answers are read.

    Entry n of the reads: at `row[n]`, `column[n]` the model should say `token[n]`. An answer of several tokens has as
    many reads; the answer's last token is not an input.
    """

    tokens: Padded
    row: Tensor
    column: Tensor
    token: Tensor

    def part(self, start: int, stop: int) -> "Asked":
        """The rows from `start` up to `stop`."""
        kept = (self.row >= start) & (self.row < stop)
        rows = self.tokens.rows(torch.arange(start, stop, device=self.row.device))
        return Asked(rows, self.row[kept] - start, self.column[kept], self.token[kept])

    def logp(self, lm: LM, hidden: Tensor) -> Tensor:
        """Log-probabilities at the reads: final hidden states (rows, columns, d) -> (N, vocabulary), float32."""
        row, column = self.row.to(hidden.device), self.column.to(hidden.device)
        return lm.logits(hidden[row, column]).to(self.token.device, torch.float32).log_softmax(-1)

    def nll(self, logp: Tensor) -> Tensor:
        """-log p of the wanted tokens: (N, vocabulary) -> (N,)."""
        return -logp.gather(1, self.token.unsqueeze(1)).squeeze(1)


def ask(lm: LM, pairs: Sequence[tuple[str, str]]) -> Asked:
    """(prompt, answer) pairs, one row each, padded on the left."""
    rows, reads = [], []
    for j, (prompt, answer) in enumerate(pairs):
        target = target_ids(lm, answer)
        rows.append(fit(lm, encode(lm, prompt), len(target))[0] + target[:-1])
        reads += [(j, i - len(target), token) for i, token in enumerate(target)]
    tokens = pad(lm, rows)
    row, column, token = torch.tensor(reads, device=lm.device).T
    return Asked(tokens, row, column + tokens.ids.shape[1], token)


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
    found = {}
    for name, path, g in zip(names, paths, gradients, strict=True):
        x = seen[path].input.detach()
        kept = (x != 0).any(-1) & (g != 0).any(-1)  # (rows, columns)
        rows = kept.nonzero()[:, 0].to(owner.device)
        found[name] = Factors(x[kept].to(owner.device).float(), g[kept].to(owner.device).float() / scale, owner[rows])
    return value.detach(), found


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
