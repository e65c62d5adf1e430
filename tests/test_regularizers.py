"""Regularisers: exactly round(k n) entries, the right ones, ties and infinities included."""

import math

import pytest
import torch

from editors.regularizers import NAMES, _kth_largest, count, keep_top, pca, rect, regularizer


@pytest.mark.parametrize(
    ("keep", "n", "wanted"), [(0.4, 10, 4), (0.25, 10, 3), (0.001, 10, 1), (1.0, 7, 7), (0.5, 5, 3)]
)
def test_count_rounds_half_up(keep: float, n: int, wanted: int) -> None:
    assert count(keep, n) == wanted


def test_rect_keeps_the_largest_relative_changes() -> None:
    weight = torch.tensor([[1.0, 2.0, 4.0], [-1.0, 0.0, 0.5]])
    delta = torch.tensor([[0.5, -2.0, 1.0], [0.1, 1e-3, 0.0]])  # |D / W|: .5 1 .25 / .1 1e5 0
    assert rect(weight, delta, 0.34).tolist() == [[0.0, -2.0, 0.0], [0.0, pytest.approx(1e-3), 0.0]]
    assert rect(weight, delta, 0.5).tolist() == [[0.5, -2.0, 0.0], [0.0, pytest.approx(1e-3), 0.0]]


@pytest.mark.parametrize("keep", [0.01, 0.2, 0.4, 0.777, 1.0])
@pytest.mark.parametrize("name", ["rect", "random", "magnitude"])
def test_exactly_that_many_entries_stay(name: str, keep: float) -> None:
    torch.manual_seed(3)
    weight, delta = torch.randn(31, 17), torch.randn(31, 17) + 3  # no zero in it
    kept = regularizer(name, keep)(weight, delta)
    assert int((kept != 0).sum()) == count(keep, delta.numel())
    assert torch.equal(kept[kept != 0], delta[kept != 0])


@pytest.mark.parametrize("k", [1, 2, 5, 6, 11, 12])
def test_ties_stay_in_order_of_position(k: int) -> None:
    score = torch.tensor([1.0, 2, 2, 2, 1, 3, 2, 1, 1, 3, 2, 0])
    kept = keep_top(torch.ones(12), score, k / 12)
    order = sorted(range(12), key=lambda i: (-float(score[i]), i))
    assert kept.nonzero().flatten().tolist() == sorted(order[:k])


def test_kth_largest_equals_sorting() -> None:
    score = torch.cat([torch.rand(5000).pow(8), torch.zeros(50), torch.tensor([math.inf, 1e-38, 1e-42, 3e38])])
    ordered = score.sort(descending=True).values
    for k in (1, 2, 3, 2500, 5000, 5003, 5054):
        assert _kth_largest(score.view(torch.int32), k) == int(ordered[k - 1].view(torch.int32))


def test_pca_is_the_best_approximation() -> None:
    delta = torch.randn(8, 5)
    low = pca(delta, 0.4)
    assert torch.linalg.matrix_rank(low) == 2
    s = torch.linalg.svdvals(delta)
    assert math.isclose(float((delta - low).norm()), float(s[2:].norm()), rel_tol=1e-5)


def test_random_is_seeded_and_moves_on() -> None:
    delta = torch.ones(20, 20)
    rule = regularizer("random", 0.4)
    torch.manual_seed(1)
    one, two = rule(delta, delta), rule(delta, delta)
    assert not torch.equal(one, two)
    torch.manual_seed(1)
    assert torch.equal(one, rule(delta, delta))
    torch.manual_seed(2)
    assert not torch.equal(one, rule(delta, delta))


@pytest.mark.parametrize("name", NAMES)
def test_whole_share_changes_nothing(name: str) -> None:
    weight, delta = torch.randn(6, 4), torch.randn(6, 4)
    torch.testing.assert_close(regularizer(name, 1.0)(weight, delta), delta)
