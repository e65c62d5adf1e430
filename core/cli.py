"""The command line of test-task.py and test-task-after.py: arguments in, result files and a table out."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import transformers

from core import data, hparams, quality, results
from core.errors import UserError
from core.model import DTYPES, LM
from core.registry import pick
from core.run import Regularize, batches, edit_model
from core.session import Session
from core.sources import Source, find_data
from core.types import Edit, Editor, Mode, Task

MODES: tuple[Mode, ...] = ("Instance-Sequential", "Batch-Single", "Batch-Sequential")
RESULTS = Path("test-result")


class Parser(argparse.ArgumentParser):
    """argparse with the project's manners: one line on stderr, exit 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `python {self.prog} --help` lists all arguments")


def script(main: Callable[[], None]) -> None:
    """Run a script's main function; a UserError becomes one line on stderr and exit code 2."""
    transformers.logging.set_verbosity_error()  # its tables about a model that does not load are not one line
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def parser(description: str, tasks: Mapping[str, Task]) -> Parser:
    """The arguments both scripts take."""
    p = Parser(description=description)
    p.add_argument("task", metavar="TASK", help=f"{', '.join(tasks)} or all")
    p.add_argument(
        "--model", help="name in hugging_cache/ or a folder (default: gpt2-xl if there, else the embedded model)"
    )
    p.add_argument("--device", help="e.g. cuda, cuda:1 or cpu (default: cuda if there)")
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of the model's weights (default: float32)")
    p.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with task-data/ and edited-data/ to use instead of data/"
    )
    p.add_argument("--limit", type=positive, metavar="N", help="only the first N records of each task")
    p.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default: 0)")
    p.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: test-result")
    p.add_argument("--batch-tokens", type=positive, metavar="N", help="token budget of a batch; never changes a result")
    p.add_argument("--overwrite", action="store_true", help="replace results made with other settings, redo equal ones")
    return p


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def test_task(tasks: Mapping[str, Task]) -> None:
    """Score a model as it is."""
    session = Session(parser("Score a model on one of the eight tasks, or all.", tasks).parse_args(), tasks)
    missing = session.todo(None, None)
    if missing:
        lm = session.load()
        for task in missing:
            session.score(lm, task, None, None, {})


@dataclass(frozen=True)
class Plugins:
    """What the post-edit script wires together."""

    tasks: Mapping[str, Task]
    editors: Mapping[str, type[Editor]]
    regularizers: Sequence[str]
    regularizer: Callable[[str, float], Regularize]


def test_task_after(plugins: Plugins) -> None:
    """Edit a model, measure how well the edits took, and score it."""
    p = parser("Edit a model, then score it on one of the eight tasks, or all.", plugins.tasks)
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
    EditSession(p.parse_args(), plugins).run()


def share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share in (0, 1], got {text}")
    return value


class EditSession(Session):
    """A run that edits first."""

    def __init__(self, args: argparse.Namespace, plugins: Plugins) -> None:
        self.plugins = plugins
        self.editor: type[Editor] = pick("method", args.method, plugins.editors)
        self.mode: Mode = pick("mode", args.mode, {mode: mode for mode in MODES})
        self._check(args)
        super().__init__(args, plugins.tasks)
        self.source: Source = find_data("edited-data/zsre.json", args.data)
        self.edits: list[Edit] = data.edits(self.source.path, args.begin, args.end, args.step)
        self.hparams_file = args.hparams or Path("hparams") / self.editor.name / f"{self.model_name}.yaml"
        self.hp = hparams.load(self.editor.hparams, self.hparams_file)
        if args.edit_batch is not None:
            if not hasattr(self.hp, "edit_batch"):
                raise UserError(f"--edit-batch: {self.editor.name} takes its edits one at a time")
            self.hp = replace(self.hp, edit_batch=args.edit_batch)
        label = "" if args.regularizer == "none" else f"-{args.regularizer.upper()}{100 * args.keep:g}"
        self.plan = results.EditPlan(self.mode, self.editor.name + label, len(self.edits), args.batch_size)

    def _check(self, args: argparse.Namespace) -> None:
        if self.mode not in self.editor.modes:
            fitting = [mode for mode in MODES if mode in self.editor.modes]
            raise UserError(f"{self.editor.name} does not run in mode {self.mode}; its modes: {', '.join(fitting)}")
        if (args.batch_size is None) == (self.mode == "Batch-Sequential"):
            raise UserError(f"{self.mode} {'needs a' if args.batch_size is None else 'takes no'} BATCH_SIZE")
        pick("regularizer", args.regularizer, {name: name for name in ("none", *self.plugins.regularizers)})
        if args.save_model:
            results.not_there(args.save_model)  # before an hour of editing

    def edit_settings(self) -> dict[str, Any]:
        args = self.args
        return {
            "mode": self.mode,
            "method": self.editor.name,
            "range": [args.begin, args.end, args.step],
            "batch_size": args.batch_size,
            "hparams": asdict(self.hp),
            "files": {name: data.sha256(path) for name, path in self.files().items()},
            "regularizer": None if args.regularizer == "none" else {"name": args.regularizer, "keep": args.keep},
            "data": self.source.describe(),
        }

    def files(self) -> dict[str, Path]:
        """What the settings depend on beside themselves, e.g. MEND's trained network. UserError if it is not there."""
        needed = getattr(self.hp, "files", None)
        return needed(self.model_name) if needed else {}

    def run(self) -> None:
        edit = results.plain(self.edit_settings())
        missing = self.todo(self.plan, edit)
        if not missing and not self.args.save_model:
            return
        lm = self.load()
        extra = self.edit(lm)
        if self.args.save_model:
            save(lm, self.args.save_model)
        for task in missing:
            self.score(lm, task, self.plan, edit, extra)

    def edit(self, lm: LM) -> dict[str, Any]:
        """Edit the model; returns what goes into the result file about it."""
        with self.timed("prepare"):
            editor = self.editor(lm, self.hp)
        args = self.args
        rule = None if args.regularizer == "none" else self.plugins.regularizer(args.regularizer, args.keep)
        with self.timed("probe before"):
            before = quality.probe(lm, self.edits)
        with self.timed("edit"):
            updates = list(batches(self.edits, self.mode, args.batch_size))
            done, own = edit_model(lm, editor, updates, rule)
        with self.timed("probe after"):
            after = quality.probe(lm, self.edits)
        summary = quality.summarize(before, own, after)
        print(f"\nedit quality: {len(self.edits)} edits in {len(done)} updates")
        print(quality.table(summary))
        return {
            "quality": {stage: {k: asdict(m) for k, m in part.items()} for stage, part in summary.items()},
            "updates": [asdict(update) for update in done],
            "edits": quality.records(self.edits, {"before": before, "own": own, "after": after}),
        }


def save(lm: LM, folder: Path) -> None:
    """Save the edited model and its tokenizer as an ordinary Hugging Face folder, whole or not at all."""
    with results.new_folder(folder) as scratch:
        lm.model.save_pretrained(scratch)
        lm.tokenizer.save_pretrained(scratch)
    print(f"edited model -> {folder}")
