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

import torch
from torch import Tensor
from tqdm import tqdm

from core.errors import EditRefused
from core.lm.batches import in_batches
from core.lm.forward import final_states, resume
from core.lm.hooks import trace
from core.lm.model import orient
from core.lm.tokens import Row, in_template, pad
from core.lm.weights import add_, preserved
from core.types import Deltas, Edit, Notes
from editors._moments import Factors
from editors._value import Batch, Prompts, TargetEditor, TargetSettings, optimise, prompts_of


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


class MEMIT(TargetEditor):
    """See the module's docstring. Notes: per edit the last loss and the number of forward passes, per layer how far
    the edits are from z before it."""

    name = "MEMIT"
    modes = frozenset({"Batch-Single", "Batch-Sequential"})
    hparams = MEMITSettings
    strict = False
    edit_batch = True
    hp: MEMITSettings

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The update for all `edits` at once. The model is the same before and after."""
        warn_of_conflicts(edits)
        lm = self.lm
        deltas: Deltas = {}
        z, notes = self._targets(edits)  # (d, B)
        with preserved(lm.model, self.names.values()):
            for position, (layer, name) in enumerate(self.names.items()):
                keys, reached = self._state(edits, layer)  # (f, B), (d, B)
                residual = (z - reached) / (len(self.names) - position)
                update = spread(self.moments[layer], keys, residual, self.hp.mom2_update_weight)
                deltas[name] = orient(lm.module(lm.mlp_out(layer)), update.float()).contiguous()
                add_(lm.model, {name: deltas[name]})
                notes[f"distance to z before layer {layer}"] = float((z - reached).norm(dim=0).mean())
        return deltas, notes

    def _targets(self, edits: Sequence[Edit]) -> tuple[Tensor, Notes]:
        """z of each edit, (d, B) float64: the vector that, as output of the last edited block, yields the target.

        And what is to be noted of the search for them.
        """
        prompts = [prompts_of(self.lm, edit, self.templates) for edit in edits]
        order = sorted(range(len(edits)), key=lambda i: max(map(len, prompts[i].rows)))  # little padding per batch
        z: dict[int, Tensor] = {}
        losses: dict[int, list[float]] = {}
        size = self.hp.edit_batch
        with tqdm(total=len(edits), desc="optimising z", unit="edit", leave=False, disable=len(edits) < 2) as bar:
            while len(z) < len(edits):
                batch = order[len(z) : len(z) + size]
                try:
                    values, traces = self._optimised([prompts[i] for i in batch])
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
                    size = max(1, len(batch) // 2)
                    torch.cuda.empty_cache()
                    continue
                z.update(zip(batch, values, strict=True))
                losses.update(zip(batch, traces, strict=True))
                bar.update(len(batch))
        every = range(len(edits))
        notes = {"loss_last": [losses[i][-1] for i in every], "forwards": [len(losses[i]) for i in every]}
        return torch.stack([z[i] for i in every], 1).double(), notes

    def _optimised(self, prompts: list[Prompts]) -> tuple[Tensor, list[list[float]]]:
        """z (B, d) float32 of a few edits, and the losses on the way."""
        lm, last = self.lm, self.hp.layers[-1]
        batch, block = Batch(lm, prompts), lm.block(last)
        points, seen = resume(lm, batch.reads.tokens, range(last, last + 1), batch.column, block)
        h0 = seen[block].output[:: batch.rows_each, batch.column]  # the bare prompts, (B, d)
        best = optimise(batch, points[last], block, h0, self.hp, max(self.hp.v_loss_layer, last))
        return h0.float() + best.delta, best.losses

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

        keys, reached = zip(*in_batches(rows, work, lm, len, what="keys"), strict=True)
        grouped = torch.stack(keys).view(len(edits), len(self.templates), -1)  # (B, N, f)
        mean = grouped[:, 0] if len(self.templates) == 1 else (grouped[:, 0] + grouped[:, 1:].mean(1)) / 2
        return mean.T, torch.stack(reached[:: len(self.templates)], 1)


def spread(moments: Factors, keys: Tensor, residual: Tensor, weight: float) -> Tensor:
    """R K^T (weight C + K K^T)^-1 (equation 14), (d, f) float64, from the factors of C, K (f, B) and R (d, B).

    EditRefused where the system cannot be solved.
    """
    solved = moments.solve(keys)  # C^-1 K, (f, B)
    eye = torch.eye(keys.shape[1], dtype=solved.dtype, device=solved.device)
    small = weight * eye + keys.to(solved).T @ solved  # (B, B)
    try:
        right = torch.linalg.solve(small, residual.to(solved).T)  # small is symmetric
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise EditRefused(f"lambda I + K^T C^-1 K cannot be solved with ({str(error).splitlines()[0]})") from error
    update: Tensor = (solved @ right).T
    return update.to(keys.device)


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
