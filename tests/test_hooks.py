"""core.lm.hooks: what is seen, what is replaced, and that nothing stays behind."""

import pytest
import torch

from core.lm.hooks import first, replaced, trace
from core.lm.model import LM

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.fixture
def lm(any_lm: LM) -> LM:
    return any_lm


def left_over(lm: LM) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_trace_sees_input_and_output(lm: LM) -> None:
    down, block = lm.mlp_out(1), lm.block(1)
    with torch.no_grad(), trace(lm.model, down, block) as seen:
        hidden = lm.model(IDS, output_hidden_states=True, use_cache=False).hidden_states
    assert torch.equal(seen[block].input, hidden[1])
    assert torch.equal(seen[block].output, hidden[2])
    module = lm.module(down)
    assert torch.allclose(module(seen[down].input), seen[down].output, atol=1e-6)


def test_trace_keeps_the_last_call(lm: LM) -> None:
    with torch.no_grad(), trace(lm.model, lm.mlp(0)) as seen:
        lm.model(IDS)
        lm.model(IDS[:1, :2])
    assert seen[lm.mlp(0)].output.shape == (1, 2, 32)
    assert not left_over(lm)


def test_stop_breaks_off_after_the_last_module(lm: LM) -> None:
    with torch.no_grad(), trace(lm.model, lm.mlp(0), lm.mlp(1), stop=True) as seen:
        lm.model(IDS)
        pytest.fail("the pass was not broken off")
    assert sorted(seen) == [lm.mlp(0), lm.mlp(1)]
    assert not left_over(lm)


def test_an_exception_passes_through_and_leaves_no_hook(lm: LM) -> None:
    with pytest.raises(ZeroDivisionError), trace(lm.model, lm.mlp(0), stop=True), replaced(lm.model, lm.mlp(1), first):
        raise ZeroDivisionError
    assert not left_over(lm)


@pytest.mark.parametrize("part", ["mlp", "block"])
def test_replaced(lm: LM, part: str) -> None:
    path = getattr(lm, part)(1)
    with torch.no_grad(), replaced(lm.model, path, torch.zeros_like), trace(lm.model, path, lm.block(2)) as seen:
        changed = lm.model(IDS).logits
    assert not seen[path].output.any()
    if part == "block":
        assert not seen[lm.block(2)].input.any()
    with torch.no_grad():
        assert not torch.allclose(lm.model(IDS).logits, changed, atol=1e-3)
    assert not left_over(lm)


def test_all_see_and_change_rows_and_tokens(lm: LM) -> None:
    """Whatever shape a block hands to its MLP: one token of one row is changed, and only what depends on it."""
    up, down = lm.mlp_in(1), lm.mlp_out(1)

    def change(out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[1, 2] += 1.0
        return out

    with torch.no_grad():
        wanted = lm.model(IDS, use_cache=False).logits
        with trace(lm.model, up, down) as before:
            lm.model(IDS, use_cache=False)
        with replaced(lm.model, down, change), trace(lm.model, up, down) as after:
            found = lm.model(IDS, use_cache=False).logits
    assert before[up].output.shape[:2] == before[down].input.shape[:2] == before[down].output.shape[:2] == (2, 4)
    assert before[down].input.shape[2] == lm.key_width(1)
    moved = (after[down].output != before[down].output).any(-1)
    assert moved.nonzero().tolist() == [[1, 2]]
    assert (found != wanted).any(-1).nonzero().tolist() == [[1, 2], [1, 3]]


def test_the_graph_goes_through_what_is_seen(lm: LM) -> None:
    start = torch.zeros((), requires_grad=True)
    with replaced(lm.model, lm.mlp_out(1), lambda out: out + start), trace(lm.model, lm.mlp_out(1)) as seen:
        loss = lm.model(IDS, use_cache=False).logits[:, -1].log_softmax(-1)[:, 3].sum()
    (gradient,) = torch.autograd.grad(loss, seen[lm.mlp_out(1)].output)
    assert gradient.shape == (2, 4, 32)
    assert gradient[:, -1].abs().max() > 1e-6


def test_first() -> None:
    tensor = torch.ones(2)
    assert first(tensor) is first((tensor, None)) is tensor
