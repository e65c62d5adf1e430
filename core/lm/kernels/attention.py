"""Attention of a single new token.

torch's kernels take 64 queries together, and of one new token there is one: that is twice as slow as reading its keys
and values. Two products of matrices read them at the rate of a GPU's memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@contextmanager
def of_one_token() -> Iterator[None]:
    """Passes of one new token a row, behind a cache, use it where they use torch's: those of the whole process."""
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = before


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling + mask) v, as transformers asks for it: (rows, 1, heads, head size).

    `query` (rows, heads, 1, head size) has as many heads as `key` and `value` (rows, heads, columns, head size), or a
    multiple; `attention_mask` (rows, 1, 1, columns) is added. Scores and their softmax are in float32, as in torch's
    kernels. What else is asked for is left to those.
    """
    more = any(options.get(name) is not None for name in ("softcap", "position_bias"))
    if query.shape[2] > 1 or attention_mask is None or attention_mask.dtype == torch.bool or more:
        others: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return others
    rows, heads, columns, size = key.shape
    scaling = options.get("scaling") or size**-0.5
    queries = query.reshape(rows * heads, -1, size)  # those that share keys side by side
    scores = _product(queries, key.flatten(0, 1).mT).view(rows, heads, -1, columns)
    p = (scores * scaling + attention_mask).softmax(-1).to(value.dtype)
    out = torch.bmm(p.flatten(0, 1), value.flatten(0, 1))
    return out.view(rows, 1, -1, value.shape[-1]), None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In float32, which only a GPU makes of half precision without a copy."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())
