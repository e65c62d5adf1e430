"""UltraEdit: one step of ridge regression on normalised gradients, with statistics that go on over the whole run.

Gu et al., *UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Large Language Models* (2025). Legend,
for one weight W (d, f) and the N tokens of an update (a turn): H (N, f) the inputs of its module, G (N, d) the
gradients of the targets' loss at its outputs, mean and std those of the rows [h, g] of every turn so far, this one
included, over all weights of one shape together:

    [h^, g^] = ([h, g] - mean) / (std + eps)        v = -lr |h^|^2 g^, the rows of V (N, d)
    Delta = V^T (H H^T + I)^-1 H                    so that H Delta^T is close to V

All weights of a turn come from the same backward pass. It needs no subject, no second moments and no value to search.

Differs from the released code: the sum of squares of n rows grows by (n - 1) times their unbiased variance (there by n
times, `released_variance: true`); the f x f solve (H^T H + I)^-1 H^T is the N x N one above, the same by the
push-through identity, where N is the smaller; positions count a row's own tokens; a first turn of one token, of which
there are no statistics, is refused (there NaN).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from core.errors import EditRefused
from core.lm.forward import final_states
from core.lm.model import LM, orient
from core.lm.reads import Reads, joined
from core.lm.weights import at_hand
from core.types import Deltas, Edit, Editor, Notes, Weight
from editors._training.gradients import Shape, output_gradients, rows_of, shapes_of

EPS = torch.finfo(torch.float32).eps
Rows = tuple[Tensor, Tensor]
"""H and G of one weight: (N, f) and (N, d)."""


@dataclass(frozen=True, kw_only=True)
class UltraEditSettings:
    """Settings of UltraEdit. `inner_params` are weights, or their modules as the released files name them.

    `batch_size_once` edits, the longest first, share a pass, whose loss is the mean over their targets' tokens; `token`
    says which rows are taken: where a target's token is read ("ans"), or all but pads ("mask").
    """

    SPELLED: ClassVar[dict[str, str]] = {"edit_modules": "inner_params"}
    READ_PAST: ClassVar[tuple[str, ...]] = ("editor_batch_size", "dropout", "no_grad_layers", "class_name")

    inner_params: tuple[Weight, ...]
    lr: float
    batch_size_once: int = 10
    token: Literal["ans", "mask"] = "ans"
    released_variance: bool = False

    def __post_init__(self) -> None:
        names = tuple(name if name.endswith(".weight") else f"{name}.weight" for name in self.inner_params)
        object.__setattr__(self, "inner_params", names)
        if not names or len(set(names)) < len(names):
            raise ValueError("inner_params: expected at least one weight, each named once")
        if not self.lr > 0 or self.batch_size_once < 1:
            raise ValueError("lr: expected more than 0; batch_size_once: 1 or more")


@dataclass(frozen=True)
class Running:
    """Of the n rows seen so far, in float64: their mean, and the sum of squared distances from it; both (f + d,)."""

    n: int
    mean: Tensor
    squares: Tensor

    def after(self, rows: Tensor, released: bool) -> "Running":
        """With `rows` (b, f + d) added: Chan et al.'s way to merge two samples. `released`: see `released_variance`."""
        rows, b = rows.double(), len(rows)
        n, mean = self.n + b, rows.mean(0)
        apart, own = mean - self.mean, (rows - mean).square().sum(0)
        own = own * b / (b - 1) if released and b > 1 else own
        return Running(n, self.mean + apart * b / n, self.squares + own + apart.square() * self.n * b / n)

    def normal(self, rows: Tensor) -> Tensor:
        """The rows, each entry by its own mean and deviation: (N, f + d) float32."""
        std = (self.squares / (self.n - 1)).sqrt()
        return ((rows - self.mean) / (std + EPS)).float()


