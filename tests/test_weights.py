"""core.lm.weights: added once in float32, taken back bit for bit."""

import pytest
import torch

from core.errors import UserError
from core.lm.model import LM
from core.lm.weights import add_, preserved


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


def test_what_rounding_took_is_returned(lm: LM) -> None:
    """256 + 1 is a tie between 256 and 258: it stays 256, all of the change is lost. 256 + 2 = 258: none is.
    256 + 3 is a tie again and becomes 260: 4 instead of 3, a third too much. Over three thirds of a weight the shares
    add up as norms do: sqrt(1 + 0 + 1) / sqrt(1 + 4 + 9)."""
    lm.model.to(torch.bfloat16)
    name = f"{lm.mlp_out(0)}.weight"
    weight = lm.model.get_parameter(name)
    for change, share in ((1.0, 1.0), (2.0, 0.0), (3.0, 1 / 3)):
        weight.fill_(256)
        assert add_(lm.model, {name: torch.full(weight.shape, change)}) == {name: pytest.approx(share)}
    weight.fill_(256)
    mixed = torch.zeros(weight.numel())
    mixed[:3] = torch.tensor([1.0, 2.0, 3.0])
    assert add_(lm.model, {name: mixed.view(weight.shape)})[name] == pytest.approx((2 / 14) ** 0.5)
    assert add_(lm.model, {name: torch.zeros(weight.shape)}) == {name: 0.0}


def test_float32_loses_nothing_and_takes_a_float64_delta(lm: LM) -> None:
    name = f"{lm.mlp_out(0)}.weight"
    weight = lm.model.get_parameter(name)
    before, delta = weight.clone(), torch.randn(weight.shape, dtype=torch.float64)
    assert add_(lm.model, {name: delta}) == {name: 0.0}
    assert torch.equal(weight, before + delta.float())


def test_an_offloaded_weight_is_refused_in_one_line(lm: LM) -> None:
    lm.model.to("meta")
    name = f"{lm.mlp_out(0)}.weight"
    shape = lm.model.get_parameter(name).shape
    with pytest.raises(UserError, match=f"^{name} is offloaded and cannot be edited: --device-map .*$"):
        add_(lm.model, {name: torch.zeros(shape)})
    with pytest.raises(UserError, match="offloaded"), preserved(lm.model, [name]):
        pass
