"""ROME: the algebra by hand, the naive twin, its settings, templates, and what its notes say."""

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_settings
import torch
from conftest import FAMILIES, edit_model, tiny
from reference import rome as naive
from tiny_settings import corpus

from core.errors import UserError
from core.lm.hooks import replaced, trace
from core.lm.model import LM
from core.lm.tokens import encode, in_template
from core.lm.weights import add_
from core.types import Deltas, Edit
from editors import _templates, rome
from editors._moments import factorise, factorised, load
from editors._templates import STARTS, context_templates, drawn
from editors._value import search
from editors._value.search import optimise
from editors.rome import ROME, ROMESettings, rank_one
from experiment.editing import editor_of

TEMPLATES = ("{}", "The first day. {}", "In this section, the text says that. {}", "Therefore it is. {}")


def settings(**changes: Any) -> ROMESettings:
    return ROMESettings(**{**tiny_settings.ROME, "v_num_grad_steps": 6, "context_templates": TEMPLATES, **changes})


def assert_close(found: Deltas, wanted: Deltas, rtol: float = 1e-4) -> None:
    """Every entry to within `rtol` of the largest."""
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        assert delta.abs().max() > 0
        assert (found[name] - delta).abs().max() <= rtol * delta.abs().max(), name


def through(lm: LM, edit: Edit, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """k (f,) and output (d,) of the down projection at the subject's last token, from a plain forward pass."""
    row, at = in_template(lm, "{}", edit)
    with torch.no_grad(), trace(lm.model, lm.mlp_out(layer)) as seen:
        lm.model(torch.tensor([row]), use_cache=False)
    return seen[lm.mlp_out(layer)].input[0, at], seen[lm.mlp_out(layer)].output[0, at]


@dataclasses.dataclass
class Call:
    """One optimisation: v* of its edit and the loss at every step."""

    value: torch.Tensor
    losses: list[float]


def spied(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The optimisations of ROME from here on."""
    calls: list[Call] = []

    def spy(batch: Any, point: Any, path: str, h0: torch.Tensor, *rest: Any) -> Any:
        found = optimise(batch, point, path, h0, *rest)
        calls.append(Call(h0[0] + found.delta[0], found.losses[0]))
        return found

    monkeypatch.setattr(rome, "optimise", spy)
    return calls


# --- the update ----------------------------------------------------------------------------------------------------


def test_the_edited_projection_maps_the_key_to_the_value(lm: LM, edits: list[Edit], monkeypatch: Any) -> None:
    """(W + delta) k + b = v*, for Conv1D (gpt2, stored f x d) and Linear (gptj with and llama without bias)."""
    edit, calls = edits[0], spied(monkeypatch)
    ((name, delta),) = ROME(lm, settings()).deltas([edit])[0].items()
    key, _ = through(lm, edit, 1)
    weight = lm.model.get_parameter(name) + delta
    bias = getattr(lm.module(lm.mlp_out(1)), "bias", None)
    product = key @ weight if lm.model.config.model_type == "gpt2" else weight @ key
    output = product if bias is None else product + bias
    assert output.shape == calls[0].value.shape == (32,)
    assert torch.allclose(output, calls[0].value, rtol=1e-4, atol=1e-5)
    add_(lm.model, {name: delta})
    assert torch.allclose(through(lm, edit, 1)[1], calls[0].value, rtol=1e-4, atol=1e-5)


def test_the_update_has_rank_one_and_the_direction_of_the_mean_key(lm: LM, edits: list[Edit]) -> None:
    ((_, delta),) = ROME(lm, settings()).deltas([edits[1]])[0].items()
    wide = delta.T if lm.model.config.model_type == "gpt2" else delta  # (d, f)
    assert torch.linalg.svdvals(wide)[1] < 1e-5 * torch.linalg.svdvals(wide)[0]
    kbar = naive.mean_key(lm, edits[1], TEMPLATES, 1)
    cosine = torch.nn.functional.cosine_similarity(wide, kbar.expand_as(wide), dim=1)
    assert torch.allclose(cosine.abs(), torch.ones(32), atol=1e-5)


def test_rank_one_by_hand() -> None:
    """(v* - o) / (k . u) u^T with u along C^-1 kbar: an update that maps k to v* - o."""
    key, kbar, change = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 4.0]), torch.tensor([5.0, -1.0, 0.5])
    c = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.double)
    update, denominator = rank_one(key, kbar, change, factorise(c, "C"))
    assert denominator == pytest.approx((3 * 1 + 1 * 4) / 17**0.5)  # C^-1 kbar = (1, 4)
    torch.testing.assert_close(update, torch.outer(change, torch.tensor([1.0, 4.0])) / 7)
    torch.testing.assert_close(update @ key, change)
    plain, denominator = rank_one(key, kbar, change, None)
    assert denominator == pytest.approx((3 * 2 + 1 * 4) / 20**0.5)
    torch.testing.assert_close(plain, torch.outer(change, kbar) / 10)


@pytest.mark.parametrize("index", range(4))
def test_equals_the_naive_twin(lm: LM, edits: list[Edit], index: int) -> None:
    found = ROME(lm, settings()).deltas([edits[index]])[0]
    assert_close(found, naive.deltas(lm, edits[index], settings(), TEMPLATES))


def test_equals_the_naive_twin_with_second_moments(lm: LM, edits: list[Edit], tmp_path: Path) -> None:
    # A linear system whose condition is bad would make this a test of rounding.
    hp = settings(mom2_adjustment=True, **corpus(tmp_path))
    assert torch.linalg.cond(load(lm, hp.layers, hp.corpus)[1]) < 1e7
    found = ROME(lm, hp).deltas([edits[0]])[0]
    assert_close(found, naive.deltas(lm, edits[0], hp, TEMPLATES))
    ((name, plain),) = ROME(lm, settings()).deltas([edits[0]])[0].items()
    assert (found[name] - plain).abs().max() > 0.01 * plain.abs().max()  # the moments matter


def test_near_singular_second_moments_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """16 tokens where a key has 128 features; then as many tokens as one likes, all alike. MEMIT warns of both."""
    for text in ("the word " * 8, "\n\n".join(["the word " * 8] * 40)):
        (tmp_path / "texts.txt").write_text(text)
        given = dict(mom2_dataset=str(tmp_path / "texts.txt"), mom2_n_samples=text.count("\n\n") + 1)
        hp = settings(mom2_adjustment=True, stats_dir=str(tmp_path / "stats"), **given)
        with pytest.raises(UserError, match=r"second moments of layer 1: near-singular, .*raise mom2_n_samples"):
            ROME(tiny("gpt2"), hp)
        factorised(tiny("gpt2"), hp.layers, hp.corpus)
        assert "mom2_n_samples) mend this" in caplog.text
        caplog.clear()


def test_nearly_equal_inputs_are_near_singular() -> None:
    """C = 1 but for a correlation of 1 - 1e-8: positive definite, and C^-1 is noise in float32's sums."""
    c = torch.eye(3, dtype=torch.double)
    c[0, 1] = c[1, 0] = 1 - 1e-8
    with pytest.raises(UserError, match="C: near-singular"):
        factorise(c, "C", strict=True)
    assert factorise(1e6 * torch.diag(torch.tensor([1e9, 1e-9, 1.0], dtype=torch.double)), "C", strict=True)  # scales


def test_equals_the_naive_twin_at_two_layers(lm: LM, edits: list[Edit]) -> None:
    hp = settings(layers=(0, 2))
    found = ROME(lm, hp).deltas([edits[2]])[0]
    assert len(found) == 2
    assert_close(found, naive.deltas(lm, edits[2], hp, TEMPLATES))
    alone = ROME(lm, settings(layers=(2,))).deltas([edits[2]])[0]
    (upper,) = alone
    assert (found[upper] - alone[upper]).abs().max() > 1e-3 * alone[upper].abs().max()  # sees the layer below


def test_layers_are_ascending_whatever_their_order_in_the_settings(edits: list[Edit]) -> None:
    lm = tiny("gpt2")
    up, down = (ROME(lm, settings(layers=layers)).deltas([edits[0]])[0] for layers in ((0, 2), (2, 0)))
    assert all(torch.equal(up[name], down[name]) for name in up)


@pytest.mark.parametrize("key", ["mean", "bare"])
@pytest.mark.parametrize("moments", [False, True])
def test_equals_the_naive_twin_with_another_key(
    lm: LM, edits: list[Edit], tmp_path: Path, key: str, moments: bool
) -> None:
    hp = settings(key=key, mom2_adjustment=moments, **corpus(tmp_path))
    found = ROME(lm, hp).deltas([edits[0]])[0]
    assert_close(found, naive.deltas(lm, edits[0], hp, TEMPLATES))
    ((name, prompt),) = ROME(lm, dataclasses.replace(hp, key="prompt")).deltas([edits[0]])[0].items()
    assert (found[name] - prompt).abs().max() > 1e-3 * prompt.abs().max()


def test_with_the_mean_key_the_mean_output_becomes_the_value(lm: LM, edits: list[Edit], monkeypatch: Any) -> None:
    """r-ROME by hand: (W + delta) kbar + b = v*, as W kbar + b is the mean output over the templates."""
    edit, calls = edits[0], spied(monkeypatch)
    ((name, delta),) = ROME(lm, settings(key="mean")).deltas([edit])[0].items()
    add_(lm.model, {name: delta})
    kbar = naive.mean_key(lm, edit, TEMPLATES, 1)  # blocks below the weight: the same before and after
    mean = lm.module(lm.mlp_out(1))(kbar.unsqueeze(0))[0]
    assert torch.allclose(mean, calls[0].value, rtol=1e-4, atol=1e-5)


def test_the_keys_by_hand() -> None:
    keys, outputs = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[2.0], [6.0]])
    wanted = {"prompt": ([2, 2], [1, 0], [2]), "mean": ([2, 2], [2, 2], [4]), "bare": ([1, 0], [1, 0], [2])}
    for rule, values in wanted.items():
        assert tuple(t.tolist() for t in rome.chosen(rule, keys, outputs)) == values


