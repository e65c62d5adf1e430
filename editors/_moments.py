"""Second moments C = E[k k^T] of the edited layers: loaded, factorised once, and solved with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UserError
from core.lm.model import LM
from core.lm.moments import Corpus, second_moments

SMALLEST = 1e-6
"""Share of an input's second moment that the others must leave unexplained: float32 sums err by about that."""


@dataclass(frozen=True)
class Factors:
    """C (f, f) float64 as its Cholesky factor, or as LU factors and pivots where it is not positive definite."""

    matrix: Tensor
    pivots: Tensor | None = None

    def solve(self, right: Tensor) -> Tensor:
        """C^-1 of `right` (f, B): (f, B) float64, where the factors are."""
        right = right.to(self.matrix)
        solved: Tensor = (
            torch.cholesky_solve(right, self.matrix)
            if self.pivots is None
            else torch.linalg.lu_solve(self.matrix, self.pivots, right)
        )
        return solved


def load(lm: LM, layers: Sequence[int], corpus: Corpus) -> dict[int, Tensor]:
    """C of each layer, (f, f) float64 on the CPU.

    A neuron that never fired over the corpus (behind a ReLU, some never do) has only zeros, and C no inverse: it gets 1
    on the diagonal, and a key that is zero there too changes nothing of what it writes.
    """
    moments = second_moments(lm, layers, corpus)
    for c in moments.values():
        diagonal = c.diagonal()
        diagonal[diagonal == 0] = 1.0
    return moments


def factorised(lm: LM, layers: Sequence[int], corpus: Corpus, strict: bool = False) -> dict[int, Factors]:
    """C of each layer, ready to be solved with. UserError for one that is singular, if `strict` also nearly so."""
    moments = load(lm, layers, corpus)  # gigabytes of a large model: each is let go once it is factorised
    named = {layer: f"second moments of layer {layer}" for layer in layers}
    return {layer: factorise(moments.pop(layer), name, strict) for layer, name in named.items()}


def factorise(c: Tensor, what: str, strict: bool = False) -> Factors:
    """Factors of the symmetric C (f, f) float64: Cholesky; LU where C is not positive definite.

    That, and an input that the others tell but for rounding, is a warning, if `strict` a UserError; so is a C that is
    singular. `what` names C in all of them.
    """
    lower, failed = torch.linalg.cholesky_ex(c)
    if not failed and (lower.diagonal() ** 2 >= SMALLEST * c.diagonal()).all():
        return Factors(lower)
    if strict:
        raise UserError(f"{what}: near-singular, collected over too few or too similar tokens; raise mom2_n_samples")
    fault = "not positive definite, solving by LU" if failed else "near-singular"
    logging.getLogger(__name__).warning("%s: %s; more documents (mom2_n_samples) mend this", what, fault)
    if not failed:
        return Factors(lower)
    matrix, pivots, _ = torch.linalg.lu_factor_ex(c)
    if not matrix.diagonal().abs().min() > 0:
        raise UserError(f"{what}: singular, collected over too few tokens; raise mom2_n_samples")
    return Factors(matrix, pivots)
