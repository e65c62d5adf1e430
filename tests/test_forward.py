"""core.lm.forward: a pass taken up in the middle gives what the whole model gives."""

import pytest
import torch
from conftest import CONFIGS, OTHERS, ROOT, WINDOWS, tiny
from torch import Tensor

from core.lm.cached import empty
from core.lm.forward import final_states, resume, states_behind
from core.lm.hooks import replaced, trace
from core.lm.model import LM
from core.lm.tokens import Padded, encode, pad

TEXTS = ["the first day of the year was a good one", "Anna Bell is", "in this section, the text says that he is"]
AT = [2, 1, 4]


@pytest.fixture(params=[*CONFIGS, *OTHERS, *(f"{family} with a window" for family in WINDOWS)])
def lm(request: pytest.FixtureRequest) -> LM:
    """A model of each family; the windows are shorter than the rows."""
    family, _, window = request.param.partition(" ")
    return tiny(family, **(WINDOWS[family] if window else {}))


def tokens_of(lm: LM, aligned: bool) -> tuple[Padded, int]:
    """Three rows of different lengths, and the first column that is a token in all of them."""
    rows = [encode(lm, text) for text in TEXTS]
    return (pad(lm, rows, AT), max(AT)) if aligned else (pad(lm, rows), max(map(len, rows)) - 1)


def whole(lm: LM, tokens: Padded) -> Tensor:
    hidden: Tensor = lm.model.base_model(
        tokens.ids, attention_mask=tokens.mask, position_ids=tokens.positions, use_cache=False
    ).last_hidden_state
    return hidden


