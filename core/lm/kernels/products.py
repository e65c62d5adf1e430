"""A model's projections on a CPU, by the faster library.

torch leaves products in float32 to MKL, and has oneDNN too, for models that it compiles. On the machines at hand oneDNN
is 1.1 to 3.5 times as fast, most where a weight is large beside the rows that it meets (`python -m benchmarks
products`).
"""

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

ONEDNN = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    else None
)
"""x W^T + b by oneDNN, where that is known to be faster."""
LEAST = 1 << 20
"""Multiplications from which on it is: a call takes some 15 microseconds more."""
# How many shapes it keeps code for, at two levels: a pass has fewer, and 1024, as else, take a gigabyte.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
os.environ.setdefault("LRU_CACHE_CAPACITY", "16")


def quicken_(model: nn.Module) -> None:
    """Have projections computed by `product`; the modules stay, and so do their weights."""
    for module in model.modules():
        if type(module) in QUICK:
            module.__class__ = QUICK[type(module)]


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


class _Conv1D(Conv1D):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight.T, self.bias)


QUICK: dict[type, type] = {nn.Linear: _Linear, Conv1D: _Conv1D}


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: (..., n), (m, n), (m,) -> (..., m), as `torch.nn.functional.linear`, whose gradients it has.

    Not for the transforms of torch.func, autocast or torch.compile.
    """
    if ONEDNN is None or not (x.is_cpu and x.dtype == weight.dtype == torch.float32) or x.numel() * len(weight) < LEAST:
        return linear(x, weight, bias)
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_contiguous()):  # it would not look
        return linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _onednn(x, weight, bias)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return linear(x, weight, bias)
    out: Tensor = _Product.apply(x, weight, bias)
    return out


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = ONEDNN(x, weight, bias, "none", [], "")  # type: ignore[misc]
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return product(gradients[0], weight.T), None, None
