"""MEMIT: many facts in one update, spread over the down projections of several layers.

Meng et al., *Mass-Editing Memory in a Transformer* (ICLR 2023), equations 14-20. Legend: l_1 < ... < l_m edited layers,
z_i (d) the wanted output of block l_m at the subject's last token of edit i, K (f, B) keys of the B edits, R (d, B)
what is left to add to reach z, spread over the layers still to come, C = E[k k^T] of the unedited model.

    Delta_l = R K^T (lambda C + K K^T)^-1        lambda = mom2_update_weight

solved in float64. Each layer sees the updates of the layers below it; between batches the weights stay, the keys of
earlier batches do not enter.

Differs from the released code: the z of several edits are optimised in one batch; C is factorised once per run and
(lambda C + K K^T)^-1 K = C^-1 K (lambda I + K^T C^-1 K)^-1, the same by the push-through identity, needs only a B x B
solve per update.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from core.errors import EditRefused, UserError
from core.lm.forward import final_states, resume
from core.lm.generate import in_batches
from core.lm.hooks import trace
from core.lm.model import LM, orient
from core.lm.tokens import Row, in_template, pad
from core.lm.weights import add_, at_hand, preserved
from core.types import Deltas, Edit, Mode
from editors._value import Batch, Prompts, TargetSettings, context_templates, optimise, prompts_of

Factor = tuple[Tensor, Tensor | None]
"""Cholesky factor and None, or LU factors and pivots."""


@dataclass(frozen=True, kw_only=True)
class MEMITSettings(TargetSettings):
    """Settings of MEMIT: those it shares with ROME and its own.

    `edit_batch` is how many edits are optimised at a time; it halves by itself where memory runs out.
    """

    mom2_update_weight: float
    context_template_length_params: tuple[tuple[int, int], ...] = ((10, 5),)
    edit_batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mom2_adjustment:
            raise ValueError("mom2_adjustment: MEMIT cannot do without second moments, expected true")
        if self.edit_batch < 1 or list(self.layers) != sorted(set(self.layers)):
            raise ValueError("expected edit_batch of 1 or more and layers in ascending order")


class MEMIT:
    """See the module's docstring."""

    name = "MEMIT"
    modes: frozenset[Mode] = frozenset({"Batch-Single", "Batch-Sequential"})
    hparams = MEMITSettings

    def __init__(self, lm: LM, hp: MEMITSettings) -> None:
        hp.check(lm)
        at_hand(lm.model, [f"{lm.mlp_out(layer)}.weight" for layer in hp.layers])
        self.lm, self.hp = lm, hp
        self.templates = hp.context_templates or context_templates(lm, hp.context_template_length_params)
        self.notes: dict[str, Any] = {}
        moments = hp.moments(lm)  # gigabytes of a large model: each is let go once it is factorised
        self.factors = {layer: factorise(moments.pop(layer), f"second moments of layer {layer}") for layer in hp.layers}

    def deltas(self, edits: Sequence[Edit]) -> Deltas:
        """The update for all `edits` at once. The model is the same before and after."""
        warn_of_conflicts(edits)
        lm, layers = self.lm, self.hp.layers
        names = {layer: f"{lm.mlp_out(layer)}.weight" for layer in layers}
        deltas: Deltas = {}
        self.notes = {}
        z = self._targets(edits)  # (d, B)
        with preserved(lm.model, names.values()):
            for position, layer in enumerate(layers):
                keys, reached = self._state(edits, layer)  # (f, B), (d, B)
                residual = (z - reached) / (len(layers) - position)
                update = spread(self.factors[layer], keys, residual, self.hp.mom2_update_weight)
                deltas[names[layer]] = orient(lm.module(lm.mlp_out(layer)), update.float()).contiguous()
                add_(lm.model, {names[layer]: deltas[names[layer]]})
                self.notes[f"distance to z before layer {layer}"] = float((z - reached).norm(dim=0).mean())
        return deltas

    def _targets(self, edits: Sequence[Edit]) -> Tensor:
        """z of each edit, (d, B) float64: the vector that, as output of the last edited block, yields the target."""
        prompts = [prompts_of(self.lm, edit, self.templates) for edit in edits]
        order = sorted(range(len(edits)), key=lambda i: max(map(len, prompts[i].rows)))  # little padding per batch
        z: dict[int, Tensor] = {}
        losses: dict[int, list[float]] = {}
        size = self.hp.edit_batch
        with tqdm(total=len(edits), desc="optimising z", unit="edit", leave=False, disable=len(edits) < 2) as bar:
            while len(z) < len(edits):
                batch = order[len(z) : len(z) + size]
                try:
                    found, traces = self._optimised([prompts[i] for i in batch])
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
                    size = max(1, len(batch) // 2)
                    torch.cuda.empty_cache()
                    continue
                z.update(zip(batch, found, strict=True))
                losses.update(zip(batch, traces, strict=True))
                bar.update(len(batch))
        self.notes["loss_last"] = [losses[i][-1] for i in range(len(edits))]
        self.notes["forwards"] = [len(losses[i]) for i in range(len(edits))]
        return torch.stack([z[i] for i in range(len(edits))], 1).double()

    def _optimised(self, prompts: list[Prompts]) -> tuple[Tensor, list[list[float]]]:
        """z (B, d) float32 of a few edits, and the losses on the way."""
        lm, last = self.lm, self.hp.layers[-1]
        batch, block = Batch(lm, prompts), lm.block(last)
        points, seen = resume(lm, batch.reads.tokens, range(last, last + 1), batch.column, block)
        h0 = seen[block].output[:: batch.rows_each, batch.column]  # the bare prompts, (B, d)
        found = optimise(batch, points[last], block, h0, self.hp, self.hp.v_loss_layer)
        return h0.float() + found.delta, found.losses

    @torch.no_grad()
    def _state(self, edits: Sequence[Edit], layer: int) -> tuple[Tensor, Tensor]:
        """With the weights as they are now: keys at `layer` (f, B) and the last edited block's output (d, B), float64.

        A key is the mean of that of the bare prompt and of the mean over the other templates.
        """
        lm, out, block = self.lm, self.lm.mlp_out(layer), self.lm.block(self.hp.layers[-1])
        rows: list[Row] = []
        for edit in edits:
            for template in self.templates:
                ids, at = in_template(lm, template, edit)
                rows.append(ids[: at + 1])

        def work(batch: list[Row]) -> list[tuple[Tensor, Tensor]]:
            tokens = pad(lm, batch)
            with trace(lm.model, out, block, stop=True) as seen:
                final_states(lm, tokens)
            return list(zip(seen[out].input[:, -1].double(), seen[block].output[:, -1].double(), strict=True))

        keys, reached = zip(*in_batches(rows, work, lm, len), strict=True)
        grouped = torch.stack(keys).view(len(edits), len(self.templates), -1)  # (B, N, f)
        mean = grouped[:, 0] if len(self.templates) == 1 else (grouped[:, 0] + grouped[:, 1:].mean(1)) / 2
        return mean.T, torch.stack(reached[:: len(self.templates)], 1)


def factorise(c: Tensor, what: str) -> Factor:
    """Factors of the symmetric C (f, f) float64: Cholesky; LU, and a notice, where C is not positive definite."""
    lower, failed = torch.linalg.cholesky_ex(c)
    if not failed:
        return lower, None
    print(f"{what}: not positive definite, solving by LU; more documents (mom2_n_samples) mend this", file=sys.stderr)
    factors, pivots, _ = torch.linalg.lu_factor_ex(c)
    if not factors.diagonal().abs().min() > 0:
        raise UserError(f"{what}: singular, collected over too few tokens; raise mom2_n_samples")
    return factors, pivots


def spread(factor: Factor, keys: Tensor, residual: Tensor, weight: float) -> Tensor:
    """R K^T (weight C + K K^T)^-1, (d, f) float64, from the factors of C, K (f, B) and R (d, B)."""
    lower, pivots = factor
    device = keys.device
    solved = (
        torch.cholesky_solve(keys.to(lower), lower)
        if pivots is None
        else torch.linalg.lu_solve(*factor, keys.to(lower))
    )
    small = (
        weight * torch.eye(keys.shape[1], dtype=lower.dtype, device=lower.device) + keys.to(lower).T @ solved
    )  # (B, B)
    try:
        right = torch.linalg.solve(small, residual.to(lower).T)  # small is symmetric
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise EditRefused(f"lambda I + K^T C^-1 K cannot be solved with ({str(error).splitlines()[0]})") from error
    update: Tensor = (solved @ right).T
    return update.to(device)


def warn_of_conflicts(edits: Sequence[Edit]) -> None:
    """One line on stderr for two edits of a batch that want different answers to the same prompt."""
    seen: dict[tuple[str, str], Edit] = {}
    for edit in edits:
        other = seen.setdefault((edit.subject, edit.prompt), edit)
        if other.target != edit.target:
            tqdm.write(
                f"warning: edits {other.index} and {edit.index} of one batch want both {other.target!r} and "
                f"{edit.target!r} after {edit.prompt!r}",
                file=sys.stderr,
            )


EDITOR = MEMIT
