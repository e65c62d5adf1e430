"""core.weights: added once in float32, taken back bit for bit."""

import pytest
import torch

from core.model import LM
from core.weights import add_, preserved


def test_add(lm: LM) -> None:
    name = f"{lm.mlp_out(1)}.weight"
    weight = lm.model.get_parameter(name)
    before, delta = weight.clone(), torch.randn(weight.shape)
    others = {n: p.clone() for n, p in lm.model.named_parameters() if n != name}
    add_(lm.model, {name: delta})
    assert torch.equal(weight, before + delta)
    assert all(torch.equal(lm.model.get_parameter(n), p) for n, p in others.items())


def test_the_sum_is_rounded_once(lm: LM) -> None:
    """256 + 1.75 = 257.75, in bfloat16 (steps of 2) 258; with the delta rounded first it would be 256 + 2 too, so
    take 1.003 + 256 = 257.003 -> 258, where 1.003 rounded to bfloat16 is 1, and 257 rounds to the even 256."""
    lm.model.to(torch.bfloat16)
    name = f"{lm.mlp_out(0)}.weight"
    weight = lm.model.get_parameter(name)
    weight.fill_(256)
    add_(lm.model, {name: torch.full(weight.shape, 1.003)})
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, torch.full_like(weight, 258))


def test_a_wrong_shape_or_name_is_a_bug(lm: LM) -> None:
    with pytest.raises(AssertionError, match=r"delta \(2, 3\)"):
        add_(lm.model, {f"{lm.mlp_out(0)}.weight": torch.zeros(2, 3)})
    with pytest.raises(AttributeError):
        add_(lm.model, {"nothing.weight": torch.zeros(2, 3)})


def test_preserved(lm: LM) -> None:
    names = [f"{lm.mlp_out(layer)}.weight" for layer in (0, 2)]
    before = {name: lm.model.get_parameter(name).clone() for name in names}
    with pytest.raises(ZeroDivisionError), preserved(lm.model, names):
        # 0.1 added and taken off again would leave rounding behind
        add_(lm.model, {name: torch.full_like(before[name], 0.1) for name in names})
        assert not torch.equal(lm.model.get_parameter(names[0]), before[names[0]])
        raise ZeroDivisionError
    for name in names:
        assert torch.equal(lm.model.get_parameter(name), before[name])
        assert lm.model.get_parameter(name) is dict(lm.model.named_parameters())[name]