def assert_same(found: Tensor, wanted: Tensor, mask: Tensor) -> None:
    kept = mask.bool()
    assert found.shape == wanted.shape
    assert torch.allclose(found[kept], wanted[kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_nothing_changed(lm: LM, layer: int, aligned: bool) -> None:
    tokens, column = tokens_of(lm, aligned)
    points, seen = resume(lm, tokens, range(layer, layer + 1), column, lm.mlp(2))
    assert_same(points[layer].run(), whole(lm, tokens)[:, column:], tokens.mask[:, column:])
    with trace(lm.model, lm.mlp(2)) as there:
        whole(lm, tokens)
    assert_same(seen[lm.mlp(2)].output, there[lm.mlp(2)].output, tokens.mask)


def test_one_row_of_many_keeps_its_padding(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where a row without any needs no mask."""
    tokens, _ = tokens_of(lm, False)
    wanted = whole(lm, tokens)
    monkeypatch.setattr(LM, "recorder", property(lambda self: object()))
    points, _ = resume(lm, tokens, range(1, 2), 0)
    for row in range(len(TEXTS)):
        one = torch.tensor([row])
        assert_same(points[1].rows(one).run(), wanted[one], tokens.mask[one])
        assert_same(final_states(lm, tokens.rows(one)), wanted[one], tokens.mask[one])
        alone = pad(lm, [encode(lm, TEXTS[row])])
        assert_same(states_behind(lm, alone, empty()), wanted[one][:, -alone.ids.shape[1] :], alone.mask)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_change_at_a_column(lm: LM, layer: int) -> None:
    tokens, column = tokens_of(lm, True)
    delta = torch.linspace(-2, 2, 32)
    points, _ = resume(lm, tokens, range(layer, layer + 1), column)

    def change(at: int):
        def add(out: Tensor) -> Tensor:
            return torch.cat([out[:, :at], out[:, at : at + 1] + delta, out[:, at + 1 :]], 1)

        return add

    with replaced(lm.model, lm.mlp(layer), change(column)):
        wanted = whole(lm, tokens)[:, column:]
    with replaced(lm.model, lm.mlp(layer), change(0)):
        found = points[layer].run()
    assert_same(found, wanted, tokens.mask[:, column:])
    assert not torch.allclose(found, points[layer].run(), atol=1e-3)  # the change is one
    assert_same(points[layer].run(), whole(lm, tokens)[:, column:], tokens.mask[:, column:])  # nothing is left of it


def test_the_gradient_is_that_of_the_whole_model(lm: LM) -> None:
    tokens, column = tokens_of(lm, True)
    points, _ = resume(lm, tokens, range(1, 2), column)
    weight = torch.linspace(-1, 1, 32)
    gradients = []
    for at, run in ((column, lambda: whole(lm, tokens)[:, column:]), (0, points[1].run)):
        delta = torch.zeros(32, requires_grad=True)

        def add(out: Tensor, at: int = at, delta: Tensor = delta) -> Tensor:
            return torch.cat([out[:, :at], out[:, at : at + 1] + delta, out[:, at + 1 :]], 1)

        with replaced(lm.model, lm.mlp(1), add):
            ((run() @ weight) * tokens.mask[:, column:]).square().sum().backward()
        assert delta.grad is not None
        gradients.append(delta.grad)
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))


def test_column_zero_has_an_empty_prefix(lm: LM) -> None:
    rows = [encode(lm, TEXTS[0])[:6], encode(lm, TEXTS[2])[:6]]
    tokens = pad(lm, rows)
    points, _ = resume(lm, tokens, range(2, 3), 0)
    assert points[2].prefix[0][0].shape[-2] == 0
    assert_same(points[2].run(), whole(lm, tokens), tokens.mask)


def test_several_ways_in_from_one_pass(lm: LM) -> None:
    tokens, column = tokens_of(lm, False)
    points, _ = resume(lm, tokens, range(4), column)
    for layer in range(4):
        assert_same(points[layer].run(), whole(lm, tokens)[:, column:], tokens.mask[:, column:])


def test_rows_can_be_chosen_and_repeated(lm: LM) -> None:
    tokens, column = tokens_of(lm, True)
    points, _ = resume(lm, tokens, range(1, 2), column)
    index = torch.tensor([2, 0, 0])
    assert_same(points[1].rows(index).run(), whole(lm, tokens)[index][:, column:], tokens.mask[index][:, column:])


def test_a_run_does_not_change_the_next(lm: LM) -> None:
    tokens, column = tokens_of(lm, True)
    points, _ = resume(lm, tokens, range(1, 2), column)
    assert torch.equal(points[1].run(), points[1].run())


def test_blocks_below_are_not_run_and_all_are_put_back(lm: LM) -> None:
    tokens, column = tokens_of(lm, True)
    points, _ = resume(lm, tokens, range(2, 3), column)
    with trace(lm.model, *(lm.mlp(layer) for layer in range(4))) as seen:
        points[2].run()
    assert sorted(seen) == [lm.mlp(2), lm.mlp(3)]

    def fail(hidden: Tensor) -> Tensor:
        raise RuntimeError("inside")

    with replaced(lm.model, lm.block(3), fail), pytest.raises(RuntimeError, match="inside"):
        points[2].run()
    assert not any("forward" in vars(module) for module in lm.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def test_logits_are_the_models_own(lm: LM) -> None:
    """Whatever stands behind the last norm: a bias, a cap."""
    ids = torch.tensor([encode(lm, TEXTS[0])])
    capped = lm.model.config.model_type == "gemma3_text"
    if capped:
        lm.model.config.final_logit_softcapping = 0.5
    tokens = pad(lm, ids.tolist())
    with torch.no_grad():
        found, wanted = lm.logits(final_states(lm, tokens)), lm.model(ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not capped or wanted.abs().max() <= 0.5


@pytest.mark.parametrize("aligned", [True, False])
def test_final_states_are_those_of_the_base_model(lm: LM, aligned: bool) -> None:
    tokens, _ = tokens_of(lm, aligned)
    with torch.no_grad():
        assert_same(final_states(lm, tokens), whole(lm, tokens), tokens.mask)


def test_only_one_place_runs_the_model_for_hidden_states() -> None:
    places = [path for path in ROOT.rglob("*.py") if {"tests", ".venv"}.isdisjoint(path.relative_to(ROOT).parts)]
    callers = {str(path.relative_to(ROOT)) for path in places if "base_model(" in path.read_text(encoding="utf-8")}
    assert callers == {"core/lm/forward.py"}
