"""What a worker of a Ray cluster does: make a cell's results in a folder of its own, hand each over as it is made."""

import os
import platform
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from core import results
from core.errors import UserError
from experiment.asked import Experiment
from experiment.models import Models
from experiment.plan import Plan, resolve
from experiment.run import Made, existing, run


@dataclass(frozen=True)
class Order:
    """A cell to be made, and where it was ordered; by path the settings of all results, the summaries of those made."""

    cell: Experiment
    place: str
    settings: Mapping[str, dict[str, Any]]
    done: Mapping[str, str]

    @classmethod
    def of(cls, plan: Plan) -> "Order":
        """The order for what is missing of a plan's results."""
        done = {place(plan, stem): Path(f"{stem}.json").read_text("utf-8") for stem in existing(plan)}
        settings = {place(plan, wanted.stem): dict(wanted.settings) for wanted in plan.wanted}
        return cls(plan.experiment, os.getcwd(), settings, done)


@dataclass(frozen=True)
class Delivery:
    """A result on its way: its path without its ending, from the plan's root; its two files; where it was made."""

    stem: str
    samples: str
    summary: str
    host: str


def work(order: Order) -> Iterator[Delivery | str]:
    """Each result that is not there, as it is made; then, if the cell fails, its error as one line."""
    host = platform.node()
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        try:
            if os.path.isdir(order.place):  # else the code came by a runtime_env and is where we are
                os.chdir(order.place)
            plan = _named(resolve(replace(order.cell, results=Path(folder)), _models()), order)
            _prepare(plan, order)
            for event in run(plan, _models()):
                if isinstance(event, Made) and event.new:
                    stem = event.wanted.stem
                    samples, summary = (Path(f"{stem}{end}").read_text("utf-8") for end in (".jsonl", ".json"))
                    yield Delivery(place(plan, stem), samples, summary, host)
        except UserError as error:
            yield f"{error} (on {host})"
        except Exception as error:
            traceback.print_exc()  # the whole of it, into Ray's log
            yield f"{last_line(error)} (on {host})"


@cache
def _models() -> Models:
    """Those of this process."""
    return Models()


def place(plan: Plan, stem: Path | str) -> str:
    """A result's path from the plan's root, alike on every node."""
    return Path(stem).relative_to(plan.root).as_posix()


def last_line(error: Exception) -> str:
    """The last line of an exception's traceback."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[-1]


def _named(plan: Plan, order: Order) -> Plan:
    """The plan with the names that its results have where they were ordered."""
    pairs = zip(plan.wanted, order.settings, strict=True)
    return replace(plan, wanted=tuple(replace(wanted, stem=plan.root / stem) for wanted, stem in pairs))


def _prepare(plan: Plan, order: Order) -> None:
    """Put the results that are there into the plan's folder. UserError if it would make others than ordered."""
    for theirs, ours in zip(order.settings.values(), plan.wanted, strict=True):
        if not results.same(ours.settings, theirs):
            differing = results.differences(*map(results.without_paths, (theirs, ours.settings)))
            raise UserError(f"other files than where the sweep was started: {differing}")
    for stem, summary in order.done.items():
        file = plan.root / f"{stem}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(summary, "utf-8")
