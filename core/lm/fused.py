"""The same parts of a model, faster.

On a GPU in fewer kernels: transformers writes some activations and norms as a dozen operations on whole tensors, and
the rotation of queries and keys as ten. A GPU reads and writes its memory for each of them: 40 % of what a label task
takes with gpt2-xl, a fifth with llama-7b. torch has activations and norms as one; and what is one rounds once.

On a CPU by another library: torch leaves products in float32 to MKL, and has oneDNN too, for models that it compiles.
oneDNN is faster where a weight is large beside the rows that it meets, and where there are several threads
(`python -m benchmarks products`).
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

NORMS = {f"{family}RMSNorm" for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Phi3")}
"""x / sqrt(mean(x^2) + eps) * weight. Gemma's is another."""
ROTATED = {f"transformers.models.{family}.modeling_{family}" for family in ("llama", "mistral", "qwen2", "qwen3")}
"""Modules whose `apply_rotary_pos_emb` is `rotated`, of whole heads."""


def fuse_(model: nn.Module) -> None:
    """Put them in place; weights stay, under their names. The rotation is replaced for all models of the family."""
    for path, module in [*model.named_modules()]:
        parent, _, name = path.rpartition(".")
        if isinstance(module, NewGELUActivation):
            setattr(model.get_submodule(parent), name, nn.GELU(approximate="tanh"))
        elif type(module).__name__ in NORMS:
            weight = module.get_parameter("weight")
            norm = nn.RMSNorm(len(weight), eps=float(module.variance_epsilon), device="meta")
            norm.weight = weight
            setattr(model.get_submodule(parent), name, norm)
    if type(model).__module__ in ROTATED:
        vars(sys.modules[type(model).__module__])["apply_rotary_pos_emb"] = rotated


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys (rows, heads, columns, head size), turned by angles whose `cos` and `sin` are (rows, columns,
    head size): the same in both halves of a head (RoPE, arXiv 2104.09864, in the order of Llama's code)."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Rotated.apply(q, cos, sin), _Rotated.apply(k, cos, sin)


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        out = x * cos
        out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        out[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Turned back."""
        cos, sin = ctx.saved_tensors
        return _Rotated.apply(gradients[0], cos, -sin), None, None


ONEDNN = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    else None
)
"""x W^T + b by oneDNN, where that is known to be faster."""
LEAST = 1 << 20
"""Multiplications from which on it is: a call takes some 15 microseconds more."""


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
    """x W^T + b: (..., n), (m, n), (m,) -> (..., m), as `torch.nn.functional.linear`, whose gradients it has."""
    if ONEDNN is None or not (x.is_cpu and x.dtype == weight.dtype == torch.float32) or x.numel() * len(weight) < LEAST:
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