def test_equals_the_naive_twin_where_it_stops_early(lm: LM, edits: list[Edit], monkeypatch: pytest.MonkeyPatch) -> None:
    hp, calls = settings(v_lr=0.02, v_num_grad_steps=8, v_weight_decay=0.0), spied(monkeypatch)
    ROME(lm, hp).deltas([edits[0]])
    losses = calls[0].losses
    assert len(losses) == 8
    assert sorted(losses, reverse=True) == losses  # small steps: it falls from step to step
    for module in (search, naive):
        monkeypatch.setattr(module, "GOOD_ENOUGH", (losses[2] + losses[3]) / 2)
    found = ROME(lm, hp).deltas([edits[0]])[0]
    assert calls[1].losses == losses[:4]
    assert_close(found, naive.deltas(lm, edits[0], hp, TEMPLATES))


def test_equals_the_naive_twin_where_it_is_clamped(lm: LM, edits: list[Edit], monkeypatch: pytest.MonkeyPatch) -> None:
    hp, calls = settings(clamp_norm_factor=0.3, v_weight_decay=0.0), spied(monkeypatch)
    found = ROME(lm, hp).deltas([edits[0]])[0]
    assert_close(found, naive.deltas(lm, edits[0], hp, TEMPLATES))
    row, at = in_template(lm, "{}", edits[0])
    with torch.no_grad(), trace(lm.model, lm.mlp(1)) as seen:
        lm.model(torch.tensor([row]))
    h0 = seen[lm.mlp(1)].output[0, at]
    assert (calls[0].value - h0).norm() == pytest.approx(0.3 * float(h0.norm()), rel=1e-4)


