"""The command line of prepare.py: what runs need is fetched, checked or computed, and said in a line each.

What needs torch or a client of the hub is imported by the command that needs it: help texts appear at once.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from core import folders
from core.disk.lock import beside, held
from core.disk.whole import clear
from core.errors import UserError
from core.registry import discover, names, pick
from core.script import Parser, positive
from core.types import DTYPES
from inputs import official
from inputs.embedded import EMBEDDED_MODEL, prepare_embedded
from inputs.official import MOMENTS, REPOS
from tasks import SIX

KNOWN = ", ".join((EMBEDDED_MODEL, *REPOS))


def main() -> None:
    args = parser().parse_args()
    for line in args.run(args):
        print(folders.shortened(line), flush=True)


def parser() -> Parser:
    p = Parser(description="Fetch, check and suggest what runs need.")
    commands = p.add_subparsers(dest="command", required=True, parser_class=Parser)
    model = commands.add_parser("model", help="make hugging_cache/NAME")
    model.add_argument("name", metavar="NAME", help=f"{KNOWN}, or any with --repo")
    model.add_argument("--repo", metavar="ORG/NAME", help="repository on the Hugging Face hub to take it from")
    model.add_argument("--revision", help="branch, tag or commit of it (default: main)")
    model.add_argument("--overwrite", action="store_true", help="make it again even if it exists")
    model.set_defaults(run=lambda args: prepare_model(args.name, args.overwrite, args.repo, args.revision))
    sets = commands.add_parser("data", help="fetch the official data into data/")
    usual, *more = (
        ", ".join(dict.fromkeys(one.name for one in part)) for part in (official.SETS, official.FACTS, official.GLUE)
    )
    only = f"{usual} (all by default); {'; '.join(more)}, or glue for these six"
    sets.add_argument("--only", nargs="+", metavar="NAME", default=[], help=only)
    sets.add_argument("--overwrite", action="store_true", help="fetch again what exists")
    sets.set_defaults(run=prepare_data)
    checking = commands.add_parser("check-data", help="validate a data folder, record by record")
    checking.add_argument("folder", metavar="DIR", type=Path, help="holds edited-data/, task-data/ and training-data/")
    checking.set_defaults(run=check_data)
    add_stats(commands.add_parser("stats", help="fetch or compute the second moments that a method needs"))
    add_suggest(commands.add_parser("suggest-hparams", help="write settings to start from, for a model without any"))
    health = commands.add_parser("doctor", help="what is here, what is damaged, what would go wrong")
    health.add_argument("--model", metavar="NAME", help="only this model (default: all in hugging_cache/)")
    health.add_argument("--data", type=Path, metavar="DIR", help="the data in this folder instead of data/")
    health.set_defaults(run=examine)
    return p


def add_stats(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="MODEL", help="name in hugging_cache/ or a folder")
    p.add_argument("--method", default="MEMIT", help="whose settings say what is needed (default: MEMIT)")
    p.add_argument("--hparams", type=Path, metavar="FILE", help="settings (default: hparams/METHOD/MODEL.yaml)")
    p.add_argument("--url", metavar="BASE", default=MOMENTS, help=f"published statistics (default: {MOMENTS})")
    p.add_argument("--device", help="where to compute what is not published (default: cuda if available)")
    p.set_defaults(run=prepare_moments)


def add_suggest(p: argparse.ArgumentParser) -> None:
    p.add_argument("--model", metavar="NAME", help="name in hugging_cache/ or a folder (default: as test-task.py)")
    p.add_argument("--method", required=True, help=" or ".join(", ".join(names("editors", "EDITOR")).rsplit(", ", 1)))
    p.add_argument("--device", help="e.g. cuda, cuda:1 or cpu (default: cuda if available)")
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of the model's weights (default: float32)")
    p.add_argument("--data", type=Path, metavar="DIR", help="folder with edited-data/ to use instead of data/")
    p.add_argument("--limit", type=positive, default=30, metavar="N", help="facts to trace (default: 30)")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: hparams/METHOD/MODEL.yaml (and TRAINING/ of it)")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw the effect per layer (PNG)")
    p.add_argument("--overwrite", action="store_true", help="replace existing settings")
    p.set_defaults(run=suggest_hparams)


def prepare_model(name: str, overwrite: bool, repo: str | None = None, revision: str | None = None) -> Iterator[str]:
    """Make hugging_cache/NAME, from the repository given or the one of that name."""
    folder = folders.MODELS / name
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"'{name}' is no name for a folder in {folders.MODELS}/: --repo takes ORG/NAME")
    if (folder / "config.json").is_file() and not overwrite:
        with suppress(UserError), held([beside(folder)]):  # nobody is making it: remove what a killed run has left
            clear(folder)
        yield f"{folder} is already there" + ("; --overwrite fetches it anew" if repo or revision else "")
        return
    if repo or name in REPOS:
        from inputs import models

        models.prepare_model(folder, repo or REPOS[name], revision)
    elif name == EMBEDDED_MODEL:
        prepare_embedded(folder)
    else:
        raise UserError(
            f"no recipe for '{name}': put its Hugging Face folder (config.json, safetensors, tokenizer) at {folder}, "
            f"or name its repository with --repo; known: {KNOWN}"
        )
    yield f"{folder} is ready"


def prepare_data(args: argparse.Namespace) -> Iterator[str]:
    from inputs import datasets

    tasks, edit_sets = discover("tasks", "TASK"), discover("edit_sets", "EDIT_SET")
    gatherer = datasets.Gatherer(folders.DATA, tasks, edit_sets, args.overwrite)
    only = [name for word in args.only for name in (SIX if word == "glue" else (word,))]
    return gatherer.gather(datasets.chosen(official.SETS, only, (*official.FACTS, *official.GLUE)))


def check_data(args: argparse.Namespace) -> Iterator[str]:
    from inputs import check

    tasks, edit_sets = discover("tasks", "TASK"), discover("edit_sets", "EDIT_SET")
    return check.check(args.folder, tasks.values(), edit_sets.values())


def prepare_moments(args: argparse.Namespace) -> Iterator[str]:
    from inputs import moments

    method = pick("method", args.method, discover("editors", "EDITOR"))
    return moments.prepare(args.model, method, args.hparams, args.url, args.device)


def suggest_hparams(args: argparse.Namespace) -> Iterator[str]:
    from inputs import suggest

    method = pick("method", args.method, discover("editors", "EDITOR"))
    given = {key: value for key, value in vars(args).items() if key not in ("command", "run", "method")}
    return suggest.Suggestion(method=method, **given).write()


def examine(args: argparse.Namespace) -> Iterator[str]:
    """Ends with exit code 1 if something is damaged."""
    from inputs import doctor

    plug_ins = discover("tasks", "TASK"), discover("editors", "EDITOR"), discover("edit_sets", "EDIT_SET")
    patient = doctor.Doctor(*plug_ins)
    yield from patient.examine(args.model, args.data)
    sys.exit(int(bool(patient.broken)))
