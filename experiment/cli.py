"""The command line of test-task.py and test-task-after.py: arguments in, result files and a table out."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from core import folders
from core.script import Parser, positive
from core.types import DTYPES, Task
from experiment.edit_session import MODES, EditSession, Plugins
from experiment.run import Session


def parser(description: str, tasks: Mapping[str, Task]) -> Parser:
    """The arguments both scripts take."""
    p = Parser(description=description)
    p.add_argument("task", metavar="TASK", help=f"{', '.join(tasks)}; several with commas, or all")
    p.add_argument(
        "--model", help="name in hugging_cache/ or a folder (default: gpt2-xl if there, else the embedded model)"
    )
    p.add_argument("--device", help="e.g. cuda, cuda:1 or cpu (default: cuda if there)")
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of the model's weights (default: float32)")
    p.add_argument("--device-map", metavar="MAP", help="auto spreads the layers over all GPUs (accelerate)")
    p.add_argument("--attn", metavar="NAME", help="implementation of attention, e.g. sdpa, eager or flash_attention_2")
    p.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with task-data/ and edited-data/ to use instead of data/"
    )
    p.add_argument("--limit", type=positive, metavar="N", help="only the first N records of each task")
    p.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default: 0)")
    p.add_argument("--results", type=Path, default=folders.RESULTS, metavar="DIR", help="default: test-result")
    p.add_argument("--batch-tokens", type=positive, metavar="N", help="token budget of a batch; never changes a result")
    p.add_argument("--overwrite", action="store_true", help="replace results made with other settings, redo equal ones")
    return p


def test_task(tasks: Mapping[str, Task]) -> None:
    """Score a model as it is."""
    p = parser("Score a model on one of the eight tasks, on several, or on all.", tasks)
    for _ in Session(p.parse_args(), tasks).run():
        pass


def test_task_after(plugins: Plugins) -> None:
    """Edit a model, measure how well the edits took, and score it."""
    for _ in EditSession(after_parser(plugins).parse_args(), plugins).run():
        pass


def after_parser(plugins: Plugins) -> Parser:
    """The arguments of test-task-after.py."""
    p = parser("Edit a model, then score it on one of the eight tasks, on several, or on all.", plugins.tasks)
    p.add_argument("mode", metavar="MODE", help=", ".join(MODES))
    p.add_argument("method", metavar="METHOD", help=", ".join(plugins.editors))
    for name in ("begin", "end", "step"):
        p.add_argument(name, metavar=f"SAMPLE_{name.upper()}", type=int, help="the edits are range(BEGIN, END, STEP)")
    p.add_argument(
        "batch_size", metavar="BATCH_SIZE", type=positive, nargs="?", help="edits per update; Batch-Sequential only"
    )
    p.add_argument("--hparams", type=Path, metavar="FILE", help="settings (default: hparams/METHOD/MODEL.yaml)")
    p.add_argument(
        "--edit-batch", type=positive, metavar="N", help="edits optimised at a time (MEMIT); halves by itself"
    )
    p.add_argument("--regularizer", metavar="NAME", default="none", help=f"none, {', '.join(plugins.regularizers)}")
    p.add_argument(
        "--keep", type=share, default=0.4, metavar="SHARE", help="share of the update it keeps (default: 0.4)"
    )
    p.add_argument("--save-model", type=Path, metavar="DIR", help="save the edited model as a Hugging Face folder")
    p.add_argument(
        "--checkpoints", type=numbers, default=[], metavar="N,N", help="score after these many edits too, on the way"
    )
    p.add_argument("--draw", type=int, metavar="SEED", help="draw the edits at random from SAMPLE_BEGIN on")
    p.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="of a refused update (default: stop)")
    p.add_argument(
        "--max-update",
        type=float,
        default=1000.0,
        metavar="TIMES",
        help="largest update, in weight norms (default: 1000)",
    )
    p.add_argument(
        "--save-every", type=float, default=60.0, metavar="SECONDS", help="keep the edits of a long run (default: 60)"
    )
    return p


def numbers(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share in (0, 1], got {text}")
    return value
