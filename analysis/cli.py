"""python report.py [RESULTS] [--out DIR]: result files in, a folder with the report out, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import GENERATOR
from core import folders
from core.disk.whole import whole
from core.errors import UserError
from core.script import Parser

if TYPE_CHECKING:
    from analysis.plots.style import Picture

TITLE = "What did the edits break?"
OURS = {"index.html", "figures", "results.csv", "comparisons.csv"}


def main() -> None:
    p = Parser(description="Turn result files into one self-contained report.")
    p.add_argument(
        "results", type=Path, nargs="?", default=folders.RESULTS, metavar="RESULTS", help="default: test-result"
    )
    p.add_argument("--out", type=Path, default=folders.REPORT, metavar="DIR", help="default: report")
    p.add_argument("--title", default=TITLE, help=f"default: {TITLE}")
    args = p.parse_args()
    replaceable(args.out)

    # After --help and wrong arguments: matplotlib and scipy take seconds to import.
    from analysis.collect import read_all
    from analysis.export import comparisons_text, csv_text
    from analysis.findings import findings
    from analysis.html.page import build
    from analysis.study import studies

    runs, copies = read_all(args.results)
    found = {study: findings(study) for study in studies(runs)}
    page, pictures = build(found, args.title, copies)
    compared = comparisons_text([f for mine in found.values() for f in mine])
    write(args.out, page, pictures, {"results.csv": csv_text(list(found)), "comparisons.csv": compared})
    print(f"{len(runs)} results -> {args.out / 'index.html'}")


def replaceable(folder: Path) -> None:
    """Raise UserError unless `folder` is absent, empty, or an older report."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if names and not (names <= OURS and _made_here(folder / "index.html")):
        raise UserError(f"{folder} holds something that is no report; name another folder with --out")


def _made_here(page: Path) -> bool:
    try:
        return GENERATOR in page.read_text(encoding="utf-8")[:1000]
    except (OSError, ValueError):
        return False


def write(folder: Path, page: str, pictures: "Mapping[str, Picture]", tables: Mapping[str, str]) -> None:
    """Put the report at `folder`, in place of an older one. Raises UserError if that cannot be done."""
    with whole(folder.resolve(), "--out DIR names another place") as new:
        (new / "figures").mkdir(parents=True)
        (new / "index.html").write_text(page, encoding="utf-8")
        for name, text in tables.items():
            (new / name).write_text(text, encoding="utf-8")
        for name, picture in pictures.items():
            (new / "figures" / f"{name}.svg").write_bytes(picture.svg)
            (new / "figures" / f"{name}.png").write_bytes(picture.png)
