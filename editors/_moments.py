"""What an update should leave alone, as a matrix that is solved with: second moments, and the keys of past edits."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from core.errors import EditRefused, UserError
from core.lm.model import LM
from core.lm.moments import Corpus, second_moments

SMALLEST = 1e-6
"""Share of an input's second moment that the others must leave unexplained: float32 sums err by about that."""


class Solver(Protocol):
    """A symmetric matrix M (f, f), never inverted."""

    def solve(self, right: Tensor) -> Tensor:
        """M^-1 of `right` (f, B): (f, B) float64, where M is."""
        ...


@dataclass(frozen=True)
class Factors:
    """C (f, f) float64 as its Cholesky factor, or as LU factors and pivots where it is not positive definite."""

    matrix: Tensor
    pivots: Tensor | None = None

    def solve(self, right: Tensor) -> Tensor:
        """C^-1 of `right` (f, B): (f, B) float64, where the factors are."""
        right = right.to(self.matrix)
        solved: Tensor
        if self.pivots is None:  # `cholesky_solve` does the same on a copy of the factor, which takes longer than both
            half = torch.linalg.solve_triangular(self.matrix, right, upper=False)
            solved = torch.linalg.solve_triangular(self.matrix.mT, half, upper=True)
        else:
            solved = torch.linalg.lu_solve(self.matrix, self.pivots, right)
        return solved


@dataclass(frozen=True)
class Past:
    """M + K K^T / weight, ready to be solved with: M, and on top of it the keys K (f, N) of past edits.

    Kept of them are `solved`, M^-1 K (f, N), and `inner`, (weight I + K^T M^-1 K)^-1 (N, N), which is what Woodbury's
    identity needs; from where these take more room than an f x f matrix, `inverse`, that of the whole (f, f), is kept
    instead. All float64; each update adds to them and solves no more than its own B x B system.
    """

    base: Solver
    weight: float
    solved: Tensor | None = None
    inner: Tensor | None = None
    inverse: Tensor | None = None

    def solve(self, right: Tensor) -> Tensor:
        """As `base`, to the bit, while there are no past edits."""
        return self.inverse @ right.to(self.inverse) if self.inverse is not None else self._woodbury(right)[0]

    def grown(self, keys: Tensor) -> "Past":
        """With `keys` (f, B) of further edits. EditRefused where these numbers do not allow it."""
        keys = keys.to("cpu", torch.float64)
        if self.inverse is not None:
            held = self.inverse @ keys
            return replace(self, inverse=self.inverse - held @ self._corner(keys, held) @ held.T)
        held, fresh, side = self._woodbury(keys)  # (f, B), (f, B), (N, B)
        corner = self._corner(keys, held)  # (B, B)
        if self.solved is None or self.inner is None or side is None:
            return replace(self, solved=fresh, inner=corner)._folded()
        border = -side @ corner
        inner = torch.cat([torch.cat([self.inner - border @ side.T, border], 1), torch.cat([border.T, corner], 1)])
        return replace(self, solved=torch.cat([self.solved, fresh], 1), inner=inner)._folded()

    def state(self) -> dict[str, Tensor]:
        """What is kept, by the fields' names."""
        kept = {name: getattr(self, name) for name in ("solved", "inner", "inverse")}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}

    def _woodbury(self, right: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The whole solved for `right` (f, B), M solved for it, and what of it the past keys take, (N, B)."""
        fresh = self.base.solve(right)
        if self.solved is None or self.inner is None:
            return fresh, fresh, None
        side = self.inner @ (self.solved.T @ right.to(fresh))
        return fresh - self.solved @ side, fresh, side

    def _corner(self, keys: Tensor, held: Tensor) -> Tensor:
        """(weight I + K^T `held`)^-1, (B, B)."""
        small = self.weight * torch.eye(held.shape[1], dtype=held.dtype) + keys.T @ held
        inverse: Tensor
        inverse, failed = torch.linalg.inv_ex(small)
        if failed or not inverse.isfinite().all():
            raise EditRefused("these keys cannot be remembered: lambda I + K^T C^-1 K has no inverse")
        return inverse

    def _folded(self) -> "Past":
        """One f x f matrix instead of more."""
        assert self.solved is not None and self.inner is not None
        if self.solved.numel() + self.inner.numel() <= len(self.solved) ** 2:
            return self
        whole = self.base.solve(torch.eye(len(self.solved), dtype=torch.float64))
        return replace(self, solved=None, inner=None, inverse=whole - self.solved @ self.inner @ self.solved.T)


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


def factorised(
    lm: LM, layers: Sequence[int], corpus: Corpus, strict: bool = False, ridge: float = 0.0
) -> dict[int, Factors]:
    """C + ridge I of each layer, ready to be solved with.

    UserError for one that is singular, if `strict` also nearly so.
    """
    moments = load(lm, layers, corpus)  # gigabytes of a large model: each is let go once it is factorised
    for c in moments.values():
        c.diagonal().add_(ridge)
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
