"""The study's page: page.jinja, its numbers filled in from the tables of reports and masks.csv, makes README.md.

python -m docs.reproduction
"""

import csv
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from jinja2 import Environment, StrictUndefined

from analysis import words
from analysis.compare import LEVEL, holm
from analysis.export import EQUAL, UNEDITED
from core.disk.whole import whole
from core.errors import UserError
from core.script import script
from core.types import Measure

HERE = Path(__file__).parent
TEMPLATE = HERE / "page.jinja"
Row = dict[str, str]

RULES = {
    "none": ("none", "", ""),
    "RECT 40 %": ("rect", "0.4", ""),
    "RECT 20 %": ("rect", "0.2", ""),
    "RECT 20 % with feedback": ("rect", "0.2", '{"feedback": true}'),
    "scale 0.8": ("scale", "0.8", ""),
    "scale 0.6": ("scale", "0.6", ""),
    "random 40 %": ("random", "0.4", ""),
    "magnitude 40 %": ("magnitude", "0.4", ""),
    "PRUNE": ("prune", "", '{"variant": "log"}'),
}
"""A regulariser as the page calls it -> regularizer, keep and parameters in the tables."""
HEADLINES = ("solve_rate", "accuracy", "exact_match", "rouge_mean", "f1")
"""A task has one of them."""
ORDINARY = {"edit_data": "zsre", "limit": "24"}
"""The main part of the study, unless the page asks for another."""


@dataclass(frozen=True)
class At:
    """One method with one regulariser after so many edits: what the tables of one report say of it."""

    method: str
    rule: str
    edits: int
    results: list[Row] = field(repr=False)
    compared: list[Row] = field(repr=False)

    def rows(self, metric: str) -> list[Row]:
        """Against the unedited model, a row for each task in the paper's order; `metric` may be "headline".

        Raises LookupError if there is none, or if a task has two.
        """
        names = HEADLINES if metric == "headline" else (metric,)
        found = [row for row in self.compared if row["metric"] in names]
        if not found or len({row["task"] for row in found}) < len(found):
            raise LookupError(f"{len(found)} rows of comparisons.csv: {metric} of {self}")
        return found

    def of_tasks(self, metric: str) -> dict[str, float]:
        """Task -> its difference."""
        return {row["task"]: float(row["difference"]) for row in self.rows(metric)}

    def falls(self, metric: str) -> set[str]:
        """The tasks in which harm is shown, corrected over the tasks (Holm). All draws of edits must agree."""
        rows = self.rows(metric)
        pairs = zip(rows, holm([float(row["p"]) for row in rows]), strict=True)
        return {row["task"] for row, p in pairs if p < LEVEL and max(self._draws(row)) < 0}

    def _draws(self, row: Row) -> list[float]:
        """The difference of each draw; there is at least one."""
        same = _where(self.results, {"task": row["task"], "metric": row["metric"]})
        return [float(of_one["difference"]) for of_one in same]

    def edit_quality(self, metric: str) -> list[float]:
        """Of each draw, after its last edit: reliability, locality and so on."""
        return [float(row["value"]) for row in _where(self.results, {"task": "", "metric": f"after {metric}"})]


@dataclass(frozen=True)
class Draws:
    """The same in every report that has it: means over draws of edits, and the harm that all of them show."""

    reports: list[At]

    def mean(self, metric: str) -> float:
        """The mean difference over tasks and draws."""
        return mean(self.means(metric))

    def means(self, metric: str) -> list[float]:
        """The mean difference over the tasks, of each report."""
        return [mean(at.of_tasks(metric).values()) for at in self.reports]

    def of_task(self, metric: str, task: str) -> float:
        return mean(at.of_tasks(metric)[task] for at in self.reports)

    def falls(self, metric: str) -> list[str]:
        """The tasks in which harm is shown in every draw, in the paper's order."""
        shown = [at.falls(metric) for at in self.reports]
        return [task for task in self.reports[0].of_tasks(metric) if all(task in falls for falls in shown)]

    @property
    def draws(self) -> int:
        return len(self._edit_quality("reliability"))

    def quality(self, metric: str) -> float:
        """How the edits have fared after the last one: reliability, locality and so on, the mean over draws."""
        return mean(self._edit_quality(metric))

    @property
    def held(self) -> float:
        """How many facts hold after the last edit, the mean over draws."""
        return mean(self.helds)

    @property
    def helds(self) -> list[float]:
        """Of each draw."""
        return [self.reports[0].edits * share for share in self._edit_quality("reliability")]

    def _edit_quality(self, metric: str) -> list[float]:
        return [share for at in self.reports for share in at.edit_quality(metric)]

    def drift(self, tasks: list[str]) -> list[str]:
        """Of these tasks, as written."""
        return [words.number(self.of_task("drift", task), 2) for task in tasks]

    @property
    def ranked(self) -> list[str]:
        """The tasks, that of the largest drift first."""
        return sorted(self.reports[0].of_tasks("drift"), key=lambda task: -self.of_task("drift", task))


class Report:
    """results.csv and comparisons.csv of a folder."""

    def __init__(self, folder: Path) -> None:
        self.results, self.compared = (
            list(csv.DictReader((folder / name).open(encoding="utf-8"))) for name in ("results.csv", "comparisons.csv")
        )


