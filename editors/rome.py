"""ROME: a rank-one change of one MLP's down projection that makes it map the subject's key to a chosen value.

Meng et al., *Locating and Editing Factual Associations in GPT* (NeurIPS 2022), equations 2-4. Legend: k (f) input of
the down projection W at the subject's last token, kbar its mean over the context templates, C = E[k k^T], o the output
of W, v* the value that makes the model say the target, u = C^-1 kbar / |C^-1 kbar|.

    W' = W + (v* - o) / (k . u)  u^T          so that (W' k) = v*

u comes from kbar, k and o from the bare prompt; where the two keys disagree the update explodes. That is the method as
published. Gupta et al., *Rebuilding ROME* (2024), take one key for all: with `key: mean` (r-ROME) k is kbar and o its
mean over the templates too, so that (W' kbar) = v*; with `key: bare` (p-ROME) u comes from the bare prompt as well. The
denominator is in the result file.

Differs from the released code: one edit's keys, its unedited output and the constants of its optimisation come from a
single forward pass; the subject is its last occurrence in the prompt, as a whole word if there is one; C is solved
with, not inverted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from core.errors import EditRefused
from core.lm.forward import resume
from core.lm.model import orient
from core.lm.weights import add_, preserved
from core.types import Deltas, Edit, Notes
from editors._moments import Solver
from editors._value.prompts import Batch, prompts_of
from editors._value.search import anchored, optimise
from editors._value.settings import TargetEditor, TargetSettings

SMALLEST = 1e-6
"""|k . u| / |k| from which on an edit is refused: float32 sums thousands of terms to about that, the sign is noise."""


@dataclass(frozen=True, kw_only=True)
class ROMESettings(TargetSettings):
    """Settings of ROME: those it shares with MEMIT and its own."""

    VARIANTS: ClassVar[dict[str, dict[str, str]]] = {"R-ROME": {"key": "mean"}}

    context_template_length_params: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    key: Literal["prompt", "mean", "bare"] = "prompt"


class ROME(TargetEditor):
    """See the module's docstring. Notes per layer: the denominator, first and last loss, number of forward passes."""

    name = "ROME"
    modes = frozenset({"Instance-Sequential"})
    hparams = ROMESettings
    strict = True  # u is C^-1 k: nothing is added to C
    hp: ROMESettings

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The update for one edit: {weight name: rank-one change}. The model is the same before and after."""
        (edit,) = edits
        lm = self.lm
        deltas: Deltas = {}
        notes: Notes = {}
        with preserved(lm.model, self.names.values()):
            for layer, name in self.names.items():  # each layer on top of the ones below
                update, notes[f"layer {layer}"] = self._update(edit, layer)
                deltas[name] = orient(lm.module(lm.mlp_out(layer)), update).contiguous()
                add_(lm.model, {name: deltas[name]})
        return deltas, notes

    def _update(self, edit: Edit, layer: int) -> tuple[Tensor, Notes]:
        """The change of W at one layer, (d, f) float32, and numbers about it."""
        lm, out = self.lm, self.lm.mlp_out(layer)
        batch = Batch(lm, [prompts_of(lm, edit, self.templates)])
        points, seen = resume(lm, batch.reads.tokens, range(layer, layer + 1), batch.column, lm.mlp(layer), out)
        keys = seen[out].input[:-1, batch.column].float()  # (N, f), the KL row left out
        along, key, o = chosen(self.hp.key, keys, seen[out].output[:-1, batch.column].float())
        h0 = seen[lm.mlp(layer)].output[:1, batch.column]  # (1, d), the bare prompt
        best = optimise(batch, points[layer], lm.mlp(layer), h0, self.hp)
        shift, lengths = anchored(best.delta, h0, self.hp)
        change = h0[0].float() + shift[0] - o  # v* - o, (d,)
        try:
            update, denominator = rank_one(key, along, change, self.moments.get(layer))
        except EditRefused as error:
            raise EditRefused(f"layer {layer}: {error}") from error
        losses = best.losses[0]
        notes = {
            "denominator": denominator,
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "forwards": len(losses),
            "v_norm": lengths[0],
        }
        return update, notes


def chosen(rule: str, keys: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The key that u comes from (f,), k (f,) and o (d,), by the setting `key`.

    `keys` (N, f) and `outputs` (N, d) are those of the down projection in each template, the bare prompt first.
    """
    along = keys[0] if rule == "bare" else keys.mean(0)
    return (along, along, outputs.mean(0)) if rule == "mean" else (along, keys[0], outputs[0])


def rank_one(key: Tensor, along: Tensor, change: Tensor, moments: Solver | None) -> tuple[Tensor, float]:
    """(v* - o) / (k . u) u^T (equation 2), (d, f), and its denominator k . u.

    k and `along` are (f,), `change` is v* - o (d,); u is C^-1 `along`, or `along` without the `moments` C, scaled to
    length 1. EditRefused where the denominator is no more than rounding.
    """
    direction = along if moments is None else moments.solve(along.unsqueeze(1)).squeeze(1).to(along)
    u = direction / direction.norm()  # (f,)
    denominator = key @ u
    if not denominator.abs() >= SMALLEST * key.norm():
        raise EditRefused(f"the denominator k . u is {denominator:.3g} with |k| = {key.norm():.3g}")
    return torch.outer(change / denominator, u), float(denominator)


EDITOR = ROME
