"""analysis.retention: which edits hold, by when they were made."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_samples import Edited, make

from analysis.collect import read_all
from analysis.retention import Cohort, bounds, cohorts
from analysis.study import Study, studies


def with_success(file: Path, holds: Callable[[int], bool], refused: tuple[int, ...] = ()) -> None:
    """Let edit number i (from 1) of a result hold after the last one if `holds(i)`; some were refused."""
    content: dict[str, Any] = json.loads(file.read_text())
    for i, edit in enumerate(content["edits"], 1):
        edit["after"]["success"] = holds(i)
    content["refused"] = [{"edits": [content["edits"][i - 1]["index"] for i in refused], "reason": "x"}]
    file.write_text(json.dumps(content))


def study(root: Path) -> Study:
    (found,) = studies(read_all(root)[0])
    return found


@pytest.mark.parametrize(
    ("counts", "cuts"),
    [
        ([10, 30, 60, 120], [10, 30, 60, 120]),
        ([120], [30, 60, 90, 120]),
        ([30, 60], [15, 30, 45, 60]),
        ([3], [1, 2, 3]),
        ([5], [2, 3, 4, 5]),
        ([], []),
    ],
)
def test_bounds(counts: list[int], cuts: list[int]) -> None:
    assert bounds(counts) == cuts


def test_cohorts_by_hand(tmp_path: Path) -> None:
    """After 4 and 8 edits: the first two are forgotten by then, the third never was one."""
    for count in (2, 4, 6, 8):
        with_success(
            make(tmp_path, "NLI", 0.5, Edited(count)),
            lambda i, n=count: i > 2 or n == 2,  # type: ignore[misc]
            refused=(3,) if count >= 4 else (),
        )
    found = study(tmp_path)
    rows = cohorts(found, found.settings[0])
    assert [[(c.first, c.last, c.success.value) for c in row] for row in rows] == [
        [(1, 2, 1.0)],
        [(1, 2, 0.0), (3, 4, 1.0)],
        [(1, 2, 0.0), (3, 4, 1.0), (5, 6, 1.0)],
        [(1, 2, 0.0), (3, 4, 1.0), (5, 6, 1.0), (7, 8, 1.0)],
    ]
    assert [c.age for c in rows[-1]] == [6, 4, 2, 0]
    assert all(math.isnan(c.success.low) for row in rows[:-1] for c in row)
    assert all(c.success.low <= c.success.value <= c.success.high for c in rows[-1])


def test_a_cohort_that_is_only_begun(tmp_path: Path) -> None:
    """Cut evenly, the second number of edits of two ends within a cohort."""
    for count in (5, 8):
        with_success(make(tmp_path, "NLI", 0.5, Edited(count)), lambda i: i % 2 == 0)
    found = study(tmp_path)
    first, last = cohorts(found, found.settings[0])
    assert [(c.first, c.last) for c in first] == [(1, 2), (3, 4), (5, 5)]
    assert [(c.first, c.last) for c in last] == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert [c.success.value for c in first] == [0.5, 0.5, 0.0]


def test_repeats_are_averaged(tmp_path: Path) -> None:
    for draw, share in ((0, 2), (1, 4)):
        with_success(make(tmp_path, "NLI", 0.5, Edited(16, draw=draw)), lambda i, m=share: i % m == 0)  # type: ignore[misc]
    found = study(tmp_path)
    (row,) = cohorts(found, found.settings[0])
    assert len(row) == 4
    for cohort in row:
        assert cohort.success.value == pytest.approx((1 / 2 + 1 / 4) / 2)
        assert cohort.success.low <= 1 / 4 and cohort.success.high >= 1 / 2, "over the runs too"


def test_one_update_has_no_age(tmp_path: Path) -> None:
    make(tmp_path, "NLI", 0.5, Edited(8, "MEMIT", "Batch-Single"))
    found = study(tmp_path)
    assert cohorts(found, found.settings[0]) == []


def test_older_results_that_do_not_list_their_edits(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5, Edited(8))
    content = json.loads(file.read_text())
    del content["edits"]
    file.write_text(json.dumps(content))
    found = study(tmp_path)
    assert cohorts(found, found.settings[0]) == []


def test_age() -> None:
    assert Cohort(1, 30, 120, None).age == 90  # type: ignore[arg-type]
