"""Fetch and check what runs need: python prepare.py model NAME | data | stats MODEL | check-data DIR | doctor."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from core.disk.lock import beside, held
from core.disk.whole import clear
from core.errors import UserError
from core.registry import discover
from core.script import Parser, positive, script
from editors.mend.archive import load as load_archive
from inputs import check, datasets, doctor, models, moments, suggest
from inputs.embedded import EMBEDDED_MODEL, prepare_embedded
from inputs.official import SETS
from inputs.sources import CACHE, DATA


def main() -> None:
    args = parser().parse_args()
    args.run(args)


def parser() -> Parser:
    p = Parser(description=__doc__)
    commands = p.add_subparsers(dest="command", required=True, parser_class=Parser)
    model = commands.add_parser("model", help="make hugging_cache/NAME")
    model.add_argument("name", metavar="NAME", help=f"{', '.join((EMBEDDED_MODEL, *models.REPOS))}, or any with --repo")
    model.add_argument("--repo", metavar="ORG/NAME", help="repository on the Hugging Face hub to take it from")
    model.add_argument("--revision", help="branch, tag or commit of it (default: main)")
    model.add_argument("--overwrite", action="store_true", help="make it anew even if it is there")
    model.set_defaults(run=lambda args: prepare_model(args.name, args.overwrite, args.repo, args.revision))
    sets = commands.add_parser("data", help="fetch the official data into data/")
    sets.add_argument("--only", nargs="+", metavar="TASK", default=[], help=", ".join({s.name: 0 for s in SETS}))
    sets.add_argument("--overwrite", action="store_true", help="fetch anew what is there")
    sets.set_defaults(run=prepare_data)
    stats = commands.add_parser("stats", help="fetch or compute the second moments that a method needs")
    moments.add_arguments(stats)
    stats.set_defaults(run=lambda args: moments.prepare(args, discover("editors", "EDITOR")))
    checking = commands.add_parser("check-data", help="validate a data folder, record by record")
    checking.add_argument("folder", metavar="DIR", type=Path, help="holds edited-data/, task-data/ and training-data/")
    checking.set_defaults(run=check_data)
    suggesting = commands.add_parser("suggest-hparams", help="write settings to start from, for a model without any")
    suggest.add_arguments(suggesting, positive)
    suggesting.set_defaults(run=lambda args: suggest.suggest(args, discover("editors", "EDITOR")))
    health = commands.add_parser("doctor", help="what is here, what is damaged, what would go wrong")
    health.add_argument("--model", metavar="NAME", help="only this model (default: all in hugging_cache/)")
    health.add_argument("--data", type=Path, metavar="DIR", help="the data in this folder instead of data/")
    health.set_defaults(run=examine)
    return p


def prepare_model(name: str, overwrite: bool, repo: str | None = None, revision: str | None = None) -> None:
    folder = CACHE / name
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"'{name}' is no name for a folder in {CACHE}/: --repo takes ORG/NAME")
    if (folder / "config.json").is_file() and not overwrite:
        with suppress(UserError), held([beside(folder)]):  # nobody is at work there: what a killed run has left
            clear(folder)
        print(f"{folder} is already there" + ("; --overwrite fetches it anew" if repo or revision else ""))
        return
    if repo or name in models.REPOS:
        models.prepare_model(folder, repo or models.REPOS[name], revision)
    elif name == EMBEDDED_MODEL:
        prepare_embedded(folder)
    else:
        raise UserError(
            f"no recipe for '{name}': put its Hugging Face folder (config.json, safetensors, tokenizer) at {folder}, "
            f"or name its repository with --repo; known: {', '.join((EMBEDDED_MODEL, *models.REPOS))}"
        )
    print(f"{folder} is ready")


def prepare_data(args: argparse.Namespace) -> None:
    tasks = discover("tasks", "TASK")
    datasets.Gatherer(DATA, tasks, args.overwrite).gather(datasets.chosen(SETS, args.only))


def examine(args: argparse.Namespace) -> None:
    sys.exit(doctor.Doctor(discover("tasks", "TASK"), load_archive).examine(args.model, args.data))


def check_data(args: argparse.Namespace) -> None:
    for line in check.check(args.folder, discover("tasks", "TASK").values()):
        print(line)


if __name__ == "__main__":
    sys.exit(script(main))