class UltraEdit(Editor):
    """See the module's docstring. Notes: the loss before the update, the rows taken in it and so far."""

    name = "UltraEdit"
    modes = frozenset({"Instance-Sequential", "Batch-Single", "Batch-Sequential"})
    hparams = UltraEditSettings

    def __init__(self, lm: LM, hp: UltraEditSettings, seed: int = 0) -> None:
        self.lm, self.hp = lm, hp
        at_hand(lm.model, hp.inner_params)
        self.shapes = shapes_of(lm, hp.inner_params)
        self.running: dict[Shape, Running] = {}
        self.next: dict[Shape, Running] = {}

    @classmethod
    def suggested(cls, values: Mapping[str, Any], lm: LM, layer: int | None) -> dict[str, Any]:
        """`inner_params`: the down projections of the last three MLPs."""
        last = range(max(0, lm.n_layers - 3), lm.n_layers)
        return {**values, "inner_params": [f"{lm.mlp_out(at)}.weight" for at in last]}

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The update for one turn, float32. The model is only read, the statistics stay until it is applied."""
        loss, chunks = self._passes(edits)
        self.next = dict(self.running)
        for rows in chunks:
            for name, shape in self.shapes.items():
                both = torch.cat(rows[name], 1)
                start = Running(0, *both.new_zeros(2, both.shape[1], dtype=torch.float64))
                self.next[shape] = self.next.get(shape, start).after(both, self.hp.released_variance)
        deltas: Deltas = {}
        for name, shape in self.shapes.items():
            h, g = (torch.cat(parts) for parts in zip(*(rows[name] for rows in chunks), strict=True))
            if self.next[shape].n < 2:
                raise EditRefused("the first update has one target token, of which there are no statistics")
            update = self._update(h, g, self.next[shape])
            deltas[name] = orient(self.lm.module(name.removesuffix(".weight")), update).contiguous()
        return deltas, {"loss_before": loss, "rows": len(h), "rows_so_far": self.next[shape].n}

    def applied(self, edits: Sequence[Edit]) -> None:
        self.running = self.next

    def state(self) -> dict[str, Tensor]:
        """The statistics of each shape, e.g. "1536x576": count, mean and squares."""
        return {
            f"{f}x{d} {word}": value
            for (f, d), now in self.running.items()
            for word, value in (("count", torch.tensor(now.n)), ("mean", now.mean), ("squares", now.squares))
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.running = {}
        for shape in dict.fromkeys(self.shapes.values()) if state else ():
            count, mean, squares = (state[f"{shape[0]}x{shape[1]} {word}"] for word in ("count", "mean", "squares"))
            self.running[shape] = Running(int(count), mean.to(self.lm.device), squares.to(self.lm.device))

    def _passes(self, edits: Sequence[Edit]) -> tuple[float, list[dict[str, Rows]]]:
        """The mean loss over the edits' chunks, and per chunk the rows of each weight."""
        lm, names = self.lm, list(self.shapes)
        pairs = sorted(rows_of(lm, edits), key=lambda pair: len(joined(*pair)), reverse=True)
        losses, found = [], []
        for at in range(0, len(pairs), self.hp.batch_size_once):
            chunk = pairs[at : at + self.hp.batch_size_once]
            reads = Reads.of(lm, [joined(*pair) for pair in chunk], [target for _, target in chunk])

            def loss(reads: Reads = reads) -> Tensor:
                return -reads.wanted(reads.logp(lm, final_states(lm, reads.tokens))).mean()

            value, seen = output_gradients(lm, [name.removesuffix(".weight") for name in names], loss)
            losses.append(value.item())
            taken = (reads.row, reads.column) if self.hp.token == "ans" else (reads.tokens.mask.nonzero(as_tuple=True))
            rows = [(both.input.to(lm.device)[taken], both.output.to(lm.device)[taken]) for both in seen.values()]
            found.append({n: (h.float(), g.float() / lm.loss_scale) for n, (h, g) in zip(names, rows, strict=True)})
        return sum(losses) / len(losses), found

    def _update(self, h: Tensor, g: Tensor, running: Running) -> Tensor:
        """Delta of one weight, (d, f) float32, from its rows (N, f) and (N, d)."""
        normal = running.normal(torch.cat([h, g], 1))
        h_, g_ = normal[:, : h.shape[1]], normal[:, h.shape[1] :]
        v = -self.hp.lr * h_.square().sum(1, keepdim=True) * g_  # (N, d)
        return (v.double().T @ ridge(h.double())).float()


def ridge(h: Tensor) -> Tensor:
    """(H^T H + I)^-1 H^T, transposed: (N, f) for H (N, f). Solved in the smaller of the two dimensions."""
    n, f = h.shape
    wide = n <= f
    gram = h @ h.T if wide else h.T @ h
    solved: Tensor = torch.linalg.solve(gram + torch.eye(min(n, f)).to(h), h if wide else h.T)
    return solved if wide else solved.T


EDITOR = UltraEdit
