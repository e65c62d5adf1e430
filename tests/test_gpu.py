"""What a GPU must do as the CPU does. Each test runs on both: on the CPU for everyone, on a GPU by `make gpu-check`."""

import dataclasses
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import FAMILIES, ROOT, tiny
from test_registry import EDITORS, batch_for, make
from test_value import settings as of_a_search
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

from benchmarks._common import sample_edits
from core import hparams
from core.folders import HPARAMS, MODELS, SAMPLE
from core.lm.generate import complete
from core.lm.kernels.attention import attention, of_few_tokens
from core.lm.kernels.fused import fuse_, rotated
from core.lm.likelihood import Asked
from core.lm.load import load
from core.lm.model import LM
from core.lm.pieces import begin
from core.lm.tokens import encode_all
from core.lm.weights import add_
from core.registry import discover
from editors._value import search
from editors.memit import MEMIT
from experiment.quality import probe
from inputs.embedded import EMBEDDED_MODEL
from tasks import EIGHT
from tests.reference import rotary as naive

CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
TASKS = discover("tasks", "TASK")
RUNS = [
    ("ROME", "Instance-Sequential", None),
    ("KN", "Instance-Sequential", None),
    ("MEMIT", "Batch-Single", None),
    ("MEMIT", "Batch-Sequential", 2),
    ("MEND", "Batch-Single", None),
    ("MEND", "Batch-Sequential", 2),
]
PROMPTS = ["London is the capital of", "A", "The mother tongue of Anna Bell is"]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CUDA)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|"""
    return float((found.cpu().float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", EDITORS)
def test_a_device_makes_the_same_edit(name: str, family: str, device: str, edits, tmp_path: Path) -> None:
    """The norm of the difference is within 1e-3 of the norm of the update made on the CPU."""
    lm = tiny(family)
    editor = make(name, lm, tmp_path)
    batch = batch_for(editor, edits)
    here = editor.deltas(batch)[0]
    lm.model.to(device)
    there = EDITORS[name](lm, editor.hp).deltas(batch)[0]
    assert there.keys() == here.keys()
    for parameter, delta in here.items():
        assert relative(there[parameter], delta) <= 1e-3, parameter


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_that_end_leave_the_batch(family: str, device: str, edits, tmp_path: Path, monkeypatch) -> None:
    """Most end before a GPU is first asked; the others go on in a recording of their own, in a second update too."""
    lm = tiny(family)
    editor = MEMIT(lm, of_a_search(tmp_path))
    losses = sorted(editor.deltas(edits)[1]["loss_last"])
    monkeypatch.setattr(search, "GOOD_ENOUGH", losses[-2] * 1.01)
    here, notes = editor.deltas(edits)
    steps = sorted(notes["forwards"])
    assert steps[len(steps) // 2] <= search.ASKED["cuda"] < steps[-1]
    lm.model.to(device)
    for _ in range(2):
        there, noted = MEMIT(lm, editor.hp).deltas(edits)
        assert noted["forwards"] == notes["forwards"]
        assert all(relative(there[name], delta) <= 1e-3 for name, delta in here.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_says_the_same(family: str, device: str, edits) -> None:
    lm = tiny(family)
    here = [complete(lm, PROMPTS, 4), complete(lm, PROMPTS, 1, ("yes", "no"))], [p.said for p in probe(lm, edits)]
    lm.model.to(device)
    assert here == (
        [complete(lm, PROMPTS, 4), complete(lm, PROMPTS, 1, ("yes", "no"))],
        [p.said for p in probe(lm, edits)],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_recorded_says_the_same(family: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rows that end on the way, and without a recorder."""
    lm = tiny(family)
    lm.model.to(device)
    lm.model.generation_config.eos_token_id = list(range(0, lm.model.config.vocab_size, 9))
    found = complete(lm, PROMPTS, 24)
    monkeypatch.setattr(LM, "recorder", property(lambda self: None))
    assert found == complete(lm, PROMPTS, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_parts_compute_the_same(family: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", naive.rotated)
    lm = tiny(family)
    lm.model.to(device)
    weights, parts = lm.model.state_dict(), {type(module) for module in lm.model.modules()}
    rows = encode_all(lm, PROMPTS)
    wanted = begin(lm, rows).logits
    fuse_(lm.model)
    torch.testing.assert_close(begin(lm, rows).logits, wanted, rtol=1e-4, atol=1e-5)
    assert parts != {type(module) for module in lm.model.modules()}, "nothing was fused"
    assert (modeling_llama.apply_rotary_pos_emb is rotated) == (family == "llama")
    assert all(torch.equal(weights[name], tensor) for name, tensor in lm.model.state_dict().items())


@pytest.mark.parametrize("turns", [rotated, modeling_llama.apply_rotary_pos_emb])
def test_rotated_as_defined(turns: Callable[..., tuple[Tensor, Tensor]], device: str) -> None:
    """And what its gradients are; of more queries than keys, in the layout that projections have."""
    torch.manual_seed(0)
    q, k = (torch.randn(2, 5, heads, 8, device=device).transpose(1, 2).requires_grad_() for heads in (4, 2))
    angles = torch.randn(2, 5, 4, device=device).repeat(1, 1, 2)
    given = (q, k, angles.cos(), angles.sin())
    found, wanted = turns(*given), naive.rotated(*given)
    torch.testing.assert_close(found, wanted)
    loss, other = (sum((x**3).sum() for x in pair) for pair in (found, wanted))
    torch.testing.assert_close(torch.autograd.grad(loss, [q, k]), torch.autograd.grad(other, [q, k]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize(("groups", "scaling"), [(1, None), (2, 0.5)])
def test_attention_of_few_tokens(
    groups: int, scaling: float | None, tokens: int, told: bool, dtype: torch.dtype, device: str
) -> None:
    """What torch's own is, and its gradients; the queries of a group share keys and values. A mask says what is seen,
    or is added."""
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(3, columns, heads, 8, device=device).to(dtype).transpose(1, 2).requires_grad_()
        for heads, columns in ((4, tokens), (4 // groups, 20), (4 // groups, 20))
    )
    seen = torch.ones(3, 1, tokens, 20, dtype=torch.bool, device=device).tril(20 - tokens)
    seen[0, ..., :15] = seen[1, ..., 18:] = False
    added = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    module = torch.nn.Module()
    module.num_key_value_groups = groups
    given = (module, query, key, value, seen if told else added)
    found, _ = attention(*given, scaling=scaling, dropout=0.0)
    doubles = [x.detach().double().requires_grad_() for x in (query, key, value)]
    k, v = (x.repeat_interleave(groups, 1) for x in doubles[1:])
    wanted = scaled_dot_product_attention(doubles[0], k, v, seen, scale=scaling).transpose(1, 2)
    assert found.shape == wanted.shape and found.dtype == dtype
    near = 1e-5 if dtype == torch.float32 else 1e-2
    assert relative(found.detach(), wanted.detach().cpu().float()) <= near
    with torch.no_grad():
        assert relative(attention(*given, scaling=scaling)[0], wanted.cpu().float()) <= near
    grads = (torch.autograd.grad(x.pow(2).sum(), of) for x, of in ((found, given[1:4]), (wanted, doubles)))
    for ours, other in zip(*grads, strict=True):
        assert relative(ours, other.cpu().float()) <= 3 * near


@pytest.mark.parametrize("option", [{"dropout": 1.0}, {"position_bias": torch.arange(4.0).view(1, 1, 1, 4)}])
def test_what_only_torch_does_is_left_to_it(option: dict[str, Any]) -> None:
    query, key, value = (torch.randn(1, 1, columns, 4) for columns in (1, 4, 4))
    module, mask = torch.nn.Module(), torch.zeros(1, 1, 1, 4)
    wanted, _ = sdpa_attention_forward(module, query, key, value, mask, **option)
    assert torch.equal(attention(module, query, key, value, mask, **option)[0], wanted)
    assert not torch.allclose(attention(module, query, key, value, mask)[0], wanted)


def test_attention_is_as_it_was_behind_a_step() -> None:
    """Of one that fails, too."""
    with pytest.raises(torch.OutOfMemoryError), of_few_tokens(), of_few_tokens():
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention
        raise torch.OutOfMemoryError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_twice(family: str, dtype: str, device: str, edits, tmp_path: Path) -> None:
    """The same completions, to the bit the same measures and updates: in one process, one after the other."""
    lm = tiny(family)
    lm.model.to(device, getattr(torch, dtype))
    asked = [Asked(text=True, references=((5, 6, 7),))] * len(PROMPTS)
    editors = [make(name, lm, tmp_path) for name in ("ROME", "MEMIT", "KN")]
    first, again = (
        (complete(lm, PROMPTS, 24, asked=asked), [editor.deltas(batch_for(editor, edits))[0] for editor in editors])
        for _ in range(2)
    )
    assert first[0] == again[0]
    for one, other in zip(first[1], again[1], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


STEPS = {"FT-L", "FT-M", "LocFT-BF", "LoRA"}
"""What takes steps of Adam: as long as the rate says, even where rounding turns the sign of a small gradient."""


@pytest.fixture(scope="session")
def both() -> list[LM]:
    """The embedded model in float32, on the CPU and on the GPU."""
    if not (MODELS / EMBEDDED_MODEL).exists():
        pytest.skip("needs `python prepare.py model smollm2-135m`")
    return [load(MODELS / EMBEDDED_MODEL, EMBEDDED_MODEL, device) for device in ("cpu", "cuda")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", EIGHT)
def test_the_embedded_model_says_the_same(name: str, both: list[LM]) -> None:
    """Of all sample data."""
    task = TASKS[name]
    prompts = [sample.prompt for sample in task.samples(SAMPLE / "task-data" / task.file)]
    here, there = (complete(lm, prompts, task.max_new_tokens, task.choices) for lm in both)
    assert there == here


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["ROME", "MEMIT", "KN"])
def test_the_embedded_model_is_edited_alike(name: str, both: list[LM]) -> None:
    hp = hparams.load(EDITORS[name].hparams, HPARAMS / name / f"{EMBEDDED_MODEL}.yaml")
    edits = sample_edits(4 if name == "MEMIT" else 1)
    wanted, found = (EDITORS[name](lm, hp).deltas(edits)[0] for lm in both)
    assert found.keys() == wanted.keys()
    assert {parameter: relative(found[parameter], delta) for parameter, delta in wanted.items()} == {
        parameter: pytest.approx(0, abs=1e-3) for parameter in wanted
    }


def far_from_all(scores: Tensor) -> float:
    """A threshold over which rounding moves no neuron: in the middle of the widest gap between the largest scores."""
    largest = (scores / scores.max()).flatten().sort(descending=True).values[:20]
    at = int((largest[:-1] - largest[1:]).argmax())
    return float(largest[at] + largest[at + 1]) / 2


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.05), ("float16", 0.01)])
@pytest.mark.parametrize("name", EDITORS)
def test_half_precision(name: str, dtype: str, near: float, device: str, edits, tmp_path: Path) -> None:
    """Deltas in float32, near those of the float32 model; what rounding takes from them is told."""
    lm = tiny("gpt2")
    editor = make(name, lm, tmp_path)
    batch = batch_for(editor, edits)
    if name == "KN":
        editor.hp = dataclasses.replace(editor.hp, adaptive_threshold=far_from_all(editor.scores(batch[0])))
    here = editor.deltas(batch)[0]
    lm.model.to(device, getattr(torch, dtype))
    there = EDITORS[name](lm, editor.hp).deltas(batch)[0]
    assert there.keys() == here.keys()
    for parameter, delta in there.items():
        assert delta.dtype == torch.float32
        assert relative(delta, here[parameter]) < near + (0.1 if name in STEPS else 0)
        weight = lm.model.get_parameter(parameter)
        before = weight.float()
        lost = add_(lm.model, {parameter: delta})[parameter]
        assert weight.dtype == getattr(torch, dtype)
        assert 0 < lost == pytest.approx(relative(weight.float() - before, delta.cpu()), rel=1e-3)


# --- the scripts ----------------------------------------------------------------------------------------------------


def script(monkeypatch: pytest.MonkeyPatch, *argv: object) -> None:
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / str(argv[0])), run_name="__main__")


def common(folder: Path, out: Path, device: str) -> list[object]:
    return ["--model", folder, "--data", ROOT / "data/sample", "--limit", 2, "--device", device, "--results", out]


def settings(name: str, lm: LM, folder: Path) -> Path:
    """A settings file for the tiny model."""
    hp = make(name, lm, folder).hp
    if hasattr(hp, "context_templates"):
        hp = dataclasses.replace(hp, context_templates=("{}", "The first day. {}"))
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(hp)))))
    assert hparams.load(EDITORS[name].hparams, file) == hp
    return file


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("**/result-*.json"))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_eight_tasks(
    dtype: str, device: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "test-task.py", "all", *common(tiny_folder, tmp_path, device), "--dtype", dtype)
    found = results(tmp_path)
    assert {result["task"] for result in found} == set(EIGHT) and all(result["n"] == 2 for result in found)
    assert all(result["environment"]["device"].startswith(device) for result in found)


