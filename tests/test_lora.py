"""LoRA: the original's numbers, the formulas of both kinds, and an adapter that grows."""

import copy
import json
from typing import Any

import pytest
import torch
from conftest import GOLDEN, edit_model, tiny
from reference import lora as naive
from safetensors.torch import load_file
from test_ft import counted_from_the_left

from core import hparams
from core.errors import UserError
from core.lm.load import load
from core.lm.model import LM
from core.lm.reads import Reads
from core.lm.weights import add_
from core.types import Edit
from edit_sets.zsre import EDIT_SET
from editors import lora
from editors.lora import LoRA, LoRASettings
from editors.regularizers import Rect

CASE = GOLDEN / "lora-gpt2"
KINDS = ("lora", "adalora")


def settings(kind: str, **more: Any) -> LoRASettings:
    values: dict[str, Any] = dict(num_steps=3, lr=0.02, batch_size=2, weight_decay=0.01, layers=(1, 3))
    return LoRASettings(**{**values, "rank": 3, "lora_alpha": 8.0, "lora_type": kind, **more})


@pytest.mark.parametrize("variant", ["1", "batch3"])
def test_the_original(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tensors from the factors that its run started with, one edit and three in chunks of two."""
    numbers = json.loads((CASE / "expected/numbers.json").read_text())["variants"][variant]
    every = EDIT_SET.edits(CASE / "zsre.json", 0, 5, 1)
    plain = Reads.of
    monkeypatch.setattr(lora.Reads, "of", lambda *args: counted_from_the_left(plain(*args)))
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny", "cpu")
    editor = LoRA(lm, hparams.load(LoRASettings, CASE / "hparams.yaml"))
    editor.load_state({**load_file(CASE / "input/init_1.safetensors"), "updates": torch.tensor(0)})
    deltas, notes = editor.deltas([every[i] for i in numbers["records"]])
    expected = load_file(CASE / f"expected/weights{'' if variant == '1' else '_batch3'}.safetensors")
    assert deltas.keys() == expected.keys() == set(numbers["changed_after_merge"])
    for path, weight in expected.items():
        before = lm.model.get_parameter(path)
        assert (deltas[path] - (weight - before)).norm() <= 1e-4 * (weight - before).norm()
    losses = numbers["batch_losses"]
    first = losses[0] if variant == "1" else (2 * losses[0] + losses[1]) / 3
    assert notes["loss_first"] == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_and_an_adapter_that_grows(kind: str, lm: LM, edits: list[Edit]) -> None:
    """The second update of a run is that of an adapter beside the unedited weights, which goes on from the first."""
    hp, unedited = settings(kind), LM(copy.deepcopy(lm.model), lm.tokenizer, lm.name)
    editor = LoRA(lm, hp)
    deltas, _ = editor.deltas(edits[:1])
    add_(lm.model, deltas)
    editor.applied(edits[:1])
    start = {name: value for name, value in editor.state().items() if name != "updates"}
    found, wanted = editor.deltas(edits[1:])[0], naive.deltas(unedited, edits[1:], hp, start)
    assert found.keys() == wanted.keys() and len(found) == len(editor.paths)
    for name, delta in wanted.items():
        assert (found[name] - delta).norm() <= 1e-3 * delta.norm(), name
    whole = {path: naive.product({**start}, path, hp) for path in editor.paths}
    for path, product in whole.items():
        name = f"{path}.weight"
        layout = product if deltas[name].shape == product.shape else product.T
        torch.testing.assert_close(deltas[name], layout, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_drawn_anew_for_each_update_and_the_same_again(kind: str, edits: list[Edit]) -> None:
    lm = tiny("llama")
    editor = LoRA(lm, settings(kind, lora_dropout=0.5), seed=3)
    first, again = (editor.deltas(edits[:2])[0] for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = LoRA(lm, settings(kind, lora_dropout=0.5), seed=4).deltas(edits[:2])[0]
    without = LoRA(lm, settings(kind), seed=3).deltas(edits[:2])[0]
    assert all(not torch.equal(first[name], found[name]) for found in (other, without) for name in first)
    later = LoRA(lm, settings(kind, lora_dropout=0.5), seed=3)
    start = {name: value * (name != "updates") for name, value in editor.next.items()}
    later.load_state({**start, "updates": torch.tensor(0)})
    one = later.deltas(edits[:2])[0]
    later.load_state({**start, "updates": torch.tensor(7)})
    seventh = later.deltas(edits[:2])[0]
    assert all(not torch.equal(one[name], seventh[name]) for name in one)


def test_an_update_that_is_not_applied_leaves_the_adapter(edits: list[Edit]) -> None:
    editor = LoRA(tiny("gpt2"), settings("lora"))
    editor.deltas(edits[:1])
    assert editor.state() == {}


def test_with_a_regulariser_it_goes_on_from_what_was_applied(edits: list[Edit]) -> None:
    lm = tiny("gpt2")
    before = {name: weight.clone() for name, weight in lm.model.named_parameters()}
    updates, _ = edit_model(lm, LoRA(lm, settings("lora", num_steps=8)), [edits[:1], edits[1:2]], Rect(0.4))
    changed = {n for n, weight in lm.model.named_parameters() if not torch.equal(weight, before[n])}
    assert changed == set(updates[1].norms) and len(changed) == 2
    assert updates[1].notes["loss_last"] < updates[1].notes["loss_first"]


@pytest.mark.parametrize(
    ("family", "more", "wanted"),
    [
        ("gpt2", {}, ["attn.c_attn"]),
        ("llama", {}, ["self_attn.q_proj", "self_attn.v_proj"]),
        ("gpt_neox", {}, ["attention.query_key_value"]),
        ("phi3", {}, ["self_attn.qkv_proj"]),
        ("llama", {"target_modules": ("up_proj", "down_proj")}, ["mlp.up_proj", "mlp.down_proj"]),
    ],
)
def test_what_is_adapted(family: str, more: dict[str, Any], wanted: list[str]) -> None:
    lm = tiny(family)
    found = lora.targets(lm, settings("lora", **more))
    assert found == [f"{lm.block(layer)}.{name}" for layer in (1, 3) for name in wanted]
    assert len(lora.targets(lm, settings("lora", layers=(), **more))) == 4 * len(wanted)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="target_modules: no linear module of 'tiny-llama' is called 'q_porj'"):
        LoRA(tiny("llama"), settings("lora", target_modules=("q_porj", "v_proj")))
    for values in ({"rank": 0}, {"lora_alpha": 0.0}, {"lora_dropout": 1.0}):
        with pytest.raises(ValueError, match="rank: expected 1 or more; lora_alpha: more than 0; lora_dropout"):
            settings("lora", **values)
