"""The tables of reports that the study's page is made from, asked as the page asks."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from analysis import words
from analysis.collect import Setting
from analysis.compare import LEVEL, holm
from analysis.export import EQUAL
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
HEADLINES = ("solve_rate", "accuracy", "exact_match", "rouge_mean", "f1")
"""A task has one of them."""
PAST_KEYS = "cache"
"""The folder of results with them."""
LONG = (("MEMIT", "MEMIT", False), ("MEMIT with past keys", "MEMIT", True), ("AlphaEdit", "AlphaEdit", False))
"""The methods of question 4: as the page calls them, as the tables do, and whether with past keys."""
LONG_RULES = ("none", "RECT 40 %", "RECT 20 % with feedback", "scale 0.8", "PRUNE")
SETS = {"": "sample data", "1": "ZsRE, draw 1", "2": "ZsRE, draw 2"}
"""Draw -> the facts of question 4."""
COUNTS = (10, 30)
CONTROL = ("scale 0.8", "scale 0.6")
"""Editing less."""
ORDINARY = {"edit_data": "zsre", "limit": "24"}
"""The main part of the study, unless the page asks for another."""


@dataclass(frozen=True)
class At:
    """One method with one regulariser after so many edits of one draw: its rows of results.csv."""

    method: str
    rule: str
    edits: int
    draw: str
    results: list[Row] = field(repr=False)

    def rows(self, metric: str) -> list[Row]:
        """A row for each task in the paper's order; `metric` may be "headline".

        Raises LookupError if there is none, or if a task has two.
        """
        names = HEADLINES if metric == "headline" else (metric,)
        found = [row for row in self.results if row["task"] and row["metric"] in names]
        if not found or len({row["task"] for row in found}) < len(found):
            raise LookupError(f"{len(found)} rows of results.csv: {metric} of {self}")
        return found

    def of_tasks(self, metric: str) -> dict[str, float]:
        """Task -> its difference from the unedited model."""
        return {row["task"]: float(row["difference"]) for row in self.rows(metric)}

    def falls(self, metric: str) -> set[str]:
        """The tasks in which harm is shown, corrected over the tasks (Holm)."""
        rows = self.rows(metric)
        pairs = zip(rows, holm([float(row["p"]) for row in rows]), strict=True)
        return {row["task"] for row, p in pairs if p < LEVEL and float(row["difference"]) < 0}

    def quality(self, metric: str) -> float:
        """How the edits have fared after the last one: reliability, locality and so on."""
        (row,) = where(self.results, {"task": "", "metric": f"after {metric}"})
        return float(row["value"])

    def spot(self, measure: str) -> Spot:
        """Facts that hold and harm, the mean over the tasks; without resamples, which no table has."""
        held, harm = self.edits * self.quality("reliability"), mean(self.of_tasks(measure).values())
        return Spot(_setting(self.method, self.rule), self.edits, np.array([held]), np.array([HARMS[measure] * harm]))


@dataclass(frozen=True)
class Draws:
    """The same of every draw of edits that was made: means over them, and the harm that all of them show."""

    each: list[At]

    @property
    def undrawn(self) -> "Draws":
        """Of the facts in the order of their file: the sample data's, of question 4."""
        return Draws([at for at in self.each if not at.draw])

    @property
    def drawn(self) -> "Draws":
        """Of random draws."""
        return Draws([at for at in self.each if at.draw])

    def mean(self, metric: str) -> float:
        """The mean difference over tasks and draws."""
        return mean(mean(at.of_tasks(metric).values()) for at in self.each)

    @property
    def drifts(self) -> list[str]:
        """The mean over the tasks, of each draw, as written: three digits where two say little."""
        values = [mean(at.of_tasks("drift").values()) for at in self.each]
        return [words.number(value, 2 if min(values) >= 0.1 else 3) for value in values]

    @property
    def helds(self) -> list[str]:
        """How many facts hold after the last edit, of each draw."""
        return [f"{at.edits * at.quality('reliability'):.0f}" for at in self.each]

    def highest(self, metric: str) -> float:
        """The largest difference of all tasks and draws."""
        return max(max(at.of_tasks(metric).values()) for at in self.each)

    def of_task(self, metric: str, task: str) -> float:
        return mean(at.of_tasks(metric)[task] for at in self.each)

    def falls(self, metric: str) -> list[str]:
        """The tasks in which harm is shown in every draw, in the paper's order."""
        shown = [at.falls(metric) for at in self.each]
        return [task for task in self.each[0].of_tasks(metric) if all(task in falls for falls in shown)]

    def harmed(self, metric: str) -> list[str]:
        """How many tasks are shown to be harmed in each draw, as written."""
        return [str(len(at.falls(metric))) for at in self.each]

    @property
    def draws(self) -> int:
        return len(self.each)

    def quality(self, metric: str) -> float:
        """How the edits have fared after the last one: reliability, locality and so on."""
        return mean(at.quality(metric) for at in self.each)

    @property
    def held(self) -> float:
        """How many facts hold after the last edit."""
        return self.each[0].edits * self.quality("reliability")

    def drift(self, tasks: list[str]) -> list[str]:
        """Of these tasks, as written."""
        return [words.number(self.of_task("drift", task), 2) for task in tasks]

    @property
    def ranked(self) -> list[str]:
        """The tasks, that of the largest drift first."""
        return sorted(self.each[0].of_tasks("drift"), key=lambda task: -self.of_task("drift", task))


