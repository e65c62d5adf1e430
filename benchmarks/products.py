"""Projections as we make them on a CPU, beside torch's own: shapes of the embedded model, and of a wider one.

One after the other with as many weights as leave the caches, as in a model.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks._common import printed, versus
from core.lm.kernels.products import ONEDNN, product

SHAPES = {
    "queries": (576, 576),
    "keys": (576, 192),
    "MLP in": (576, 1536),
    "MLP out": (1536, 576),
    "vocabulary": (576, 49152),
    "MLP in, wider": (2048, 8192),
}
"""Inputs and outputs."""
ROWS = (4, 16, 64, 256, 1024)
CACHES = 64 << 20
"""Bytes of weights that leave them."""
ROUNDS = 7


@torch.inference_mode()
def run() -> Iterator[str]:
    if ONEDNN is None:
        yield "torch's own are used here: no oneDNN, or a CPU without AVX-512"
        return
    for name, (inputs, outputs) in SHAPES.items():
        weights = [torch.randn(outputs, inputs) for _ in range(max(1, CACHES // (4 * inputs * outputs)))]
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            took = versus(*(partial(through, made, x, weights) for made in (product, linear)), rounds=ROUNDS)
            ours, torchs = (2e-9 * rows * inputs * outputs * len(weights) / t for t in took)
            yield f"{name:14} {rows:5} rows: {ours:4.0f} GFLOP/s, torch's {torchs:4.0f}: {ours / torchs:.2f}x"


def through(made: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: list[Tensor]) -> None:
    for weight in weights:
        made(x, weight)


if __name__ == "__main__":
    printed(run, flagless="products")
