"""What MEMIT_seq, AlphaEdit and EMMET solve, as it is written down: f x f matrices, S = K_p K_p^T of past keys.

And the error feedback of The Labyrinth and the Thread: E in the space of the normal equations. Everything float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.lm.model import LM, orient
from core.lm.weights import add_, preserved
from core.types import Edit
from tests.reference import memit as naive

Mask = Callable[[Tensor, Tensor], Tensor]
"""Weight and delta, both (d, f) -> what of the delta stays."""


def projector(c: Tensor, threshold: float) -> Tensor:
    """P = U U^T, U the singular vectors of C whose value is below the threshold."""
    u, s, _ = torch.linalg.svd(c)
    return u[:, s < threshold] @ u[:, s < threshold].T


@dataclass
class Course:
    """One model, edited batch by batch. `method` says which system is solved; `matrices` are C or P of each layer."""

    lm: LM
    hp: Any
    templates: Sequence[str]
    method: str
    matrices: dict[int, Tensor]
    mask: Mask | None = None
    past: dict[int, Tensor] = field(default_factory=dict)
    error: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.past = {layer: torch.zeros_like(m) for layer, m in self.matrices.items()}

    def solve(self, layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        hp, m, square = self.hp, self.matrices[layer], keys @ keys.T
        eye = torch.eye(len(m), dtype=m.dtype)
        if self.method == "AlphaEdit":
            left = m @ (square + self.past[layer]) + hp.L2 * eye
            return torch.linalg.solve(left, m @ keys @ residual.T).T
        if self.method == "EMMET":
            inverse = torch.linalg.inv(hp.mom2_update_weight * m + hp.update_norm_lambda * eye)
            small = keys.T @ inverse @ keys
            small += hp.emmet_lambda * torch.eye(len(small), dtype=m.dtype) if len(small) > 1 else 0.0
            return residual @ torch.linalg.inv(small) @ keys.T @ inverse
        a = hp.mom2_update_weight * m + self.past[layer] + square
        wanted = residual @ keys.T - self.error.get(layer, torch.zeros(()).double())
        update = torch.linalg.solve(a, wanted.T).T
        if self.mask is not None:
            module = self.lm.module(self.lm.mlp_out(layer))
            now = orient(module, self.before[layer]).double()
            self.error[layer] = (self.mask(now, update) - update) @ a
        return update

    def step(self, edits: Sequence[Edit]) -> None:
        """Update the model: all layers are solved unmasked, keys are taken then, and what stays of it is added."""
        lm, names = self.lm, {layer: f"{self.lm.mlp_out(layer)}.weight" for layer in self.hp.layers}
        self.before = {layer: lm.model.get_parameter(name).clone() for layer, name in names.items()}
        deltas = naive.deltas(lm, self.hp, self.templates, {}, edits, self.solve)
        with preserved(lm.model, deltas):
            add_(lm.model, deltas)
            for layer in names:
                keys = torch.stack([naive.key(lm, self.templates, edit, layer) for edit in edits], 1).double()
                self.past[layer] = self.past[layer] + keys @ keys.T
        for layer, name in names.items():
            if self.mask is not None:
                module = lm.module(lm.mlp_out(layer))
                now, delta = (orient(module, t) for t in (self.before[layer], deltas[name]))
                deltas[name] = orient(module, self.mask(now, delta)).contiguous()
        add_(lm.model, deltas)
