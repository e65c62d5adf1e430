"""LocFT-BF: a plain twin, what is trained, and that an update is the same again."""

from typing import Any

import pytest
import torch
from conftest import tiny
from reference import locft as naive

from core.errors import UserError
from core.lm.model import LM
from core.types import Edit
from editors.locft_bf import LocFT, LocFTSettings, trained


def settings(**more: Any) -> LocFTSettings:
    return LocFTSettings(**{"num_steps": 3, "lr": 0.005, "batch_size": 3, "weight_decay": 0.01, "layer": 2, **more})


@pytest.mark.parametrize("module", [None, "{block}"])
def test_the_twin(module: str | None, lm: LM, edits: list[Edit]) -> None:
    """Four edits in chunks of three and one, of an order that is another in each epoch; also a whole block."""
    hp = settings(rewrite_module=module and lm.paths.block)
    editor = LocFT(lm, hp, seed=5)
    found, wanted = editor.deltas(edits)[0], naive.deltas(lm, edits, hp, editor.names, 5)
    assert found.keys() == wanted.keys() and len(found) > 2 * (module is not None)
    for name, delta in wanted.items():
        if name.endswith("c_attn.bias"):  # keys' biases have no gradient but rounding, of which Adam makes full steps
            continue
        assert (found[name] - delta).norm() <= 2e-3 * delta.norm(), name


def test_the_order_comes_from_the_seed(edits: list[Edit]) -> None:
    lm = tiny("llama")
    first, again, other = (LocFT(lm, settings(batch_size=1), seed).deltas(edits)[0] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]) for name in first)


def test_what_is_trained() -> None:
    lm = tiny("gpt2", n_layer=12)
    down = "transformer.h.1.mlp.c_proj"
    assert trained(lm, settings(layer=1)) == [f"{down}.weight", f"{down}.bias"]
    assert trained(lm, settings(layer=1, rewrite_module="transformer.h.{}.mlp.c_proj.weight")) == [f"{down}.weight"]
    block = trained(lm, settings(layer=1, rewrite_module="transformer.h.{}"))
    assert len(block) == 12 and all(name.startswith("transformer.h.1.") for name in block)  # not those of 10 and 11
    with pytest.raises(UserError, match=r"rewrite_module: 'tiny-gpt2' has no parameter or module 'x\.1'"):
        LocFT(lm, settings(layer=1, rewrite_module="x.{}"))
