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

from torch import Tensor

from core.lm.generate import fit
from core.lm.hooks import watched
from core.lm.model import LM
from core.lm.reads import Reads, joined
from core.lm.tokens import Row, encode
from editors._training.gradients import layer_of as layer_of
from editors._training.gradients import output_gradients
from editors._training.gradients import shapes_of as shapes_of
from editors.mend.network import Factors


def reads_of(lm: LM, pairs: Sequence[tuple[str, Row]]) -> Reads:
    """(prompt, answer) pairs, one row each; a prompt that does not fit with its answer loses tokens on its left."""
    rows = [joined(fit(lm, encode(lm, prompt), len(answer))[0], answer) for prompt, answer in pairs]
    return Reads.of(lm, rows, [answer for _, answer in pairs])


def shares(reads: Reads, update: Tensor, batch_loss: str) -> Tensor:
    """The weight (N,) that each target token's -log p has in the edit loss of its update; row r is of `update[r]`.

    "mean": 1 / target tokens of the update, so the loss is the mean over its tokens (the released code). "sum": 1 /
    target tokens of the edit, so the loss is the sum of its edits' own means and, as the network maps token by token,
    the update the sum of those that each edit would get alone (Mitchell et al., section 5.3).
    """
    owner = update[reads.row] if batch_loss == "mean" else reads.row
    return 1 / owner.bincount()[owner]


def gradient_factors(
    lm: LM, names: Sequence[str], loss: Callable[[], Tensor], owner: Tensor
) -> tuple[Tensor, dict[str, Factors]]:
    """The value of `loss()`, which runs the model on rows that belong to the updates `owner` (rows,), and its factors.

    Tokens at which x or g is zero (pads, what the loss does not depend on) are left out. float32, detached.
    """
    value, seen = output_gradients(lm, [name.removesuffix(".weight") for name in names], loss)
    factors = {}
    for name, both in zip(names, seen.values(), strict=True):
        x, g = both.input, both.output
        kept = (x != 0).any(-1) & (g != 0).any(-1)  # (rows, columns)
        rows = kept.nonzero()[:, 0].to(owner.device)
        x, g = (part[kept].to(owner.device).float() for part in (x, g))
        factors[name] = Factors(x, g / lm.loss_scale, owner[rows])
    return value, factors


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
