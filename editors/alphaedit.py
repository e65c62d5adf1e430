"""AlphaEdit: MEMIT whose updates stay where the unedited model's keys hardly reach.

Fang et al., *AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models* (ICLR 2025). In the legend of
editors/_spread.py, with P (f, f) the projection onto the kept space, spanned by the directions in which C = E[k k^T] of
the unedited model is small, and K_p the keys of all earlier edits:

    Delta_l = R K^T P (K_p K_p^T P + K K^T P + L2 I)^-1

P is made once, of the unedited model. Directions are kept where the eigenvalue of C is below `nullspace_threshold`, as
released: an absolute number, which depends on how long a model's keys are and so must be set for each model. With
`nullspace_share` (ours) the directions of the smallest eigenvalues are kept that hold no more than this share of C's
trace. How many dimensions that gives is said for each layer, and is in the notes of the first update; none or all is
refused, as that is no update, or no protection.

Differs from the released code: the same update is worked out as R K~^T (L2 I + K~_p K~_p^T + K~ K~^T)^-1 with K~ = P K,
by solves as large as the number of edits, in float64 (there an f x f solve per layer and update, in float32, of a
matrix that is not symmetric); of the two spaces the smaller one's basis is kept. The paper has L2 = 1, the code 10.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from core.errors import UserError
from core.lm.moments import second_moments
from core.types import Notes
from editors._spread import SpreadEditor, SpreadSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AlphaEditSettings(SpreadSettings):
    """Settings of AlphaEdit: those it shares with MEMIT and its own."""

    READ_PAST: ClassVar[tuple[str, ...]] = ("mom2_update_weight",)  # which the released code does not use

    L2: float
    nullspace_threshold: float | None = None
    nullspace_share: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.nullspace_threshold is None) == (self.nullspace_share is None):
            raise ValueError("nullspace_threshold, nullspace_share: expected one of the two")
        if not self.L2 > 0:
            raise ValueError("L2: expected more than 0")
        if self.nullspace_share is not None and not 0 < self.nullspace_share < 1:
            raise ValueError("nullspace_share: expected a share between 0 and 1")

    def kept(self, values: Tensor) -> int:
        """How many of C's eigenvalues, in ascending order, count as small."""
        if self.nullspace_threshold is not None:
            return int((values < self.nullspace_threshold).sum())
        assert self.nullspace_share is not None
        held = values.clamp(min=0).cumsum(0)
        return int((held <= self.nullspace_share * held[-1]).sum())


@dataclass(frozen=True)
class Space:
    """A space of R^f, by an orthonormal `basis` (f, n) of it, or of what is orthogonal to it if `beside`."""

    basis: Tensor
    beside: bool

    def solve(self, right: Tensor) -> Tensor:
        """P of `right` (f, B): what of it lies in the space, (f, B) float64. P takes the place of M^-1."""
        right = right.to(self.basis)
        inside = self.basis @ (self.basis.T @ right)
        return right - inside if self.beside else inside

    @property
    def dimensions(self) -> int:
        f, n = self.basis.shape
        return f - n if self.beside else n


class AlphaEdit(SpreadEditor):
    """See the module's docstring."""

    name = "AlphaEdit"
    modes = frozenset({"Batch-Single", "Batch-Sequential"})
    hparams = AlphaEditSettings
    hp: AlphaEditSettings
    moments: dict[int, Space]

    def weight(self, edits: int) -> float:
        return self.hp.L2

    @property
    def remembers(self) -> bool:
        return True

    def measured(self) -> dict[int, Space]:
        moments, spaces = second_moments(self.lm, self.hp.layers, self.hp.corpus), dict[int, Space]()
        for layer in self.hp.layers:
            spaces[layer] = kept_space(moments.pop(layer), self.hp, f"AlphaEdit, layer {layer}")
        return spaces

    def about(self) -> Notes:
        dimensions = {str(layer): space.dimensions for layer, space in self.moments.items()}
        return {**super().about(), "dimensions": dimensions}


def kept_space(c: Tensor, hp: AlphaEditSettings, what: str) -> Space:
    """Where C (f, f) float64 is small by the settings. UserError if that is nowhere or everywhere."""
    values, vectors = torch.linalg.eigh(c)  # ascending
    n, f = hp.kept(values), len(values)
    if n in (0, f):
        ends = f"C has eigenvalues from {values[0]:.3g} to {values[-1]:.3g}, trace {values.sum():.3g}"
        left = "no update could change anything" if n == 0 else "nothing would be protected"
        raise UserError(f"{what}: {n} of {f} dimensions are kept, so that {left}; {ends}")
    edge = f"eigenvalues of C below {values[n]:.3g}, {values[:n].clamp(min=0).sum() / values.sum():.2g} of its trace"
    logger.info("%s: updates keep to %d of %d dimensions (%s)", what, n, f, edge)
    return Space(vectors[:, n:].clone(), True) if 2 * n > f else Space(vectors[:, :n].clone(), False)


EDITOR = AlphaEdit
