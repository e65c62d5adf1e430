"""Command lines of test-task.py and test-task-after.py: words to an Experiment, and an Experiment to its words."""

import argparse
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from core.folders import RESULTS
from core.registry import names
from core.script import Parser, positive
from core.types import DTYPES, MODES
from experiment.plan import EditRequest, Experiment, Placement


def parser(description: str = "Score a model on one of the eight tasks, on several, or on all.") -> Parser:
    """The arguments that both scripts take."""
    p = Parser(description=description)
    known = ", ".join(names("tasks", "TASK"))
    p.add_argument("task", metavar="TASK", type=words, help=f"{known}; several with commas, or all")
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
    p.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: test-result")
    p.add_argument("--batch-tokens", type=positive, metavar="N", help="token budget of a batch; never changes a result")
    p.add_argument("--overwrite", action="store_true", help="replace results made with other settings, redo equal ones")
    return p


def after_parser() -> Parser:
    """The arguments of test-task-after.py."""
    p = parser("Edit a model, then score it on one of the eight tasks, on several, or on all.")
    p.add_argument("mode", metavar="MODE", help=", ".join(MODES))
    p.add_argument("method", metavar="METHOD", help=", ".join(names("editors", "EDITOR")))
    for name in ("begin", "end", "step"):
        p.add_argument(name, metavar=f"SAMPLE_{name.upper()}", type=int, help="the edits are range(BEGIN, END, STEP)")
    p.add_argument(
        "batch_size", metavar="BATCH_SIZE", type=positive, nargs="?", help="edits per update; Batch-Sequential only"
    )
    p.add_argument("--hparams", type=Path, metavar="FILE", help="settings (default: hparams/METHOD/MODEL.yaml)")
    p.add_argument(
        "--edit-batch", type=positive, metavar="N", help="edits optimised at a time (MEMIT); halves by itself"
    )
    p.add_argument(
        "--regularizer", metavar="NAME", default="none", help="what decides which part of an update is applied"
    )
    p.add_argument("--keep", type=share, metavar="SHARE", help="share of the update it keeps (default: 0.4)")
    p.add_argument("--save-model", type=Path, metavar="DIR", help="save the edited model as a Hugging Face folder")
    p.add_argument(
        "--checkpoints", type=numbers, default=(), metavar="N,N", help="score after these many edits too, on the way"
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


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share in (0, 1], got {text}")
    return value


FLAGS = (
    *("checkpoints", "regularizer", "keep", "draw", "model", "limit", "seed", "data", "results", "device", "dtype"),
    *("batch_tokens", "on_error", "device_map", "attn", "hparams", "edit_batch", "max_update", "save_every"),
    *("save_model", "overwrite"),
)
"""Every argument that is no position, in the order in which a command shows them."""


def experiment(args: argparse.Namespace) -> Experiment:
    """What the words of one of the two scripts ask for."""
    given = vars(args)

    def part(cls: type[Any], **more: Any) -> Any:
        return cls(**{f.name: given[f.name] for f in fields(cls) if f.name in given}, **more)

    edit = part(EditRequest) if "mode" in given else None
    asked: Experiment = part(Experiment, tasks=args.task, edit=edit, placement=part(Placement))
    return asked


def command(asked: Experiment) -> str:
    """The command line that asks for this."""
    edit = asked.edit
    values = {**vars(asked.placement), **vars(asked)} | ({} if edit is None else vars(edit))
    usual = {f.name: f.default for cls in (Placement, Experiment, EditRequest) for f in fields(cls)}
    words = ["python", "test-task.py" if edit is None else "test-task-after.py", ",".join(asked.tasks)]
    if edit is not None:
        positions = (edit.mode, edit.method, edit.begin, edit.end, edit.step, edit.batch_size)
        words += [str(word) for word in positions if word is not None]
    for name in FLAGS:
        if name in values and values[name] != usual[name]:
            value = values[name]
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)
