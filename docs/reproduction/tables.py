"""The tables that the study's page is made from, asked as the page asks: of reports, and of the masks of question 5."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from analysis import words
from analysis.collect import Setting
from analysis.compare import LEVEL, holm
from analysis.export import EQUAL, UNEDITED
from analysis.harm import HARMS, Equal, Spot, equal

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
MASKS = {
    "none": "none",
    "RECT 40 %": "rect:keep=0.4",
    "RECT 20 %": "rect:keep=0.2",
    "RECT 20 % with feedback": "rect:keep=0.2,feedback=true",
    "random 40 %": "random:keep=0.4",
    "magnitude 40 %": "magnitude:keep=0.4",
    "scale 0.8": "scale:keep=0.8",
    "scale 0.6": "scale:keep=0.6",
}
"""A regulariser as the page calls it -> as masks.csv does."""
HEADLINES = ("solve_rate", "accuracy", "exact_match", "rouge_mean", "f1")
"""A task has one of them."""
PAST_KEYS = "(cache)"
"""How a setting with them ends in the tables."""
LONG = (("MEMIT", "MEMIT", False), ("MEMIT with past keys", "MEMIT", True), ("AlphaEdit", "AlphaEdit", False))
"""The methods of question 4: as the page calls them, as the tables do, and whether with past keys."""
COUNTS = (10, 30)
CONTROL = ("none", "scale 0.8", "scale 0.6")
"""Editing less."""
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

    def spot(self, measure: str) -> Spot:
        """Facts that hold and harm, the mean over the tasks; without resamples, which no table has."""
        held, harm = self.edits * mean(self.edit_quality("reliability")), mean(self.of_tasks(measure).values())
        return Spot(_setting(self.method, self.rule), self.edits, np.array([held]), np.array([HARMS[measure] * harm]))


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

    def at(self, method: str, rule: str, edits: int, **also: Any) -> At:
        """Its rows may be none. `also` are further columns and what they hold."""
        wanted = {**ORDINARY, "method": method, "edits": edits, **_columns(rule), **also}
        compared = list(_where(self.compared, {**wanted, "against": UNEDITED}))
        return At(method, rule, edits, list(_where(self.results, wanted)), compared)

    def spots(self, method: str, rules: Sequence[str], measure: str, **also: Any) -> list[Spot]:
        """Of these rules after 10 and 30 edits, as far as they were run."""
        found = [self.at(method, rule, edits, **also) for rule in rules for edits in COUNTS]
        return [at.spot(measure) for at in found if at.compared]


class Tables:
    """The tables of a report, and of those of further draws of edits, asked as the page asks."""

    def __init__(self, *folders: Path) -> None:
        self.reports = [Report(folder) for folder in folders]

    def at(self, method: str, rule: str, edits: int, **also: Any) -> Draws:
        """`also` are further columns and what they hold, where method and rule leave a choice: mode, setting."""
        found = [report.at(method, rule, edits, **also) for report in self.reports]
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

    def grown(self, method: str) -> int:
        """In how many tasks, draw by draw, 30 edits without a regulariser have moved the model further than 10."""
        few, many = (self.at(method, "none", edits).reports for edits in COUNTS)
        pairs = [(a.of_tasks("drift"), b.of_tasks("drift")) for a, b in zip(few, many, strict=True)]
        return sum(after[task] > before[task] for before, after in pairs for task in before)

    def less(self, method: str, rule: str, measure: str) -> list[Equal]:
        """One regulariser against editing less where as many facts hold, in each draw that has it.

        Both are read off the line through the unedited model, 10 and 30 edits: analysis.harm says how.
        """
        found = []
        for report in self.reports:
            if curve := report.spots(method, [rule], measure):
                control = report.spots(method, CONTROL, measure)
                found.append(equal(curve[0].setting, measure, curve, control))
        return found

    def long(self) -> Iterator[tuple[str, str, Draws]]:
        """Of question 4 all that was run: the method, the rule, and what was found after 200 edits."""
        for name, method, past in LONG:
            for rule in ("none", "RECT 40 %", "RECT 20 % with feedback", "PRUNE"):
                wanted = {"limit": 40, "edits": 200, "method": method, **_columns(rule)}
                rows = _where(self.reports[0].compared, wanted)
                settings = dict.fromkeys(row["setting"] for row in rows if row["setting"].endswith(PAST_KEYS) == past)
                for setting in settings:
                    yield name, rule, self.at(method, rule, 200, limit=40, setting=setting)

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

    @property
    def rules(self) -> list[str]:
        """As the page calls them."""
        asked = {written: rule for rule, written in MASKS.items()}
        return [asked[written] for written in dict.fromkeys(row["rule"] for row in self.rows)]

    def mean(self, rule: str, measure: str) -> float:
        """Over the layers (ratio, written), the tasks (drift), or of the edits (reliability).

        Raises LookupError if there is none.
        """
        found = [float(row["value"]) for row in _where(self.rows, {"rule": MASKS[rule], "measure": measure})]
        if not found:
            raise LookupError(f"masks.csv has no {measure} of {rule}")
        return mean(found)


def _columns(rule: str) -> dict[str, str]:
    return dict(zip(("regularizer", "keep", "parameters"), RULES[rule], strict=True))


def _setting(method: str, rule: str) -> Setting:
    """As far as a table tells it."""
    return Setting("", method, None, _columns(rule)["regularizer"], None, "")


def _where(rows: list[Row], wanted: dict[str, Any]) -> Iterator[Row]:
    return (row for row in rows if all(row[name] == str(value) for name, value in wanted.items()))
