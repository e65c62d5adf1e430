"""The table of question 5, which `python -m benchmarks.masks` writes: what a mask does to MEMIT's update."""

import csv
from pathlib import Path
from statistics import mean

from docs.reproduction.tables import where

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
        found = [float(row["value"]) for row in where(self.rows, {"rule": MASKS[rule], "measure": measure})]
        if not found:
            raise LookupError(f"masks.csv has no {measure} of {rule}")
        return mean(found)
