"""Regularisers: what each of the table promises; exactly round(k n) entries, the right ones, ties included."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file
from torch import Tensor

from core import hparams
from core.errors import UserError
from core.types import HELD, Change
from editors.regularizers import REGULARIZERS, Share, make
from editors.regularizers.entries import _kth_largest, count, keep_random, keep_top, rect
from editors.regularizers.spectra import low_rank, prune, sphere

each = pytest.mark.parametrize("name", REGULARIZERS)
SHARES = [name for name, kind in REGULARIZERS.items() if issubclass(kind, Share)]
DENSE = {"pca", "scale"}
"""Those that change entries, where the others keep or drop them."""


def change(seed: int = 0) -> Change:
    generator = torch.Generator().manual_seed(seed)
    weight, delta, unedited = torch.randn(3, 31, 17, generator=generator)
    return Change("w", weight, delta + 3, unedited)  # no zero in the delta


def applied(rule: Any, of: Change, memory: dict[str, Tensor] | None = None, seed: int = 0) -> Tensor:
    found: Tensor = rule(of, {} if memory is None else memory, torch.Generator().manual_seed(seed))
    return found


# --- what every row of the table promises ---------------------------------------------------------------------------


@each
def test_a_regulariser_says_what_it_is(name: str) -> None:
    kind = REGULARIZERS[name]
    assert kind.name == name
    assert kind.__dataclass_params__.frozen
    rule = make(name, {})
    assert rule == kind()
    assert rule.settings() == {"name": name, **hparams.recorded(rule)}
    assert rule.label.startswith(name.upper()) and rule.label.replace(".", "").isalnum()


@each
def test_its_parameters_can_be_given_as_text(name: str) -> None:
    values = dataclasses.asdict(REGULARIZERS[name]())
    text = ",".join(f"{key}={value}" for key, value in values.items())
    assert make(f"{name}:{text}" if text else name, {}) == make(name, values) == make(name, {})
    with pytest.raises(UserError, match=f"^regularizer {name}: unknown key 'kep'"):
        make(f"{name}:kep=0.4", {})
    for key in values:
        with pytest.raises(UserError, match=f"^regularizer {name}: {key}: expected .*, found"):
            make(f"{name}:{key}=x=y", {})


@each
def test_it_returns_a_delta_and_changes_nothing(name: str) -> None:
    """Of the delta's shape and type, finite; the same from the same generator, whatever torch's own random state."""
    of, rule, before, kept = change(), make(name, {}), change(), []
    for state in (1, 2):
        torch.manual_seed(state)
        own, memory = torch.get_rng_state(), dict[str, Tensor]()
        kept.append([applied(rule, of, memory, seed) for seed in (5, 6)])
        assert torch.equal(torch.get_rng_state(), own)
        assert all(isinstance(tensor, Tensor) for tensor in memory.values())
    for found in kept[0]:
        assert found.shape == of.delta.shape and found.dtype == of.delta.dtype
        assert found.isfinite().all() and found.any()
    assert all(torch.equal(one, other) for one, other in zip(*kept, strict=True))
    for field in ("weight", "delta", "unedited"):
        assert torch.equal(getattr(of, field), getattr(before, field))


# --- those that keep a share ----------------------------------------------------------------------------------------


def test_labels_and_settings_are_those_of_result_files() -> None:
    rule = make("rect", {"keep": 0.4})
    assert rule is not None and rule.label == "RECT40" and rule.settings() == {"name": "rect", "keep": 0.4}
    labels = [found.label for found in (make("pca", {"keep": 0.125}), make("random", {"keep": 1})) if found]
    assert labels == ["PCA12.5", "RANDOM100"]


def test_none_is_no_regulariser() -> None:
    assert make("none", {}) is make("none", {"keep": 0.4}) is None
    with pytest.raises(UserError, match=r"^regularizer none: takes no parameters, found keep=0.4$"):
        make("none:keep=0.4", {})


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("rekt", {}, rf"^unknown regularizer 'rekt': did you mean 'rect'\?; known: none, {', '.join(REGULARIZERS)}$"),
        ("rect", {"keeep": 0.4}, r"^regularizer rect: unknown key 'keeep': did you mean 'keep'\?"),
        ("rect", {"keep": "much"}, r"^regularizer rect: keep: expected float, found 'much'"),
        ("rect", {"keep": 0}, r"^regularizer rect: keep: expected a share in \(0, 1\], found 0$"),
        ("rect:keep=1.5", {}, r"^regularizer rect: keep: expected a share in \(0, 1\], found 1.5$"),
        ("rect:", {}, "^regularizer rect: expected key=value after the colon, as in rect:keep=0.4; found ''$"),
        ("rect:keep", {}, "^regularizer rect: expected key=value .*; found 'keep'$"),
        ("rect:keep=0.2,keep=0.3", {}, "^regularizer rect: keep is given twice"),
        ("rect:keep=0.2", {"keep": 0.3}, "^regularizer rect: keep is given twice"),
        ("rect:feedback=yes", {}, "^regularizer rect: feedback: expected true or false, found 'yes'"),
    ],
)
def test_what_cannot_be_made(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(name, given)


@pytest.mark.parametrize("name", SHARES)
def test_a_share_is_more_than_none_and_no_more_than_all(name: str) -> None:
    for keep, hint in ((0.0, ""), (-0.5, ""), (1.5, ""), (40.0, ": did you mean 0.4?"), (101.0, "")):
        with pytest.raises(UserError) as error:
            make(name, {"keep": keep})
        assert str(error.value) == f"regularizer {name}: keep: expected a share in (0, 1], found {keep:g}{hint}"


def test_parameters_stand_in_the_text_or_are_given() -> None:
    assert make("rect:keep=2e-1", {}) == make("rect", {"keep": 0.2}) != make("rect", {"keep": 0.4})
    assert make("rect:feedback=true", {"keep": 0.2}) == make("rect: keep=0.2, feedback=true", {})


@pytest.mark.parametrize("keep", [0.01, 0.2, 0.4, 0.777, 1.0])
@pytest.mark.parametrize("name", [name for name in SHARES if name not in DENSE])
def test_exactly_that_many_entries_stay(name: str, keep: float) -> None:
    of = change()
    kept = applied(make(name, {"keep": keep}), of)
    assert int((kept != 0).sum()) == count(keep, of.delta.numel())
    assert torch.equal(kept[kept != 0], of.delta[kept != 0])


@pytest.mark.parametrize("name", SHARES)
def test_whole_share_changes_nothing(name: str) -> None:
    of = change()
    torch.testing.assert_close(applied(make(name, {"keep": 1.0}), of), of.delta)


def test_scale_is_less_of_everything() -> None:
    of, rule = change(), make("scale", {"keep": 0.6})
    assert rule is not None and rule.label == "SCALE60"
    assert torch.equal(applied(rule, of), 0.6 * of.delta)
    assert torch.equal(applied(make("scale", {"keep": 1.0}), of), of.delta)  # to the bit


def test_random_draws_from_its_generator() -> None:
    """The entries that torch.rand names with that seed, which is what earlier versions drew; then others."""
    delta, generator = torch.ones(20, 20), torch.Generator().manual_seed(1)
    one, two = (keep_random(delta, 0.4, generator) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(one, keep_top(delta, torch.rand(20, 20), 0.4))
    assert not torch.equal(one, two)


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
    rule = make("rect", {"keep": 0.5})  # relative to the weight now, not the unedited one
    assert torch.equal(applied(rule, Change("w", weight, delta, torch.ones(2, 3))), rect(weight, delta, 0.5))


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
    low = low_rank(delta, 2)
    assert torch.linalg.matrix_rank(low) == 2
    s = torch.linalg.svdvals(delta)
    assert math.isclose(float((delta - low).norm()), float(s[2:].norm()), rel_tol=1e-5)


# --- by singular values ---------------------------------------------------------------------------------------------

LAYER = "transformer.h.2.mlp.c_proj.weight"
VARIANTS = ["log", "log2", "log1_5", "log1_2", "linear"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_prune_golden(variant: str) -> None:
    """The authors' weights after four ROME edits, restrained; each variant."""
    folder = GOLDEN / "prune-gpt2-rome"
    start = load_file(GOLDEN / "models/gpt2-tiny/model.safetensors")[LAYER]
    edited = load_file(folder / "input/W_edited.safetensors")[LAYER]
    wanted = load_file(folder / f"expected/weights_{variant}.safetensors")[LAYER] - start
    rule = make(f"prune:variant={variant}", {})
    assert rule is not None and rule.label == f"PRUNE{variant.upper().replace('_', '.')}"
    found = rule.restrained(Change(LAYER, edited, edited - start, start, True))
    assert found is not None and (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_prune_by_hand() -> None:
    """A bound of 4: singular values 16 and 4 go to log 16 / 4 + 4 and 4, that of 2 stays."""
    unedited, delta = torch.diag(torch.tensor([4.0, 1.0, 0.5])), torch.diag(torch.tensor([2.0, -16.0, 4.0]))
    for variant, wanted in (("log", math.log(4) + 4), ("log2", 6.0), ("linear", 10.0)):
        torch.testing.assert_close(prune(delta, unedited, variant), torch.diag(torch.tensor([2.0, -wanted, 4.0])))


def test_prune_lets_updates_pass_and_restrains_their_sum() -> None:
    of = change()
    of = dataclasses.replace(of, unedited=of.unedited / 10)
    rule = make("prune", {})
    assert rule is not None and applied(rule, of) is of.delta
    less = rule.restrained(of)
    assert less is not None and float(torch.linalg.matrix_norm(less, 2)) < float(torch.linalg.matrix_norm(of.delta, 2))
    within = dataclasses.replace(of, unedited=of.unedited * 1000)
    assert rule.restrained(within) is within.delta  # nothing is that large
    flat = Change("b", torch.ones(3), torch.ones(3) * 9, torch.ones(3))
    assert rule.restrained(flat) is flat.delta and applied(rule, flat) is flat.delta
    each = make("prune:feedback=true", {})
    assert each is not None and each.restrained(of) is None and each.label == "PRUNELOGFEEDBACK"
    assert torch.equal(applied(each, of), less)


@pytest.mark.parametrize("name", [name for name in REGULARIZERS if name not in ("rect", "prune")])
def test_the_others_leave_all_change_as_it_is(name: str) -> None:
    rule = make(name, {})
    assert rule is not None and rule.restrained(change()) is None


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_sphere_by_hand(shape: tuple[int, int]) -> None:
    """With the eigenvectors of the scaled rows' Gram matrix, f x f."""
    of, strength = change(), 0.8
    weight, delta = of.weight[: shape[0], : shape[1]], of.delta[: shape[0], : shape[1]]
    rows = weight / (weight.norm(dim=1, keepdim=True) + 1e-8)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values.flip(0), vectors.flip(1)
    r = int((values.cumsum(0) / values.sum() <= 0.5).sum()) + 1
    main = vectors[:, :r]
    wanted = delta @ (torch.eye(shape[1]) - strength * main @ main.T)
    torch.testing.assert_close(sphere(weight, delta, 0.5, strength), wanted, atol=1e-5, rtol=1e-4)
    rule = make("sphere:suppression_strength=0.8", {})
    assert rule is not None and rule.label == "SPHERE50BY80"
    torch.testing.assert_close(applied(rule, Change("w", weight, delta, weight)), wanted, atol=1e-5, rtol=1e-4)


def test_sphere_without_strength_changes_nothing() -> None:
    of = change()
    assert torch.equal(applied(make("sphere:suppression_strength=0", {}), of), of.delta)


def test_a_share_of_the_main_directions_is_one() -> None:
    for text in ("sphere:cumulative_ratio=0", "sphere:cumulative_ratio=1.5", "sphere:suppression_strength=-1"):
        with pytest.raises(UserError, match=r"^regularizer sphere: cumulative_ratio: expected a share"):
            make(text, {})


@pytest.mark.parametrize("name", [name for name in REGULARIZERS if name != "random"])
def test_the_layout_of_a_weight_does_not_matter(name: str) -> None:
    """Of Conv1D and Linear, (inputs, outputs) and (outputs, inputs). `random` draws by position."""
    of = change()
    other = Change("w", of.weight.T, of.delta.T, of.unedited.T, True)
    for text in (name, f"{name}:feedback=true"):
        rule = make(text, {})
        assert rule is not None
        torch.testing.assert_close(applied(rule, of), applied(rule, other).T, atol=1e-5, rtol=1e-5)
        one, two = rule.restrained(of), rule.restrained(other)
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            torch.testing.assert_close(one, two.T, atol=1e-5, rtol=1e-5)


# --- feedback -------------------------------------------------------------------------------------------------------


@each
def test_what_is_dropped_is_added_to_the_next(name: str) -> None:
    """And decided on again: in the end nothing is lost but what the last update dropped."""
    rule = make(f"{name}:feedback=true", {})
    assert rule is not None and rule.label.endswith("FEEDBACK") and rule.settings()["feedback"] is True
    memory, deltas = dict[str, Tensor](), [change(seed).delta - 3 for seed in range(3)]
    kept = []
    for i, delta in enumerate(deltas):
        before = dict(memory)
        kept.append(applied(rule, dataclasses.replace(change(), delta=delta), memory, i))
        assert memory.keys() == {f"{HELD}w"} and all(memory[key] is not before[key] for key in before)
    torch.testing.assert_close(sum(kept) + memory[f"{HELD}w"], sum(deltas))
    assert applied(rule, dataclasses.replace(change(), name="another"), memory).isfinite().all()
    assert memory.keys() == {f"{HELD}w", f"{HELD}another"}


def test_feedback_is_no_part_of_older_results() -> None:
    rule = make("rect:keep=0.2,feedback=True", {})
    assert rule is not None and rule.label == "RECT20FEEDBACK"
    assert rule.settings() == {"name": "rect", "keep": 0.2, "feedback": True}
    plain = make("rect", {"keep": 0.2})
    assert plain is not None and plain.settings() == {"name": "rect", "keep": 0.2}
