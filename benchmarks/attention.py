"""Attention of one new token, ours beside torch's: python -m benchmarks.attention [--rows N] [--columns N] ...

The shapes of a layer of gpt2-xl and of llama-7b, a quarter of the columns padding. Decoding uses ours on a GPU alone.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks._common import versus
from core.lm.forward import KERNELS
from core.lm.kernels.attention import attention
from core.types import DTYPES

SHAPES = {"gpt2-xl": (25, 64), "llama-7b": (32, 128)}
"""Heads, and the size of one."""
CALLS = 50


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    p = argparse.ArgumentParser(prog="python -m benchmarks.attention", description="Attention of one new token.")
    p.add_argument("--rows", type=int, default=128)
    p.add_argument("--columns", type=int, default=304)
    p.add_argument("--device", default="cuda" if gpu else "cpu")
    p.add_argument("--dtype", choices=DTYPES, default="bfloat16" if gpu else "float32")
    return p.parse_args(argv)


@torch.inference_mode()
def run(args: argparse.Namespace | None = None) -> Iterator[str]:
    args = args or arguments([])
    kind = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    for name, (heads, size) in SHAPES.items():
        query = torch.randn(args.rows, heads, 1, size, **kind)
        key, value = (torch.randn(args.rows, heads, args.columns, size, **kind) for _ in range(2))
        mask = torch.zeros(args.rows, 1, 1, args.columns, **kind)
        mask[..., : args.columns // 4] = torch.finfo(mask.dtype).min
        given = (nn.Module(), query, key, value, mask)

        def theirs(given: tuple[nn.Module, Tensor, Tensor, Tensor, Tensor] = given) -> Tensor:
            with sdpa_kernel(KERNELS):
                out: Tensor = sdpa_attention_forward(*given)[0]
            return out

        def ours(given: tuple[nn.Module, Tensor, Tensor, Tensor, Tensor] = given) -> Tensor:
            return attention(*given)[0]

        apart = float((ours() - theirs()).float().norm() / theirs().float().norm())
        fast, slow = versus(lambda work=ours: _often(work), lambda work=theirs: _often(work), rounds=3)
        times = f"ours {1e6 * fast / CALLS:.0f} us, torch's {1e6 * slow / CALLS:.0f} us: {slow / fast:.2f}x"
        yield f"{name}, {args.rows} rows of {args.columns} columns: {times}; {apart:.1e} apart"


def _often(work: Callable[[], Tensor]) -> None:
    for _ in range(CALLS):
        out = work()
    if out.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    for line in run(arguments()):
        print(line, flush=True)
