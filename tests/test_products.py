"""core.lm.kernels.products: projections by oneDNN are those of torch, and so are their gradients."""

import copy

import pytest
import torch
from conftest import CONFIGS, tiny
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.lm.generate import complete
from core.lm.kernels import products
from core.lm.kernels.products import product
from core.lm.model import LM
from tests.reference import products as naive


@pytest.fixture(params=["oneDNN", "MKL"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the library of that name, however small."""
    monkeypatch.setattr(products, "LEAST", 0)
    if request.param == "MKL":
        monkeypatch.setattr(products, "ONEDNN", None)
    elif products.ONEDNN is None:
        pytest.skip("no oneDNN on this machine, or no AVX-512")
    return str(request.param)


@pytest.mark.parametrize("shape", [(1,), (3,), (0,), (2, 5), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("turned", [False, True], ids=["Linear", "Conv1D"])
def test_a_product_as_defined(by: str, shape: tuple[int, ...], bias: bool, turned: bool) -> None:
    """Of rows that are a part of something wider too; with its gradient, and the gradient of that."""
    torch.manual_seed(0)
    x = torch.randn(*shape, 11)[..., :7].requires_grad_()
    weight = torch.randn(7, 5).T if turned else torch.randn(5, 7)
    b = torch.randn(5) if bias else None
    found, wanted = product(x, weight, b), naive.product(x, weight, b)
    torch.testing.assert_close(found, wanted)
    with torch.inference_mode():
        torch.testing.assert_close(product(x, weight, b), wanted)
    torch.testing.assert_close(slopes(found, x), slopes(wanted, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [torch.randn(10)[::2], torch.randn(1).expand(5), torch.randn(1), torch.tensor(1.5)])
def test_a_bias_of_another_layout(by: str, bias: Tensor) -> None:
    x, weight = torch.randn(3, 7), torch.randn(5, 7)
    torch.testing.assert_close(product(x, weight, bias), naive.product(x, weight, bias))


def slopes(y: Tensor, x: Tensor) -> list[Tensor]:
    (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    return [first, *torch.autograd.grad(first.pow(2).sum(), x)]


def test_a_weight_that_is_trained_has_a_gradient(by: str) -> None:
    linear = nn.Linear(7, 5)
    products.quicken_(linear)
    x = torch.randn(3, 7)
    linear(x).sum().backward()
    torch.testing.assert_close(linear.weight.grad, x.sum(0).expand(5, 7))
    torch.testing.assert_close(linear.bias.grad, torch.full((5,), 3.0))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_says_the_same(by: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, prompts = tiny(family), ["Anna Bell is", "Is London big? answer:", "so"]
    found = complete(lm, prompts, 8)
    monkeypatch.setattr(products, "ONEDNN", None)
    assert found == complete(lm, prompts, 8)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_modules_stay_what_they_were(family: str) -> None:
    """A copy of the model is one of its own, and its weights have the names they had."""
    lm = tiny(family)
    assert {type(m) for m in lm.model.modules() if isinstance(m, nn.Linear | Conv1D)} <= {*products.QUICK.values()}
    other = LM(copy.deepcopy(lm.model), lm.tokenizer, lm.name)
    name = f"{lm.mlp_out(0)}.weight"
    with torch.no_grad():
        other.model.get_parameter(name).zero_()
    assert lm.model.get_parameter(name).any()
