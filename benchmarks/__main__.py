"""Run all benchmarks, or those named: python -m benchmarks [evaluation rome memit ... yardsticks gpu]."""

import argparse
import importlib
import os
import platform
from collections.abc import Iterator

import torch

from benchmarks._common import printed
from core.script import Parser

ALL = (
    "products",
    "evaluation",
    "alike",
    "measures",
    "rome",
    "memit",
    "sequence",
    "kn",
    "stats",
    "mend",
    "yardsticks",
    "peers",
)
"""Those of the embedded model on the CPU. `gpu` takes full-size models: with a GPU, or by its name."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    known = [*ALL, "gpu"]
    p = Parser(prog="python -m benchmarks", description="Ours beside the naive way, row by row.")
    p.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)} (default: all this machine can)")
    args = p.parse_args(argv)
    if unknown := [name for name in args.names if name not in known]:
        p.error(f"no benchmark is called {', '.join(unknown)}: choose of {', '.join(known)}")
    return args


def lines() -> Iterator[str]:
    names = arguments().names or (*ALL, *(["gpu"] if torch.cuda.is_available() else []))
    yield f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, {platform.machine()}"
    for name in names:
        yield f"\n{name}"
        for line in importlib.import_module(f"benchmarks.{name}").run():
            yield f"  {line}"


if __name__ == "__main__":
    printed(lines)
