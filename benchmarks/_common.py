"""What the benchmarks share: the embedded model, sample edits, a fair clock, and how they start and end."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import torch

from core import folders
from core.errors import Interrupted
from core.lm.load import load
from core.lm.model import LM
from core.script import Parser, positive, script
from core.types import Edit, Task
from edit_sets.zsre import EDIT_SET
from inputs.embedded import EMBEDDED_MODEL


def embedded() -> LM:
    return load(folders.MODELS / EMBEDDED_MODEL, EMBEDDED_MODEL, device="cpu")


def hparams_file(method: str) -> Path:
    return folders.HPARAMS / method / f"{EMBEDDED_MODEL}.yaml"


def sample_edits(count: int, begin: int = 200) -> list[Edit]:
    return EDIT_SET.edits(folders.SAMPLE / "edited-data/zsre.json", begin, begin + count, 1)


def prompts(task: Task, data: Path = folders.SAMPLE, limit: int | None = None) -> list[str]:
    """Of the first `limit` records of the task, or of all."""
    return [sample.prompt for sample in islice(task.samples(data / "task-data" / task.file), limit)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def versus(ours: Callable[[], object], other: Callable[[], object], rounds: int = 1) -> tuple[float, float]:
    """Median seconds of each, the two in turn so that a machine that slows down slows both."""
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def parser(name: str, description: str) -> Parser:
    return Parser(prog=f"python -m benchmarks.{name}", description=description)


def device(text: str) -> str:
    """The name of a device that is there, of an argument."""
    try:
        torch.ones((), device=text).item()  # meta is none
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"torch finds no device {text} here") from error
    return text


def width(text: str) -> int:
    """A random model's hidden size, of an argument: its heads are to be even."""
    if (value := positive(text)) % 16:
        raise argparse.ArgumentTypeError(f"expected a multiple of 16, got {value}")
    return value


def new_file(text: str) -> Path:
    """Where a file can be written, of an argument: said before it is measured for long."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent}: no such folder")
    return path


def printed(lines: Callable[[], Iterable[str]], flagless: str | None = None) -> None:
    """Print what a benchmark says as it comes; bad input is one line on stderr and exit code 2, as of every script.

    `flagless` is the name of one that takes no flags.
    """

    def main() -> None:
        if flagless:
            parser(flagless, f"The benchmark {flagless}, which takes no flags.").parse_args()
        try:
            for line in lines():
                print(line, flush=True)
        except KeyboardInterrupt as error:
            raise Interrupted("run the benchmark again, it begins anew") from error

    script(main)