@pytest.mark.parametrize(("method", "mode", "size"), RUNS, ids=lambda value: str(value))
def test_methods_and_modes(
    method: str, mode: str, size: int | None, device: str, tiny_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """Four edits through the real script; the edited model is saved, and read back says the same."""
    lm = load(tiny_folder, "tiny-gpt2", "cpu")
    more = ["--hparams", settings(method, lm, tmp_path), "--save-model", tmp_path / "edited", "--overwrite"]
    edited = [mode, method, 200, 204, 1, *([] if size is None else [size])]
    out = tmp_path / "out"
    script(monkeypatch, "test-task-after.py", "NER", *edited, *common(tiny_folder, out, device), *more)
    (result,) = results(out)
    assert len(result["updates"]) == {"Instance-Sequential": 4, "Batch-Single": 1, "Batch-Sequential": 2}[mode]
    assert all(norm > 0 for update in result["updates"] for norm in update["norms"].values())
    saved = load(tmp_path / "edited", "tiny-gpt2", device)
    changed = {n for n, p in lm.model.named_parameters() if not torch.equal(p, saved.model.get_parameter(n).cpu())}
    assert changed == {name for update in result["updates"] for name in update["norms"]}
    prompt = result["edits"][0]["prompt"]
    assert complete(saved, [prompt], 3) == complete(load(tmp_path / "edited", "tiny-gpt2", "cpu"), [prompt], 3)