class Tables:
    """The tables of a report, and of those of further draws of edits, asked as the page asks."""

    def __init__(self, *folders: Path) -> None:
        self.reports = [Report(folder) for folder in folders]

    def at(self, method: str, rule: str, edits: int, **also: Any) -> Draws:
        """`also` are further columns and what they hold, where method and rule leave a choice: mode, setting."""
        wanted = {**ORDINARY, "method": method, "edits": edits, **_columns(rule), **also}
        found = []
        for report in self.reports:
            compared = list(_where(report.compared, {**wanted, "against": UNEDITED}))
            found.append(At(method, rule, edits, list(_where(report.results, wanted)), compared))
        return Draws([at for at in found if at.compared] or found[:1])

    def made(self, *of: Any, **also: Any) -> bool:
        """Whether there are such results."""
        return bool(self.at(*of, **also).reports[0].compared)

    def first(self, method: str, rule: str, counts: list[int], metric: str, **also: Any) -> int | str:
        """The smallest of these numbers of edits from which on harm is shown at all later ones; a dash for none."""
        shown = [bool(self.at(method, rule, edits, **also).falls(metric)) for edits in counts]
        return next((edits for i, edits in enumerate(counts) if all(shown[i:])), words.UNKNOWN)

    def unedited(self, limit: int = 24) -> dict[str, float]:
        """The headline score of each task before any edit."""
        rows = list(_where(self.reports[0].results, {"edits": 0, "limit": limit}))
        return {row["task"]: float(row["value"]) for row in rows if row["metric"] in HEADLINES}

    def equal(self, method: str, regularizer: str, metric: str, **also: Any) -> list[Row]:
        """A regulariser against editing less, where as many facts hold: a row for each report that has it."""
        wanted = {**ORDINARY, "method": method, "regularizer": regularizer, "metric": metric, "against": EQUAL, **also}
        found = [row for report in self.reports for row in _where(report.compared, wanted)]
        if not found:
            raise LookupError(f"0 rows of comparisons.csv: {wanted}")
        return found


class Masks:
    """The table of `python -m benchmarks.masks`."""

    def __init__(self, file: Path) -> None:
        self.rows = list(csv.DictReader(file.open(encoding="utf-8")))

    def mean(self, rule: str, measure: str) -> float:
        """Over the layers (ratio, written), the tasks (drift), or of the edits (reliability).

        Raises LookupError if there is none.
        """
        found = [float(row["value"]) for row in _where(self.rows, {"rule": rule, "measure": measure})]
        if not found:
            raise LookupError(f"masks.csv has no {measure} of {rule}")
        return mean(found)


def _columns(rule: str) -> dict[str, str]:
    return dict(zip(("regularizer", "keep", "parameters"), RULES[rule], strict=True))


def _where(rows: list[Row], wanted: dict[str, Any]) -> Iterator[Row]:
    return (row for row in rows if all(row[name] == str(value) for name, value in wanted.items()))


def change(row: Row, digits: int = 3) -> str:
    """ "-0.05 [-0.07, -0.03]"."""
    measure = Measure(*(float(row[name]) for name in ("difference", "low", "high")))
    return f"{words.number(measure.value, digits, sign=True)} {words.bounds(measure, digits, sign=True)}"


def below(rows: list[Row]) -> bool:
    """Whether the whole interval lies below zero, in each."""
    return all(float(row["high"]) < 0 for row in rows)


def above(rows: list[Row]) -> bool:
    """Whether the whole interval lies above zero, in each."""
    return all(float(row["low"]) > 0 for row in rows)


def facts(number: float) -> str:
    """A number of facts: a mean over draws has a digit more."""
    return f"{round(number, 1):g}"


def so(claim: bool) -> str:
    """What a sentence of the page rests on. Raises ValueError if it is not so (any more)."""
    if not claim:
        raise ValueError("the sentence below is not true of the report's tables; write what is")
    return ""


def figure(name: str, study: int = 0) -> str:
    """The path of a figure of the report, from the page: `name` is how it ends. Raises LookupError if there is none."""
    found = sorted((HERE / "report/figures").glob(f"*-{name}.png"))
    if study >= len(found):
        raise LookupError(f"{len(found)} figures *-{name}.png in the report")
    return found[study].relative_to(HERE).as_posix()


def rendered(template: str, **given: Any) -> str:
    """The page's text; `given` is what it asks: `t`, the tables of all draws, `cf`, those of question 6, and `masks`.

    Raises UserError with the template's line if a sentence is not so, or if the tables lack what it asks for.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"n": words.number, "p": words.p_value, "change": change, "facts": facts}
    environment.filters["listed"] = lambda parts: words.listed([*parts])
    try:
        asked = {"so": so, "below": below, "above": above, "figure": figure, "rules": RULES}
        return environment.from_string(template).render(**asked, **given)
    except (ValueError, LookupError) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
        raise UserError(f"{TEMPLATE}, line {lines[-1]}: {error}") from error


def page() -> str:
    """As it must be."""
    template = TEMPLATE.read_text(encoding="utf-8")
    draws = sorted(HERE.glob("draw-*"))
    tables = {"t": Tables(HERE / "report", *draws), "cf": Tables(HERE / "counterfact")}
    return rendered(template, **tables, masks=Masks(HERE / "masks.csv"))


def main() -> None:
    with whole(HERE / "README.md") as file:
        file.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    script(main)
