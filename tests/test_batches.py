"""core.lm.batches: rows are parted into families that share many tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.lm import batches
from core.lm.batches import Family, families, side_by_side
from core.lm.tokens import Row

START = [*range(10)]


def parted(rows: list[Row]) -> list[tuple[int, list[int]]]:
    return sorted((family.shared, sorted(family.rows)) for family in families(rows))


def test_rows_that_start_alike_are_a_family() -> None:
    rows = [[*START, 1], [50], [*START, 2, 3], [*START], [60, *START]]
    assert parted(rows) == [(0, [1]), (0, [4]), (9, [0, 2, 3])], "a token of each is its own"


def test_few_that_share_much_count_more_than_many_that_share_little() -> None:
    long = [*START, *range(100, 150)]
    rows = [[*START, 1, *range(60)], [*long, 1], [*long, 2], [*START, 2, *range(60)]]
    assert parted(rows) == [(0, [0]), (0, [3]), (60, [1, 2])]
    many = [[*START, i, i] for i in range(9)]
    assert parted([*many, [*START, 1, 1, 1]]) == [(10, [*range(10)])]


@pytest.mark.parametrize(
    "rows",
    [[], [[]], [[1]], [[1, 2], [3]], [[*range(7), 1], [*range(7), 2]], [[*START, *range(90)], [*START, 5, *range(90)]]],
)
def test_a_short_beginning_is_no_family(rows: list[Row]) -> None:
    """Nor one that is less than an eighth of what there is."""
    assert parted(rows) == [(0, [i]) for i in range(len(rows))]


def saved(rows: list[Row], members: list[int]) -> int:
    shared = min(len(rows[i]) for i in members) - 1
    while shared > 0 and len({tuple(rows[i][:shared]) for i in members}) > 1:
        shared -= 1
    kept = Family(max(shared, 0), members).saved
    return kept if shared >= batches.SHORTEST and kept > sum(len(rows[i]) for i in members) // 8 else 0


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=6))
def test_no_one_family_saves_more(rows: list[Row]) -> None:
    """Than all that are found: of all rows that start with the same tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "SHORTEST", 2)
        found = families(rows)
        assert sorted(i for family in found for i in family.rows) == [*range(len(rows))]
        for family in found:
            assert len({tuple(rows[i][: family.shared]) for i in family.rows}) == 1
            assert all(family.shared < len(rows[i]) for i in family.rows)
        starts = {tuple(row[:n]) for row in rows for n in range(len(row))}
        runs = [
            [i for i, row in enumerate(rows) if tuple(row[: len(start)]) == start and len(row) > len(start)]
            for start in starts
        ]
        assert sum(family.saved for family in found) >= max(saved(rows, members) for members in runs)


def test_families_stand_side_by_side() -> None:
    rows = [[90] * 9, [*START, 1], [91] * 30, [*START, 2, 3, 4], [*START, *START, 1], [*START, *START, 2, 2]]
    order = side_by_side(rows)
    assert order == [5, 4, 3, 1, 2, 0]