def test_a_subject_of_one_token_at_the_very_start(edits: list[Edit]) -> None:
    """No column before the subject in any row: an empty cache."""
    lm, edit = tiny("gpt2"), Edit("X is a thing", "X", "list", "x")
    assert in_template(lm, "{}", edit)[1] == 0
    hp = settings(context_templates=("{}",))
    assert_close(ROME(lm, hp).deltas([edit])[0], naive.deltas(lm, edit, hp, ("{}",)))


def test_a_subject_that_ends_the_prompt(lm: LM) -> None:
    edit = Edit("What is known of Anna Bell", "Anna Bell", "the source", "x")
    assert_close(ROME(lm, settings()).deltas([edit])[0], naive.deltas(lm, edit, settings(), TEMPLATES))


def test_one_step_is_no_step(lm: LM, edits: list[Edit]) -> None:
    """v_num_grad_steps forwards, one fewer steps: with one, delta stays 0 and v* = h0, which is no update at all."""
    (delta,) = ROME(lm, settings(v_num_grad_steps=1)).deltas([edits[0]])[0].values()
    assert delta.abs().max() < 1e-4


def test_the_model_is_left_as_it_was_even_after_an_exception(
    lm: LM, edits: list[Edit], unchanged: Callable[[LM], Callable[[], None]]
) -> None:
    editor, check, runs = ROME(lm, settings(layers=(0, 2))), unchanged(lm), []

    def fail(hidden: torch.Tensor) -> torch.Tensor:
        runs.append(lm.model.get_parameter(f"{lm.mlp_out(0)}.weight").clone())
        if len(runs) == 10:  # one run of all, 6 steps at layer 0, one run of all, the second step at layer 2
            raise RuntimeError("as if memory had run out")
        return hidden

    with replaced(lm.model, lm.block(3), fail), pytest.raises(RuntimeError, match="as if"):
        editor.deltas([edits[0]])
    assert not torch.equal(runs[0], runs[9])  # the first layer's update was in place
    check()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
    assert not any("forward" in vars(module) for module in lm.model.modules())


