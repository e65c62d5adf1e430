"""How many tokens of prompts should go through a CPU at a time: python -m benchmarks.pieces [--width N] ...

One-token completions of a task with pieces of several lengths, by turns, on one thread and on all.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks import _random
from benchmarks._common import embedded, parser, printed, prompts, seconds, width
from core import folders
from core.lm import pieces
from core.lm.generate import complete
from core.lm.model import LM
from core.registry import discover
from core.script import positive
from core.types import Task

ROUNDS = 3


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser("pieces", "Tokens of prompts that go through a CPU at a time.")
    p.add_argument("--data", type=Path, default=folders.SAMPLE, metavar="DIR", help="holds task-data/ (the sample)")
    p.add_argument("--tasks", nargs="+", choices=discover("tasks", "TASK"), default=["NLI", "dialogue"])
    p.add_argument("--limit", type=positive, default=32, help="records of a task (default: 32)")
    p.add_argument("--sizes", nargs="+", type=positive, default=[256, 512, 1024, 2048, 4096])
    p.add_argument("--width", type=width, help="of a random Llama (default: the embedded model), a multiple of 16")
    p.add_argument("--layers", type=positive, default=4, help="of the random Llama (default: 4)")
    return p.parse_args(argv)


def run(args: argparse.Namespace | None = None) -> Iterator[str]:
    args, threads = args or arguments([]), torch.get_num_threads()
    tasks: list[Task] = [discover("tasks", "TASK")[name] for name in args.tasks]
    asked = [prompts(task, args.data, args.limit) for task in tasks]
    lm = wide(args) if args.width else embedded()
    try:
        for number in sorted({1, threads}):
            torch.set_num_threads(number)
            for task, some in zip(tasks, asked, strict=True):
                rates = by_size(lm, some, args.sizes)
                told = ", ".join(f"{size}: {rate:.2f}" for size, rate in rates.items())
                yield f"{task.name}, {len(some)} records, threads: {number}; records/s at pieces of {told}"
    finally:
        torch.set_num_threads(threads)


def wide(args: argparse.Namespace) -> LM:
    return _random.random_lm("llama-7b", _random.config("llama-7b", args.layers, args.width), "cpu", "float32")


def by_size(lm: LM, asked: list[str], sizes: list[int]) -> dict[int, float]:
    """Records a second with pieces of each size, the median of a few rounds in which all have their turn."""
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(ROUNDS):
        for size in sizes:
            with patch.dict(pieces.PIECE, cpu=size):
                times[size].append(seconds(lambda: complete(lm, asked, 1)))
    return {size: len(asked) / statistics.median(found) for size, found in times.items()}


if __name__ == "__main__":
    printed(lambda: run(arguments()))
