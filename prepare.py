"""Fetch and check what runs need: python prepare.py model NAME | check-data DIR."""

import sys
from pathlib import Path

from core import data
from core.cli import Parser, script
from core.embedded import EMBEDDED_MODEL, prepare_embedded
from core.errors import UserError
from core.registry import discover
from core.sources import CACHE


def main() -> None:
    p = Parser(description=__doc__)
    commands = p.add_subparsers(dest="command", required=True, parser_class=Parser)
    model = commands.add_parser("model", help="make hugging_cache/NAME")
    model.add_argument("name", metavar="NAME", help=EMBEDDED_MODEL)
    model.add_argument("--overwrite", action="store_true", help="make it anew even if it is there")
    check = commands.add_parser("check-data", help="validate a data folder, record by record")
    check.add_argument("folder", metavar="DIR", type=Path, help="holds edited-data/, task-data/ and training-data/")
    args = p.parse_args()
    if args.command == "model":
        prepare_model(args.name, args.overwrite)
    else:
        for line in data.check(args.folder, discover("tasks", "TASK").values()):
            print(line)


def prepare_model(name: str, overwrite: bool) -> None:
    folder = CACHE / name
    if (folder / "config.json").is_file() and not overwrite:
        print(f"{folder} is already there")
    elif name == EMBEDDED_MODEL:
        prepare_embedded(folder)
        print(f"{folder} is ready")
    else:
        raise UserError(
            f"no recipe for '{name}': put its Hugging Face folder (config.json, safetensors, tokenizer) at {folder}; "
            f"only {EMBEDDED_MODEL} is prepared from here"
        )


if __name__ == "__main__":
    sys.exit(script(main))
