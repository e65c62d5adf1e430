"""Editing and scoring where tensors live on a device, or on two: pretended ones, and accelerate's offloading."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from conftest import FAMILIES, edit_model, tiny
from pretend import pretended
from test_registry import EDITORS, WAYS, batch_for, make
from torch import Tensor

from core.errors import UserError
from core.lm.generate import complete
from core.lm.load import load
from core.lm.model import LM
from core.lm.weights import add_
from core.types import Change
from editors.mend.factors import shapes_of
from editors.mend.network import seeded
from editors.mend.outcome import outcome
from editors.regularizers import REGULARIZERS, Rect
from experiment.quality import probe

PROMPTS = ["London is the capital of", "A", "The mother tongue of Anna Bell is"]


def halves(lm: LM, one: str, other: str) -> dict[str, str]:
    """A device map: embeddings and the lower blocks on `one`, the upper blocks and the final norm on the `other`."""
    blocks = [lm.block(layer) for layer in range(lm.n_layers)]
    inside = tuple(f"{block}." for block in blocks)
    leaves = [name for name, m in lm.model.named_modules() if not list(m.children()) and not name.startswith(inside)]
    upper = {*blocks[lm.n_layers // 2 :], lm.paths.final_norm}
    if not lm.model.config.tie_word_embeddings:
        upper.add("lm_head")
    return {name: other if name in upper else one for name in (*leaves, *blocks)}


def whole(lm: LM) -> None:
    lm.model.to("lazy:0")


def spread(lm: LM) -> None:
    dispatch_model(lm.model, halves(lm, "lazy:0", "lazy:1"), main_device="lazy:0", force_hooks=True)


both = pytest.mark.parametrize("move", [whole, spread])


# --- the pretended devices are strict -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    [
        lambda a, b: a + b,
        lambda a, b: a + torch.ones(3),
        lambda a, b: a @ b,
        lambda a, b: torch.cat([a, b]),
        lambda a, b: a[torch.tensor([0], device=b.device)],
        lambda a, b: torch.ones(3)[torch.tensor([0], device=a.device)],
        lambda a, b: a.numpy(),
    ],
)
def test_a_forgotten_move_is_an_error(mistake: Callable[[Tensor, Tensor], Any]) -> None:
    with pretended():
        a, b = torch.ones(3, device="lazy:0"), torch.ones(3, device="lazy:1")
        with pytest.raises((RuntimeError, TypeError)):
            mistake(a, b)


def test_what_is_allowed() -> None:
    with pretended():
        a = torch.arange(3.0, device="lazy:0", requires_grad=True)
        b = (a.to("lazy:1") * torch.tensor(2.0)).sum()
        assert (str(a.device), str(b.device)) == ("lazy:0", "lazy:1")
        b.backward()
        assert str(a.grad.device) == "lazy:0" and a.grad.tolist() == [2, 2, 2]
        assert a[torch.tensor([2])].tolist() == a[[2]].tolist() == [2]


# --- one device and two ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family", "move"),
    [(name, "llama", spread) for name in EDITORS]
    + [pytest.param(name, "llama", whole, marks=pytest.mark.slow) for name in EDITORS]
    + [
        pytest.param(name, family, spread, marks=pytest.mark.slow)
        for name in WAYS
        for family in FAMILIES
        if family != "llama"
    ],
)
def test_an_edit_is_the_same_there(name: str, family: str, move: Callable[[LM], None], edits, tmp_path: Path) -> None:
    """Second moments, templates, the edit, and what the model says before and after it."""
    lm = tiny(family)
    editor = make(name, lm, tmp_path)
    batch = batch_for(editor, edits)
    here = editor.deltas(batch)[0]
    add_(lm.model, here)
    said = probe(lm, edits)
    shutil.rmtree(tmp_path / "stats", ignore_errors=True)
    lm = tiny(family)
    assert lm.fingerprint
    with pretended():
        move(lm)
        assert str(lm.device) == "lazy:0"
        there = EDITORS[name](lm, editor.hp).deltas(batch)[0]
        for parameter, delta in there.items():
            wanted = here[parameter]
            assert (delta.cpu() - wanted).abs().max() <= 1e-3 * wanted.abs().max()  # Adam's first steps are signs
        add_(lm.model, there)
        now = probe(lm, edits)
    assert [(p.said, p.success, p.locality_ids) for p in now] == [(p.said, p.success, p.locality_ids) for p in said]
    assert [p.probability for p in now] == pytest.approx([p.probability for p in said], rel=1e-3)


@both
@pytest.mark.parametrize("name", ["MEMIT", "AlphaEdit"])
def test_a_sequence_with_a_memory_is_the_same_there(
    name: str, move: Callable[[LM], None], edits, tmp_path: Path
) -> None:
    """Past keys stay in ordinary memory; what a regulariser holds back lies where the weights are."""
    lm = tiny("llama")
    editor = make(name, lm, tmp_path)
    hp = dataclasses.replace(editor.hp, cache=True) if name == "MEMIT" else editor.hp
    rule, start = Rect(keep=0.5, feedback=True), {n: p.clone() for n, p in lm.model.named_parameters()}
    edit_model(lm, EDITORS[name](lm, hp), [edits[:2], edits[2:]], rule)
    here = {n: p - start[n] for n, p in lm.model.named_parameters()}
    lm = tiny("llama")
    assert lm.fingerprint
    with pretended():
        move(lm)
        edit_model(lm, EDITORS[name](lm, hp), [edits[:2], edits[2:]], rule)
        there = {n: p.detach().cpu() - start[n] for n, p in lm.model.named_parameters()}
    for n, change in here.items():
        assert (there[n] - change).norm() <= 1e-3 * change.norm(), n


@both
def test_completions_are_the_same_there(move: Callable[[LM], None]) -> None:
    lm = tiny("llama")
    here = [complete(lm, PROMPTS, n, words) for n, words in ((4, ()), (1, ("yes", "no")))]
    with pretended():
        move(lm)
        assert here == [complete(lm, PROMPTS, n, words) for n, words in ((4, ()), (1, ("yes", "no")))]


@both
def test_mend_trains_there(move: Callable[[LM], None], edits, tmp_path: Path) -> None:
    lm = tiny("llama")
    hp = make("MEND", lm, tmp_path).hp
    inner = tuple(f"{lm.mlp_out(layer)}.weight" for layer in (1, 3))  # one on each device
    hp = dataclasses.replace(hp, inner_params=inner)

    def step(where: str) -> tuple[float, list[Tensor]]:
        net = seeded(shapes_of(lm, inner), hp).to(where)
        loss = outcome(lm, net, [[edit] for edit in edits], hp)["loss/total_edit"].mean()
        loss.backward()
        return float(loss.detach()), [p.grad.cpu() for p in net.parameters() if p.grad is not None]

    loss, gradients = step("cpu")
    with pretended():
        move(lm)
        there, found = step("lazy:0")
    assert there == pytest.approx(loss, rel=1e-4)
    assert len(gradients) == len(found) > 0
    for a, b in zip(gradients, found, strict=True):
        assert (a - b).abs().max() <= 1e-3 * a.abs().max() + 1e-12


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularisers_work_there(name: str) -> None:
    """With the delta on another device than the weight, and the unedited weight on the CPU."""
    weight, delta, unedited = torch.randn(6, 5), torch.randn(6, 5), torch.randn(6, 5)
    rule = REGULARIZERS[name]()
    here = rule(Change("w", weight, delta, unedited), {}, torch.Generator().manual_seed(0))
    with pretended():
        change = Change("w", weight.to("lazy:1"), delta.to("lazy:0"), unedited)
        there = rule(change, {}, torch.Generator().manual_seed(0))
        assert str(there.device) == "lazy:0" and torch.allclose(there.cpu(), here, atol=1e-6)


# --- accelerate, for real -------------------------------------------------------------------------------------------


@pytest.fixture
def offloaded(tmp_path: Path) -> tuple[LM, LM]:
    """A model in memory, and the same from disk with its upper half left there until it runs."""
    lm = tiny("llama")
    lm.model.save_pretrained(tmp_path / "m")
    lm.tokenizer.save_pretrained(tmp_path / "m")
    return lm, load(tmp_path / "m", lm.name, device_map=halves(lm, "cpu", "disk"))


def test_an_offloaded_model_is_scored_like_any(offloaded: tuple[LM, LM], edits) -> None:
    lm, disk = offloaded
    assert disk.model.get_parameter(f"{disk.mlp_out(3)}.weight").is_meta
    assert disk.model.get_output_embeddings().weight.is_meta and disk.device == torch.device("cpu")
    assert complete(lm, PROMPTS, 3) == complete(disk, PROMPTS, 3)
    assert complete(lm, PROMPTS, 1, ("yes", "no")) == complete(disk, PROMPTS, 1, ("yes", "no"))
    assert [p.said for p in probe(lm, edits)] == [p.said for p in probe(disk, edits)]


@pytest.mark.parametrize("name", EDITORS)
def test_an_offloaded_weight_is_not_edited(name: str, offloaded: tuple[LM, LM], tmp_path: Path) -> None:
    """In one line, and before anything slow."""
    lm, disk = offloaded
    hp = make(name, lm, tmp_path).hp
    if hasattr(hp, "layers"):
        hp = dataclasses.replace(hp, layers=(1, 2))  # the second is on disk
    vars(disk)["fingerprint"] = lm.fingerprint  # MEND's archive is for the one in memory
    with pytest.raises(UserError, match=r"offloaded and cannot be edited: --device-map must keep it") as error:
        EDITORS[name](disk, hp)
    assert "\n" not in str(error.value)


def test_a_weight_in_memory_is_edited_through_offloaded_ones(offloaded: tuple[LM, LM], edits, tmp_path: Path) -> None:
    lm, disk = offloaded
    hp = dataclasses.replace(make("ROME", lm, tmp_path).hp, layers=(1,))
    here, there = (EDITORS["ROME"](one, hp).deltas(edits[:1])[0] for one in offloaded)
    for name, delta in here.items():
        assert (delta - there[name]).abs().max() <= 1e-4 * delta.abs().max()
    assert all("forward" in vars(disk.module(disk.block(layer))) for layer in range(disk.n_layers))  # accelerate's


def test_an_edited_model_with_offloaded_weights_is_saved_whole(offloaded: tuple[LM, LM], tmp_path: Path) -> None:
    name = f"{offloaded[0].mlp_out(1)}.weight"
    for lm in offloaded:
        add_(lm.model, {name: torch.ones(lm.model.get_parameter(name).shape)})
    offloaded[1].model.save_pretrained(tmp_path / "edited")
    offloaded[1].tokenizer.save_pretrained(tmp_path / "edited")
    again = load(tmp_path / "edited", "t", "cpu")
    for parameter, weight in offloaded[0].model.named_parameters():
        assert torch.equal(again.model.get_parameter(parameter), weight), parameter


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_load_with_a_device_map(offloaded: tuple[LM, LM], device_map: Any) -> None:
    lm, disk = offloaded
    assert complete(load(disk.folder, "t", device_map=device_map), PROMPTS, 2) == complete(lm, PROMPTS, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "cpu", "device_map": "auto"}, "--device-map places the layers itself: leave --device out"),
        ({"device_map": "anywhere"}, "onto anywhere: "),
        ({"device_map": {"": "cuda:99"}}, "cannot load the model"),
        ({"attn": "flash_attention_9"}, "--attn flash_attention_9 is not available here: "),
    ],
)
def test_placements_that_cannot_be_had(offloaded: tuple[LM, LM], given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load(offloaded[1].folder, "t", **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_implementations_of_attention(offloaded: tuple[LM, LM], attn: str, edits, tmp_path: Path) -> None:
    lm, disk = offloaded
    loaded = load(disk.folder, lm.name, "cpu", attn=attn)
    assert loaded.model.config._attn_implementation == attn
    assert complete(loaded, PROMPTS, 3) == complete(lm, PROMPTS, 3)
    editor = make("ROME", lm, tmp_path)
    here, there = (EDITORS["ROME"](one, editor.hp).deltas(edits[:1])[0] for one in (lm, loaded))
    for name, delta in here.items():
        assert (delta - there[name]).abs().max() <= 1e-3 * delta.abs().max()


# --- no graph where none is needed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work", [lambda lm, e: complete(lm, PROMPTS, 1), lambda lm, e: complete(lm, PROMPTS, 3), probe]
)
def test_scoring_and_probing_run_in_inference_mode(work: Callable[[LM, Any], Any], edits) -> None:
    lm, modes = tiny("gpt2"), []
    handle = lm.model.base_model.register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    with torch.enable_grad():
        work(lm, edits)
    handle.remove()
    assert modes and all(modes)


@pytest.mark.parametrize("name", EDITORS)
def test_editors_keep_no_graph(name: str, edits, tmp_path: Path) -> None:
    with torch.enable_grad():
        editor = make(name, tiny("gpt2"), tmp_path)
        deltas = editor.deltas(batch_for(editor, edits))[0]
    assert all(not d.requires_grad and d.grad_fn is None and not d.is_inference() for d in deltas.values())
