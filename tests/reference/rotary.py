"""RoPE of whole heads as defined (arXiv 2104.09864): numbers j and j + h/2 of a head are a complex number, turned."""

import torch
from torch import Tensor


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (rows, heads, columns, h); `cos` and `sin` (rows, columns, h)."""
    turn = torch.complex(*(part.chunk(2, -1)[0].unsqueeze(1) for part in (cos, sin)))
    turned = (torch.complex(*x.chunk(2, -1)) * turn for x in (q, k))
    q, k = (torch.cat([x.real, x.imag], -1) for x in turned)
    return q, k