def test_notes(edits: list[Edit], monkeypatch: pytest.MonkeyPatch) -> None:
    lm, calls = tiny("llama"), spied(monkeypatch)
    _, found = ROME(lm, settings(layers=(0, 1))).deltas([edits[0]])
    assert list(found) == ["layer 0", "layer 1"]
    kbar = naive.mean_key(lm, edits[0], TEMPLATES, 0)
    key, _ = through(lm, edits[0], 0)
    assert found["layer 0"]["denominator"] == pytest.approx(float(key @ kbar / kbar.norm()), rel=1e-4)
    for layer, call in enumerate(calls):
        notes = found[f"layer {layer}"]
        assert (notes["loss_first"], notes["loss_last"]) == (call.losses[0], call.losses[-1])
        assert notes["forwards"] == len(call.losses) == 6


def test_edits_in_sequence_use_the_moments_and_templates_of_the_unedited_model(
    edits: list[Edit], tmp_path: Path
) -> None:
    lm = tiny("gpt2")
    hp = settings(context_templates=None, mom2_adjustment=True, **corpus(tmp_path))
    editor = ROME(lm, hp)
    templates, factors = editor.templates, editor.moments[1].matrix.clone()
    add_(lm.model, editor.deltas([edits[0]])[0])
    second = editor.deltas([edits[1]])[0]
    assert editor.templates == templates
    assert torch.equal(editor.moments[1].matrix, factors)
    for file in tmp_path.glob("stats/**/*.npz"):  # were they looked up again, this would be seen
        file.write_bytes(b"")
    again = editor.deltas([edits[1]])[0]
    assert all(torch.equal(second[name], again[name]) for name in second)


# --- templates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_templates(family: str) -> None:
    lm = tiny(family)
    templates = ROME(lm, settings(context_templates=None), 7).templates
    assert len(templates) == 21
    assert templates[0] == "{}"
    starts = ("The", "Therefore", "Because", "I", "You")
    assert [t.split("{}")[1] for t in templates] == [""] * 21
    assert [sum(t.startswith(start) for t in templates[1:]) for start in starts] == [8, 4, 4, 4, 4]  # The ⊂ Therefore
    assert all(t.endswith(". {}") and t.count("{") == t.count("}") == 1 for t in templates[1:])


def test_templates_depend_on_the_seed_alone() -> None:
    lm, shapes = tiny("gpt2"), ((5, 10), (10, 10))
    state = torch.get_rng_state()
    drawn = {seed: context_templates(lm, shapes, seed) for seed in (3, 4)}
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)  # torch's own random state plays no part
    assert context_templates(lm, shapes, 3) == drawn[3] == ROME(lm, settings(context_templates=None), 3).templates
    assert drawn[3] != drawn[4]
    assert len(set(drawn[3])) == 21  # two continuations of one start are two


