"""A projection as defined: y_i = sum_j W_ij x_j + b_i."""

import torch
from torch import Tensor


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = torch.einsum("...j,ij->...i", x, weight)
    return y if bias is None else y + bias
