"""Command lines of test-task.py and test-task-after.py: words to an Experiment, and an Experiment to its words."""

import argparse
import logging
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.folders import RESULTS
from core.registry import names, rows
from core.script import Parser, positive
from core.types import DTYPES, MODES
from experiment.asked import EditRequest, Experiment, Placement, checked
from experiment.measures import NAMES

logger = logging.getLogger(__name__)


def parser(description: str = "Score a model on a task, on several, or on all.") -> Parser:
    """The arguments that both scripts take."""
    p = Parser(description=description)
    known = ", ".join(names("tasks", "TASK"))
    several = "all for the paper's eight, glue for AlphaEdit's six"
    p.add_argument("task", metavar="TASK", type=words, help=f"{known}; several with commas, {several}")
    p.add_argument(
        "--lm-eval",
        type=words,
        default=(),
        metavar="NAME,NAME",
        help="tasks of lm-evaluation-harness to score on too, e.g. mmlu,hellaswag (requirements-lm-eval.txt)",
    )
    p.add_argument(
        "--lm-eval-tasks", type=Path, metavar="DIR", help="folder with *.yaml of further tasks for --lm-eval"
    )
    p.add_argument(
        "--model", help="name in hugging_cache/ or a folder (default: gpt2-xl if there, else the embedded model)"
    )
    p.add_argument("--device", help="e.g. cuda, cuda:1 or cpu (default: cuda if there)")
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of the model's weights (default: float32)")
    p.add_argument("--device-map", metavar="MAP", help="auto spreads the layers over all GPUs (accelerate)")
    p.add_argument("--attn", metavar="NAME", help="implementation of attention, e.g. sdpa, eager or flash_attention_2")
    p.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with task-data/ or edited-data/ to use before data/"
    )
    p.add_argument("--limit", type=positive, metavar="N", help="only the first N records of each task")
    p.add_argument("--seed", type=int, help="seed of what is drawn (default: 0, with --draw its SEED)")
    p.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: test-result")
    p.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="token budget of a batch; changes no result but ties in half precision",
    )
    p.add_argument(
        "--measures",
        type=words,
        default=("all",),
        metavar="NAME,NAME",
        help=f"what is measured beside the scores: {', '.join(NAMES)}, all or none (default: all)",
    )
    p.add_argument("--all-metrics", action="store_true", help="show every metric; result files hold them anyway")
    p.add_argument("--overwrite", action="store_true", help="replace results made with other settings, redo equal ones")
    return p


def after_parser() -> Parser:
    """The arguments of test-task-after.py."""
    p = parser("Edit a model, then score it on a task, on several, or on all.")
    p.add_argument("mode", metavar="MODE", help=", ".join(MODES))
    p.add_argument("method", metavar="METHOD", help=", ".join(names("editors", "EDITOR")))
    for name in ("begin", "end", "step"):
        p.add_argument(name, metavar=f"SAMPLE_{name.upper()}", type=int, help="the edits are range(BEGIN, END, STEP)")
    p.add_argument(
        "batch_size", metavar="BATCH_SIZE", type=positive, nargs="?", help="edits per update; Batch-Sequential only"
    )
    p.add_argument(
        "--edits",
        metavar="NAME|FILE",
        help=f"facts to edit: {', '.join(names('edit_sets', 'EDIT_SET'))}, or a file (default: zsre)",
    )
    p.add_argument("--edit-format", metavar="NAME", help="of the file, if its records do not tell")
    p.add_argument(
        "--target", metavar="WORD", help="new answer, where records have two: alt (default) or answers, of zsre"
    )
    p.add_argument("--hparams", type=Path, metavar="FILE", help="settings (default: hparams/METHOD/MODEL.yaml)")
    p.add_argument(
        "--edit-batch",
        type=positive,
        metavar="N",
        help="edits optimised at a time (MEMIT and its kin); halves by itself",
    )
    rules = ", ".join(rows("editors.regularizers", "REGULARIZERS"))
    p.add_argument(
        "--regularizer",
        metavar="NAME",
        default="none",
        help=f"what decides which part of an update is applied: {rules}",
    )
    p.add_argument("--keep", type=float, metavar="SHARE", help="share of the update it keeps (default: 0.4)")
    p.add_argument("--save-model", type=Path, metavar="DIR", help="save the edited model as a Hugging Face folder")
    p.add_argument(
        "--checkpoints", type=numbers, default=(), metavar="N,N", help="score after these many edits too, on the way"
    )
    p.add_argument("--draw", type=int, metavar="SEED", help="draw the edits at random from SAMPLE_BEGIN on")
    p.add_argument(
        "--redraw", action="store_true", help="draw context templates anew, also where the settings state them"
    )
    p.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="of a refused update (default: stop)")
    p.add_argument(
        "--max-update",
        type=amount,
        default=1000.0,
        metavar="TIMES",
        help="largest update, in weight norms (default: 1000)",
    )
    p.add_argument(
        "--stop-when-collapsed", action="store_true", help="edit no further once the model has collapsed on every task"
    )
    p.add_argument(
        "--save-every", type=amount, default=60.0, metavar="SECONDS", help="keep the edits of a long run (default: 60)"
    )
    return p


def amount(text: str) -> float:
    value = float(text)
    if not value >= 0:  # nor NaN, which is like no number
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


FLAGS = (
    *(
        "checkpoints",
        "regularizer",
        "keep",
        "lm_eval",
        "lm_eval_tasks",
        "edits",
        "edit_format",
        "target",
        "draw",
        "redraw",
        "model",
        "limit",
        "seed",
        "data",
        "results",
        "device",
        "dtype",
    ),
    *(
        "measures",
        "batch_tokens",
        "on_error",
        "device_map",
        "attn",
        "hparams",
        "edit_batch",
        "max_update",
        "save_every",
    ),
    *("save_model", "stop_when_collapsed", "overwrite"),
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


def sensible(asked: Experiment) -> Experiment:
    """`checked`, and what only a command line gets wrong: words in each other's place, a flag without its fellow."""
    if asked.edit is not None:
        _unswapped(asked, asked.edit)
        if asked.edit.keep is not None and asked.edit.regularizer.lower() == "none":
            logger.warning("--keep %g changes nothing: it is the share that a --regularizer keeps", asked.edit.keep)
    return checked(asked)


def _unswapped(asked: Experiment, edit: EditRequest) -> None:
    """UserError, with the line to copy, for MODE and METHOD in each other's place."""
    modes, methods = ({name.lower() for name in known} for known in (MODES, names("editors", "EDITOR")))
    if edit.mode.lower() in methods and edit.method.lower() in modes:
        right = command(replace(asked, edit=replace(edit, mode=edit.method, method=edit.mode)))
        raise UserError(f"MODE comes before METHOD: {right}")


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
