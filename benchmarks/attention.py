"""Attention of few new tokens, ours beside torch's: python -m benchmarks.attention [--rows N] [--columns N] ...

The shapes of a layer of several models, a quarter of the columns padding.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks._common import device, parser, printed, versus
from core.lm.forward import KERNELS
from core.lm.kernels.attention import FEW, attention
from core.script import positive
from core.types import DTYPES


@dataclass(frozen=True)
class Shape:
    """Heads, those of them that have keys and values of their own, the size of one, and queries a row."""

    heads: int
    own: int
    size: int
    queries: int = 1


SHAPES = {
    "gpt2-xl": Shape(25, 25, 64),
    "llama-7b": Shape(32, 32, 128),
    "embedded model": Shape(9, 3, 64),
    "search for v* in the embedded model": Shape(9, 3, 64, 5),
}
"""The last one with gradients."""
CALLS = 50


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    p = parser("attention", "Attention of few new tokens.")
    p.add_argument("--rows", type=positive, default=128)
    p.add_argument("--columns", type=positive, default=304)
    p.add_argument("--device", type=device, default="cuda" if gpu else "cpu")
    p.add_argument("--dtype", choices=DTYPES, default="bfloat16" if gpu else "float32")
    return p.parse_args(argv)


def run(args: argparse.Namespace | None = None) -> Iterator[str]:
    args = args or arguments([])
    for name, shape in SHAPES.items():
        if shape.queries <= FEW.get(torch.device(args.device).type, 1):
            yield f"{name}, {args.rows} rows of {args.columns} columns: {compared(shape, args)}"


def compared(shape: Shape, args: argparse.Namespace) -> str:
    kind = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    learn = shape.queries > 1
    rows, back = args.rows, torch.randn(args.rows, shape.queries, shape.heads, shape.size, **kind)
    query = torch.randn_like(back).transpose(1, 2)  # as a projection leaves it
    key, value = (torch.randn(rows, shape.own, args.columns, shape.size, **kind) for _ in range(2))
    given = [x.requires_grad_(learn) for x in (query, key, value)]
    mask = torch.ones(rows, 1, shape.queries, args.columns, dtype=torch.bool, device=args.device)
    mask[..., : args.columns // 4] = False
    if mask.is_cuda:  # as passes have it there
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    module = nn.Module()
    module.num_key_value_groups = shape.heads // shape.own  # type: ignore[assignment]

    def made(by: Callable[..., tuple[Tensor, None]]) -> Tensor:
        with torch.set_grad_enabled(learn), sdpa_kernel(KERNELS):
            out, _ = by(module, *given, mask)
            return torch.cat([x.flatten() for x in torch.autograd.grad(out, given, back)]) if learn else out

    ours, theirs = partial(made, attention), partial(made, sdpa_attention_forward)
    apart = float((ours() - theirs()).float().norm() / theirs().float().norm())
    fast, slow = versus(partial(_often, ours), partial(_often, theirs), rounds=3)
    times = f"ours {1e6 * fast / CALLS:.0f} us, torch's {1e6 * slow / CALLS:.0f} us: {slow / fast:.2f}x"
    return f"{times}; {apart:.1e} apart"


def _often(work: Callable[[], Tensor]) -> None:
    for _ in range(CALLS):
        out = work()
    if out.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    printed(lambda: run(arguments()))