class Tables:
    """results.csv and comparisons.csv of reports, asked as the page asks. A draw of edits is in one of them."""

    def __init__(self, *folders: Path) -> None:
        self.results, self.compared = (
            [row for folder in folders for row in csv.DictReader((folder / name).open(encoding="utf-8"))]
            for name in ("results.csv", "comparisons.csv")
        )

    def at(self, method: str, rule: str, edits: int, **also: Any) -> Draws:
        """`also` are further columns and what they hold, where method and rule leave a choice: mode, setting.

        Raises LookupError if there is nothing.
        """
        if (found := self._found(method, rule, edits, **also)).each:
            return found
        raise LookupError(f"results.csv has no {method}, {rule} after {edits} edits {also or ''}".rstrip())

    def made(self, *of: Any, **also: Any) -> bool:
        """Whether there are such results."""
        return bool(self._found(*of, **also).each)

    def _found(self, method: str, rule: str, edits: int, **also: Any) -> Draws:
        """There may be none."""
        wanted = {**ORDINARY, "method": method, "edits": edits, **_columns(rule), **also}
        return _by_draw(method, rule, edits, where(self.results, wanted))

    def first(self, method: str, rule: str, counts: list[int], metric: str, **also: Any) -> int | str:
        """The smallest of these numbers of edits from which on harm is shown at all later ones; a dash for none."""
        shown = [bool(self.at(method, rule, edits, **also).falls(metric)) for edits in counts]
        return next((edits for i, edits in enumerate(counts) if all(shown[i:])), words.UNKNOWN)

    def unedited(self, limit: int = 24) -> dict[str, float]:
        """The headline score of each task before any edit."""
        rows = list(where(self.results, {"edits": 0, "limit": limit}))
        return {row["task"]: float(row["value"]) for row in rows if row["metric"] in HEADLINES}

    def above_trivial(self, limit: int = 24) -> list[str]:
        """The tasks in which the unedited model scores more than the best constant answer."""
        rows = where(self.results, {"edits": 0, "limit": limit, "metric": "trivial"})
        trivial, scores = {row["task"]: float(row["value"]) for row in rows}, self.unedited(limit)
        return [task for task, score in scores.items() if score > trivial[task]]

    def grown(self, method: str) -> int:
        """In how many tasks, draw by draw, 30 edits without a regulariser have moved the model further than 10."""
        few, many = (self.at(method, "none", edits).each for edits in COUNTS)
        pairs = [(a.of_tasks("drift"), b.of_tasks("drift")) for a, b in zip(few, many, strict=True)]
        return sum(after[task] > before[task] for before, after in pairs for task in before)

    def spots(self, method: str, rules: Sequence[str], measure: str, **also: Any) -> dict[str, list[Spot]]:
        """Of each draw these rules after 10 and 30 edits, as far as they were run."""
        found: dict[str, list[Spot]] = {}
        for rule, edits in itertools.product(rules, COUNTS):
            for at in self._found(method, rule, edits, **also).each:
                found.setdefault(at.draw, []).append(at.spot(measure))
        return found

    def less(self, method: str, rule: str, measure: str, control: Sequence[str] = CONTROL, **also: Any) -> list[Equal]:
        """One regulariser against `scale` where as many facts hold, in each draw that has it.

        Both are read off the line through the unedited model, 10 and 30 edits: analysis.harm says how. Where the
        regulariser holds more than `scale` ever does, its own line is read back.
        """
        other, own = (self.spots(method, rules, measure, **also) for rules in (control, [rule]))
        return [equal(curve[0].setting, measure, curve, other[draw]) for draw, curve in own.items()]

    def long(self) -> dict[tuple[str, str], Draws]:
        """Of question 4 all that was run: the method and the rule -> what was found after 200 edits."""
        found = {}
        for (name, method, past), rule in itertools.product(LONG, LONG_RULES):
            rows = where(self.results, {"limit": 40, "edits": 200, "method": method, **_columns(rule)})
            if own := [row for row in rows if (PAST_KEYS in Path(row["path"]).parts) == past]:
                found[name, rule] = _by_draw(method, rule, 200, own)
        return found

    def long_less(self, method: str, rule: str, measure: str) -> list[Equal]:
        """As `less`, over 200 facts: both lines go straight from the unedited model to what was found after them."""
        found = self.long()
        own, scaled = ({at.draw: at.spot(measure) for at in found[method, name].each} for name in (rule, CONTROL[0]))
        return [equal(spot.setting, measure, [spot], [scaled[draw]]) for draw, spot in own.items() if draw in scaled]

    def equal(self, method: str, regularizer: str, metric: str, **also: Any) -> Row:
        """A regulariser against editing less where as many facts hold, the better of its settings: of a report."""
        wanted = {**ORDINARY, "method": method, "regularizer": regularizer, "metric": metric, "against": EQUAL, **also}
        (row,) = where(self.compared, wanted)
        return row


def _by_draw(method: str, rule: str, edits: int, rows: Iterable[Row]) -> Draws:
    draws: dict[str, list[Row]] = {}
    for row in rows:
        draws.setdefault(row["draw"], []).append(row)
    return Draws([At(method, rule, edits, draw, own) for draw, own in sorted(draws.items())])


def _columns(rule: str) -> dict[str, str]:
    return dict(zip(("regularizer", "keep", "parameters"), RULES[rule], strict=True))


def _setting(method: str, rule: str) -> Setting:
    """As far as a table tells it."""
    return Setting("", method, None, _columns(rule)["regularizer"], None, "")


def where(rows: list[Row], wanted: dict[str, Any]) -> Iterator[Row]:
    """Those that hold what is wanted, column by column."""
    return (row for row in rows if all(row[name] == str(value) for name, value in wanted.items()))
