"""Attention of few new tokens behind many columns, or of short texts.

torch's kernels take 32 or 64 queries together, and first copy keys and values that several heads share. Behind a cache
queries are few: one of a step of decoding, the target's of a step of the search for v*. Products of matrices take them
as they are: on a GPU one token's at the rate of its memory, on a CPU those of the search, with their gradients, 1.7 to
3.4 times as fast as torch's kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FEW = {"cpu": 16, "cuda": 1}
"""Columns of queries up to which products are faster, with gradients or with heads that share keys; else it is one.

On a GPU more, and gradients, have not been measured.
"""


@contextmanager
def of_few_tokens() -> Iterator[None]:
    """Passes use it where they use torch's: those of the whole process."""
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = before


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling + mask) v, as transformers asks for it: (rows, queries, heads, head size). Differentiable.

    `query` (rows, heads, queries, head size) has as many heads as `key` and `value` (rows, heads, columns, head size),
    or a multiple; `attention_mask` (rows, 1, queries, columns) is added, or says what is seen. Scores and their softmax
    are in float32, as in torch's kernels; a query that sees nothing gets the mean of all values. What else is asked for
    is left to those, a pass without a mask or with gradients on a GPU too.
    """
    gains = query.requires_grad or query.shape[1] > key.shape[1]
    many = query.shape[2] > (FEW.get(query.device.type, 1) if gains else 1)
    many = many or query.dtype == torch.float64 or (query.is_cuda and torch.is_grad_enabled())
    more = bool(options.get("dropout")) or any(options.get(name) is not None for name in ("softcap", "position_bias"))
    if many or more or attention_mask is None:
        others: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return others
    rows, heads, columns, size = key.shape
    scaling = options.get("scaling") or size**-0.5
    queries = query.reshape(rows * heads, -1, size)  # those that share keys side by side
    scores = _product(queries, key.flatten(0, 1).mT).view(rows, heads, -1, query.shape[2], columns) * scaling
    p = _seen(scores, attention_mask.unsqueeze(2)).softmax(-1).to(value.dtype)
    out = torch.bmm(p.view(rows * heads, -1, columns), value.flatten(0, 1))
    return out.view(rows, -1, query.shape[2], value.shape[-1]).transpose(1, 2), None


def _seen(scores: Tensor, mask: Tensor) -> Tensor:
    """Without the columns that a query does not see."""
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In float32, which only a GPU makes of half precision without a copy."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())
