"""ROME: a rank-one change of one MLP's down projection that makes it map the subject's key to a chosen value.

Meng et al., *Locating and Editing Factual Associations in GPT* (NeurIPS 2022), equations 2-4. Legend: k (f) input of
the down projection W at the subject's last token, kbar its mean over the context templates, C = E[k k^T], o the output
of W, v* the value that makes the model say the target, u = C^-1 kbar / |C^-1 kbar|.

    W' = W + (v* - o) / (k . u)  u^T          so that (W' k) = v*

u comes from kbar and the denominator from k of the bare prompt; where they disagree the update explodes. That is the
method as published; `key: mean` takes kbar for both (r-ROME). The denominator is in the result file.

Differs from the released code: one edit's keys, its unedited output and the constants of its optimisation come from a
single forward pass; the subject is its last occurrence in the prompt; C is solved with, not inverted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from core.errors import EditRefused, UserError
from core.lm.forward import resume
from core.lm.model import LM, orient
from core.lm.weights import add_, at_hand, preserved
from core.types import Deltas, Edit, Mode
from editors._value import Batch, TargetSettings, context_templates, optimise, prompts_of

SMALLEST = 1e-6
"""|k . u| / |k| from which on an edit is refused: float32 sums thousands of terms to about that, the sign is noise."""


@dataclass(frozen=True, kw_only=True)
class ROMESettings(TargetSettings):
    """Settings of ROME: those it shares with MEMIT and its own."""

    context_template_length_params: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    key: Literal["prompt", "mean"] = "prompt"


class ROME:
    """See the module's docstring. `notes` holds numbers about the latest update, for the result file."""

    name = "ROME"
    modes: frozenset[Mode] = frozenset({"Instance-Sequential"})
    hparams = ROMESettings

    def __init__(self, lm: LM, hp: ROMESettings) -> None:
        hp.check(lm)
        at_hand(lm.model, [f"{lm.mlp_out(layer)}.weight" for layer in hp.layers])
        self.lm, self.hp = lm, hp
        self.templates = hp.context_templates or context_templates(lm, hp.context_template_length_params)
        self.notes: dict[str, Any] = {}
        self.factors: dict[int, tuple[Tensor, Tensor]] = {}
        if hp.mom2_adjustment:
            moments = hp.moments(lm)  # gigabytes of a large model: each is let go once it is factorised
            self.factors = {layer: factorise(moments.pop(layer), layer) for layer in dict.fromkeys(hp.layers)}

    def deltas(self, edits: Sequence[Edit]) -> Deltas:
        """The update for one edit: {weight name: rank-one change}. The model is the same before and after."""
        (edit,) = edits
        lm, names = self.lm, {layer: f"{self.lm.mlp_out(layer)}.weight" for layer in self.hp.layers}
        deltas: Deltas = {}
        self.notes = {}
        with preserved(lm.model, names.values()):
            for layer, name in sorted(names.items()):  # each layer on top of the ones below
                u, v = self._factors_of(edit, layer)
                deltas[name] = orient(lm.module(lm.mlp_out(layer)), torch.outer(v, u)).contiguous()
                add_(lm.model, {name: deltas[name]})
        return deltas

    def _factors_of(self, edit: Edit, layer: int) -> tuple[Tensor, Tensor]:
        """u (f,) and (v* - o) / (k . u) (d,) of the update at one layer, float32."""
        lm, out = self.lm, self.lm.mlp_out(layer)
        batch = Batch(lm, [prompts_of(lm, edit, self.templates)])
        points, seen = resume(lm, batch.reads.tokens, range(layer, layer + 1), batch.column, lm.mlp(layer), out)
        keys = seen[out].input[:-1, batch.column].float()  # (N, f), the KL row left out
        h0 = seen[lm.mlp(layer)].output[:1, batch.column]  # (1, d), the bare prompt
        u = self._direction(keys.mean(0), layer)
        found = optimise(batch, points[layer], lm.mlp(layer), h0, self.hp)
        key = keys.mean(0) if self.hp.key == "mean" else keys[0]
        denominator = key @ u
        if not denominator.abs() >= SMALLEST * key.norm():
            raise EditRefused(f"layer {layer}: the denominator k . u is {denominator:.3g} with |k| = {key.norm():.3g}")
        v = (h0[0].float() + found.delta[0] - seen[out].output[0, batch.column].float()) / denominator
        self.notes[f"layer {layer}"] = {
            "denominator": float(denominator),
            "loss_first": found.losses[0][0],
            "loss_last": found.losses[0][-1],
            "forwards": len(found.losses[0]),
        }
        return u, v

    def _direction(self, kbar: Tensor, layer: int) -> Tensor:
        """C^-1 kbar (or kbar, without mom2_adjustment), normalised: (f,) -> (f,)."""
        if self.hp.mom2_adjustment:
            right = kbar.double().cpu().unsqueeze(1)
            kbar = torch.linalg.lu_solve(*self.factors[layer], right).squeeze(1).to(kbar)
        u: Tensor = kbar / kbar.norm()
        return u


def factorise(c: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """LU factors and pivots of C (f, f) float64. UserError if it is singular."""
    factors, pivots, _ = torch.linalg.lu_factor_ex(c)
    if not factors.diagonal().abs().min() > 0:
        raise UserError(
            f"second moments of layer {layer}: singular, collected over too few tokens; raise mom2_n_samples"
        )
    return factors, pivots


EDITOR = ROME