def test_a_draw_by_hand() -> None:
    """The five likeliest, ties by token id, by their probabilities; what differs by rounding alone draws alike."""
    logits = torch.tensor([0.0, 2.0, -9.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.double)
    counts = Counter(drawn(logits, random.Random(seed)) for seed in range(2000))
    assert counts.keys() == {1, 3, 4, 5, 6}
    logits[0] = 1.0
    weights = {0: 1.0, 1: math.e, 3: 1.0, 4: 1.0, 5: 1.0}
    for noise in (0.0, 1e-5):
        shifted = logits + noise * torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.double)
        counts = Counter(drawn(shifted, random.Random(seed)) for seed in range(2000))
        assert counts.keys() == weights.keys()
        for token, weight in weights.items():
            assert counts[token] / 2000 == pytest.approx(weight / (4 + math.e), abs=0.04)
    with pytest.raises(UserError, match="NaN"):
        drawn(torch.full((9,), math.nan, dtype=torch.double), random.Random(0))


def test_one_opening_depends_on_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw that falls otherwise changes its own opening alone."""
    lm, shapes = tiny("gpt2"), ((5, 10),)
    wanted, calls = context_templates(lm, shapes, 0), []

    def once(logits: torch.Tensor, generator: random.Random) -> int:
        calls.append(logits)
        token = drawn(logits, generator)
        return (token + 1) % len(logits) if len(calls) == 4 else token  # the first token of the fourth opening

    monkeypatch.setattr(_templates, "drawn", once)
    found = context_templates(lm, shapes, 0)
    assert [i for i, pair in enumerate(zip(wanted, found, strict=True)) if len(set(pair)) > 1] == [4]


def test_the_drawn_templates_are_in_the_notes_of_the_first_update(edits: list[Edit]) -> None:
    lm = tiny("gpt2")
    editor = ROME(lm, settings(context_templates=None), 5)
    done, _ = edit_model(lm, editor, [edits[:1], edits[1:2]])
    assert done[0].notes["context_templates"] == list(context_templates(tiny("gpt2"), ((5, 10), (10, 10)), 5))
    assert "context_templates" not in done[1].notes


def test_templates_are_drawn_from_the_five_likeliest() -> None:
    lm = tiny("gpt2")
    row = lm.tokenizer("Because")["input_ids"]
    for text in context_templates(lm, ((1, 5),) * 6, 0):
        if text.startswith("Because"):
            ids = lm.tokenizer(text.removesuffix(". {}"))["input_ids"]
            likely = lm.model(torch.tensor([row])).logits[0, -1].topk(5).indices.tolist()
            assert lm.tokenizer.decode(ids[len(row) :]) in {lm.tokenizer.decode([token]) for token in likely}


def test_pinned_templates_are_used() -> None:
    assert ROME(tiny("gpt2"), settings(context_templates=("{}", "So. {}"))).templates == ("{}", "So. {}")


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"context_templates": ("So. {}", "{}")},
        {"context_templates": ("{}", "no place")},
        {"context_templates": ("{}", "{} twice {}")},
        {"context_templates": ()},
        {"layers": ()},
        {"v_num_grad_steps": 0},
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"context_templates|layers"):
        settings(**changes)


@pytest.mark.parametrize("changes", [{"layers": (4,)}, {"layers": (-1,)}, {"v_loss_layer": 9}])
def test_layers_the_model_does_not_have(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"'tiny-gpt2' has layers 0 to 3"):
        editor_of(ROME, tiny("gpt2"), settings(**changes))


@pytest.mark.parametrize("where", ["prompt", "target"])
def test_an_edit_that_does_not_fit_the_context(lm: LM, edits: list[Edit], where: str) -> None:
    long = "word " * 150
    change = {"prompt": f"{long}of Anna Bell"} if where == "prompt" else {"target": long}
    with pytest.raises(UserError, match=r"edit 0: .*128"):
        ROME(lm, settings()).deltas([dataclasses.replace(edits[0], **change)])


def test_templates_longer_than_the_context_are_refused() -> None:
    lm = tiny("gpt2")
    longest = lm.context - max(len(encode(lm, start)) for start in STARTS)
    assert len(context_templates(lm, ((longest, 5),), 0)) == 6
    with pytest.raises(UserError, match=f"openings of {longest + 1} tokens take 129, but 'tiny-gpt2' takes 128"):
        context_templates(lm, ((longest + 1, 5),), 0)
