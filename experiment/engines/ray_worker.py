"""What a worker of a Ray cluster does: make a cell's results in a folder of its own, hand each over as it is made."""

import os
import platform
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import results
from core.errors import UserError
from experiment.edit_session import Plugins
from experiment.grid import Cell
from experiment.run import Session, Wanted


@dataclass(frozen=True)
class Order:
    """A cell to be made: the repository's folder, the settings of all results, the summaries of those made before."""

    cell: Cell
    place: str
    settings: list[dict[str, Any]]
    done: Mapping[str, str]

    @classmethod
    def of(cls, cell: Cell, session: Session, missing: Sequence[Wanted]) -> "Order":
        """The order for what a session misses."""
        there = [session.stem(wanted) for wanted in session.wanted() if wanted not in missing]
        done = {stem.relative_to(session.root).as_posix(): Path(f"{stem}.json").read_text("utf-8") for stem in there}
        return cls(cell, os.getcwd(), settings_of(session), done)


@dataclass(frozen=True)
class Made:
    """A result on its way: its path without its ending, from the session's root; its two files; where it was made."""

    stem: str
    samples: str
    summary: str
    host: str


def work(order: Order, plugins: Plugins) -> Iterator[Made | str]:
    """Each result that is not there, as it is made; then, if the cell fails, its error as one line."""
    host = platform.node()
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        try:
            if os.path.isdir(order.place):  # else the code came by a runtime_env and is where we are
                os.chdir(order.place)
            cell = replace(order.cell, arguments=(*order.cell.arguments, "--results", folder))
            session = cell.session(plugins)
            _prepare(session, order)
            for path in session.run():
                stem = path.relative_to(session.root).as_posix()
                samples, summary = (Path(f"{path}{ending}").read_text("utf-8") for ending in (".jsonl", ".json"))
                yield Made(stem, samples, summary, host)
        except UserError as error:
            yield f"{error} (on {host})"
        except Exception as error:
            traceback.print_exc()  # the whole of it, into Ray's log
            yield f"{last_line(error)} (on {host})"


def settings_of(session: Session) -> list[dict[str, Any]]:
    """The settings of every result, in the order they are made."""
    return [session.settings(wanted) for wanted in session.wanted()]


def last_line(error: Exception) -> str:
    """The last line of an exception's traceback."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[-1]


def _prepare(session: Session, order: Order) -> None:
    """Put the results that are there into the session's folder. UserError if it would make others than ordered."""
    for theirs, ours in zip(order.settings, settings_of(session), strict=True):
        if ours != theirs:
            raise UserError(f"other files than where the sweep was started: {results.differences(theirs, ours)}")
    for stem, summary in order.done.items():
        file = session.root / f"{stem}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(summary, "utf-8")
