"""The scripts test-task.py, test-task-after.py and sweep.py: what is asked for in, result files and tables out."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from core import hparams
from core.errors import Interrupted, UserError
from core.folders import shortened
from core.script import KEPT, Parser, positive
from experiment.arguments import after_parser, command, experiment, parser, sensible
from experiment.asked import Experiment, task_names
from experiment.grid import Sweep, cells, within
from inputs.sources import find_edits

if TYPE_CHECKING:
    from experiment.engines.local import Outcome


def test_task() -> None:
    """Score a model as it is."""
    _run(parser())


def test_task_after() -> None:
    """Edit a model, measure how well the edits took, and score it."""
    _run(after_parser())


def _run(p: argparse.ArgumentParser) -> None:
    args = p.parse_args()
    asked = sensible(experiment(args))
    from experiment.models import Models  # these bring torch: what is wrong with the words is said before
    from experiment.plan import resolve
    from experiment.run import run
    from experiment.show import text

    models = Models()
    plan = resolve(asked, models)
    for event in run(plan, models):
        print(shortened(text(event, plan, args.all_metrics)), flush=True)
    saved = asked.edit and asked.edit.save_model
    if saved and saved.exists():  # a model that has collapsed may be edited no further
        print(f"edited model -> {saved}")


def _sweep_parser() -> Parser:
    p = Parser(description="Score a grid of models, methods, modes and regularisers at growing numbers of edits.")
    p.add_argument("config", metavar="CONFIG.yaml", type=Path, help="the grid, e.g. configs/smoke.yaml")
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="instead of the file's")
    p.add_argument("--models", nargs="+", metavar="NAME", help="instead of the file's")
    p.add_argument("--repeats", type=int, metavar="R", help="random sets of edits, instead of the file's")
    p.add_argument("--limit", type=positive, metavar="N", help="only the first N records of each task")
    p.add_argument("--data", metavar="DIR", help="folder with task-data/ and edited-data/ to use instead of data/")
    p.add_argument("--results", metavar="DIR", help="default: test-result")
    p.add_argument("--engine", choices=("local", "ray"), default="local", help="default: local")
    p.add_argument("--workers", type=positive, metavar="N", help="processes (local; default: one per GPU)")
    p.add_argument("--address", help="of the Ray cluster (default: the one this machine belongs to, else a new one)")
    p.add_argument("--dry-run", action="store_true", help="only print the runs, as commands")
    p.add_argument("--estimate", action="store_true", help="time a little of everything, and say how long all takes")
    return p


def sweep() -> None:
    """Make a grid of experiments, and a line per cell that failed."""
    args = _sweep_parser().parse_args()
    if args.engine == "ray" and args.workers:
        raise UserError("--workers is for --engine local; on a Ray cluster every GPU, else every CPU, works")
    if args.engine == "local" and args.address:
        raise UserError("--address names a Ray cluster; it needs --engine ray")
    given = {name: getattr(args, name) for name in ("tasks", "models", "repeats", "limit", "data", "results")}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    try:
        asked = replace(hparams.load(Sweep, args.config), **given)
    except ValueError as error:  # a flag in the place of the file's value
        raise UserError(str(error)) from error
    task_names(asked.words)
    todo = cells(_fitting(asked))
    if args.dry_run:
        print("\n".join(map(command, todo)))
        return
    if args.estimate:
        from experiment.estimate import estimate

        for line in estimate(todo):
            print(line)
        return
    done: list[Outcome] = []
    try:
        with tqdm(total=len(todo), desc="sweep", unit="cell") as bar:
            for event in _engine(args, todo):
                if isinstance(event, str):
                    print(shortened(event), flush=True)
                    continue
                done.append(event)
                bar.update()
                if event.error:
                    tqdm.write(f"{command(event.cell)}\n  failed: {shortened(event.error)}", file=sys.stderr)
    except KeyboardInterrupt as stopped:
        raise Interrupted(f"{len(done)} of {len(todo)} cells were run; in the others {KEPT}") from stopped
    failed = [outcome for outcome in done if outcome.error]
    print(f"\n{len(done)} cells, {sum(outcome.made for outcome in done)} new results, {len(failed)} failed")
    if failed:
        raise UserError(f"{len(failed)} of {len(done)} cells failed, the first: {failed[0].error}")


def _fitting(sweep: Sweep) -> Sweep:
    """The sweep as far as there are edits for it; says what is left out."""
    folder = Path(sweep.data) if sweep.data else None
    edit_set, source = find_edits(sweep.edits, folder, edit_format=sweep.edit_format, target=sweep.target)
    file, records = source.path, len(edit_set.records(source.path))
    sweep, beyond = within(sweep, records)
    if beyond:
        counts = ", ".join(map(str, beyond))
        print(
            shortened(f"{file}: has {records} records; left out, from {sweep.begin} on: {counts} edits"),
            file=sys.stderr,
        )
    return sweep


def _engine(args: argparse.Namespace, todo: Sequence[Experiment]) -> "Iterator[str | Outcome]":
    """What the engine that was asked for shows, and the cells' outcomes."""
    from experiment.engines import local, ray_driver  # these bring torch

    if args.engine == "ray":
        return ray_driver.run(todo, args.address)
    return local.local(todo, args.workers)
