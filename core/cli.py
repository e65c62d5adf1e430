"""The command line of test-task.py and test-task-after.py: arguments in, result files and a table out."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers

from core import data, hparams, quality, results
from core.errors import UserError
from core.model import DTYPES, LM, hash_folder, load
from core.registry import pick
from core.run import Regularize, batches, edit_model, limited, score_model
from core.sources import Source, default_model, find_data, find_model
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


class Session:
    """One run of a script: what was asked for, resolved and checked before anything slow happens."""

    def __init__(self, args: argparse.Namespace, tasks: Mapping[str, Task]) -> None:
        self.args = args
        chosen = list(tasks.values()) if args.task == "all" else [pick("task", args.task, {**tasks})]
        self.sources = {task.name: find_data(f"task-data/{task.file}", args.data) for task in chosen}
        self.samples = {t.name: limited(list(t.samples(self.sources[t.name].path)), args.limit) for t in chosen}
        self.tasks = chosen
        self.seconds: dict[str, float] = {}
        self.model_name, self.folder = find_model(args.model)
        self.model_sha256 = hash_folder(self.folder)
        self.root = args.results / ("" if self.model_name == default_model() else self.model_name)
        results.writable(self.root)
        torch.manual_seed(args.seed)

    def load(self) -> LM:
        with self.timed("load"):
            return load(self.folder, self.model_name, self.args.device, self.args.dtype)

    def timed(self, stage: str) -> "Stopwatch":
        return Stopwatch(self.seconds, stage)

    def settings(self, task: Task, edit: dict[str, Any] | None) -> dict[str, Any]:
        """What decides a result's numbers; two runs with equal settings give the same result."""
        return {
            "task": task.name,
            "model": {"name": self.model_name, "sha256": self.model_sha256, "dtype": self.args.dtype},
            "data": self.sources[task.name].describe(),
            "limit": self.args.limit,
            "seed": self.args.seed,
            "edit": edit,
        }

    def todo(self, plan: results.EditPlan | None, edit: dict[str, Any] | None) -> list[Task]:
        """The tasks whose results do not exist yet; those that do are shown."""
        missing = []
        for task in self.tasks:
            path = results.stem(self.root, task.name, plan)
            found = results.existing(path, self.settings(task, edit), self.args.overwrite)
            if found is None:
                missing.append(task)
            else:
                print(f"\n{task.name}: already there, made with the same settings")
                show(path, found)
        return missing

    def score(self, lm: LM, task: Task, plan: results.EditPlan | None, edit: Any, extra: dict[str, Any]) -> None:
        """Score one task and write its result."""
        with self.timed("score") as watch:
            scored = score_model(lm, task, self.samples[task.name], self.args.batch_tokens)
        metrics = task.summarize(scored)
        result = {
            "task": task.name,
            "headline": next(iter(metrics)),
            "metrics": {name: asdict(measure) for name, measure in metrics.items()},
            "n": len({sample.id.rsplit("/", 1)[0] for sample, _, _ in scored}),
            "completions": len(scored),
            "truncated": sum(completion.truncated for _, completion, _ in scored),
            **extra,
            "settings": self.settings(task, edit),
            "environment": results.environment(str(lm.device)),
            "seconds": {**self.seconds, "score": watch.seconds},
        }
        path = results.stem(self.root, task.name, plan)
        results.write(path, result, scored)
        print(f"\n{task.name}: {result['n']} records from {self.sources[task.name].path}")
        show(path, result)


class Stopwatch:
    """`with Stopwatch(seconds, "stage")` notes how long the block took."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.into, self.stage, self.seconds = seconds, stage, 0.0

    def __enter__(self) -> "Stopwatch":
        self.start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = self.into[self.stage] = round(time.perf_counter() - self.start, 3)


def show(path: Path, result: dict[str, Any]) -> None:
    print(results.table(result["metrics"], result["n"]))
    print(f"-> {path}.json\n-> {path}.jsonl", flush=True)


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
            "regularizer": None if args.regularizer == "none" else {"name": args.regularizer, "keep": args.keep},
            "data": self.source.describe(),
        }

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
