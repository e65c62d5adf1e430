"""Prompts that start alike, what few of them share run once, beside each by itself: python -m benchmarks.alike ...

What all of a task's prompts start with is run once either way.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

from benchmarks._common import embedded, parser, printed, prompts, versus
from core import folders
from core.lm import batches, pieces
from core.lm.batches import Family
from core.lm.generate import complete
from core.registry import discover
from core.script import positive
from core.types import Completion, Task

ROUNDS = 3


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    tasks = [name for name in discover("tasks", "TASK") if not name.startswith("glue_")]
    p = parser("alike", "Prompts that start alike.")
    p.add_argument("--data", type=Path, default=folders.SAMPLE, metavar="DIR", help="holds task-data/ (the sample)")
    p.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    p.add_argument("--limit", type=positive, default=64, help="records of a task (default: 64)")
    return p.parse_args(argv)


def run(args: argparse.Namespace | None = None) -> Iterator[str]:
    args, lm = args or arguments([]), embedded()
    for name in args.tasks:
        task: Task = discover("tasks", "TASK")[name]
        asked = prompts(task, args.data, args.limit)

        def ours(asked: Sequence[str] = asked, task: Task = task) -> list[Completion]:
            return complete(lm, asked, task.max_new_tokens, task.choices)

        same = sum(a == b for a, b in zip(ours(), singly(ours), strict=True))
        fast, slow = versus(ours, lambda ours=ours: singly(ours), ROUNDS)
        yield (
            f"{name:18} {len(asked) / fast:6.2f} records/s, singly {len(asked) / slow:6.2f}: {slow / fast:.2f}x; "
            f"{same} of {len(asked)} completions the same"
        )


def singly(work: Callable[[], list[Completion]]) -> list[Completion]:
    """As if no rows shared more than all do."""
    with patch.object(pieces, "families", alone), patch.object(batches, "families", alone):
        return work()


def alone(rows: Sequence[object]) -> list[Family]:
    return [Family(0, [i]) for i in range(len(rows))]


if __name__ == "__main__":
    printed(lambda: run(arguments()))
