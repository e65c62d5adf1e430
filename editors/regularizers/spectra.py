"""Regularisers that look at singular values: low rank, PRUNE, SPHERE. All of matrices as (outputs, inputs), float32."""

import math

import torch
from torch import Tensor

BASES = {"log": math.e, "log2": 2.0, "log1_5": 1.5, "log1_2": 1.2}
"""Variants of PRUNE by their logarithm's base."""


def low_rank(delta: Tensor, rank: int) -> Tensor:
    """The best approximation of D (m, n) of that rank: a rank-one update stays as it is."""
    if delta.dim() < 2:
        return delta
    u, s, v = torch.linalg.svd(delta.float(), full_matrices=False)
    low: Tensor = (u[:, :rank] * s[:rank]) @ v[:rank]
    return low.to(delta)


def prune(delta: Tensor, unedited: Tensor, variant: str) -> Tensor:
    """PRUNE: D with its singular values s drawn towards b, the largest of the unedited weight, where s >= b.

    log_a(s) - log_a(b) + b for a logarithm to base a, (s + b) / 2 if `linear`. D itself where none is that large.
    """
    bound = torch.linalg.matrix_norm(unedited.to(delta.device, torch.float32), 2)
    u, s, v = torch.linalg.svd(delta.float(), full_matrices=False)
    over = s >= bound
    if not over.any():
        return delta
    s = s[over]
    less = (s - bound) / 2 if variant == "linear" else s - bound - (s / bound).log() / math.log(BASES[variant])
    restrained: Tensor = delta - ((u[:, over] * less) @ v[over]).to(delta)
    return restrained


def sphere(weight: Tensor, delta: Tensor, share: float, strength: float) -> Tensor:
    """SPHERE: D (m, n) without `strength` of what it writes along the main directions of W's rows.

    Those are the first right singular vectors of W with its rows scaled to length 1: as many as hold the `share` of
    the squared singular values, and one more.
    """
    rows = weight.to(delta.device, torch.float32)
    _, s, v = torch.linalg.svd(rows / (rows.norm(dim=1, keepdim=True) + 1e-8), full_matrices=False)
    held = s.square().cumsum(0) / s.square().sum()
    main = v[: int((held <= share).sum()) + 1].to(delta)  # (r, n)
    damped: Tensor = delta - strength * (delta @ main.T) @ main
    return damped
