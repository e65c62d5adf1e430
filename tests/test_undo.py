"""Whatever goes wrong inside: the model is bit for bit what it was, no hook, flag or setting is left behind.

Every operation is run once to count its module calls, then again and again with a failure at one of them: at the first,
the last and a seeded choice of CALLS in all; at every single one in a soak (see tests/hostile.py).
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from hostile import STANDING, TOTAL
from tiny_settings import TARGET, corpus
from torch import nn

from core.lm.generate import complete
from core.lm.model import LM
from core.lm.moments import Corpus, second_moments
from core.lm.weights import add_, preserved
from core.types import Edit
from editors.ft_m import FTM, FTMSettings
from editors.kn import KN, KNSettings
from editors.lora import LoRA, LoRASettings
from editors.memit import MEMIT, MEMITSettings
from editors.mend import MEND
from editors.mend import archive as archive
from editors.mend.factors import shapes_of
from editors.mend.network import seeded
from editors.mend.settings import BEST, MENDSettings
from editors.mend.training import Records, Training
from editors.rome import ROME, ROMESettings
from editors.ultraedit import UltraEdit, UltraEditSettings
from experiment.quality import probe

CALLS = 24 if TOTAL == STANDING else 1_000_000
FAILURES = (KeyboardInterrupt, torch.OutOfMemoryError, ZeroDivisionError)


def state(lm: LM) -> dict[str, Any]:
    """All of a model that must not change, but for its tensors."""
    hooks = [name for name in vars(lm.model) if name.endswith("_hooks")]
    return {
        "flags": {name: p.requires_grad for name, p in lm.model.named_parameters()},
        "gradients": [name for name, p in lm.model.named_parameters() if p.grad is not None],
        "training": [name for name, m in lm.model.named_modules() if m.training],
        "hooks": {(name, kind): len(vars(m)[kind] or ()) for name, m in lm.model.named_modules() for kind in hooks},
        "replaced": [name for name, m in lm.model.named_modules() if "forward" in vars(m)],
        "generation": id(lm.model.generation_config),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


@contextmanager
def failing(at: int | None, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Raise `failure` at the at-th module call of the block, once. The list gets one entry a call."""
    calls: list[int] = []
    whole = nn.Module.__call__

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if at is not None and len(calls) == at + 1:
            raise failure("injected")
        return whole(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "__call__", call)
        yield calls


def chosen(count: int) -> list[int]:
    if count <= CALLS:
        return list(range(count))
    return sorted({0, count - 1, *random.Random(0).sample(range(count), CALLS - 2)})


def check(lm: LM, operation: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail `operation` at its module calls; the model stays as it is, and the operation works as before afterwards."""
    before, tensors = state(lm), {name: t.clone() for name, t in lm.model.state_dict().items()}
    with failing(None, KeyboardInterrupt, monkeypatch) as calls:
        wanted = operation()
    assert calls
    for i, at in enumerate(chosen(len(calls))):
        failure = FAILURES[i % len(FAILURES)]
        with failing(at, failure, monkeypatch):
            try:
                operation()
                assert failure is torch.OutOfMemoryError, f"no {failure} from call {at}"  # batches are tried again
            except failure as error:
                assert "injected" in str(error)
        assert state(lm) == before, f"{failure} at call {at}"
        for name, tensor in lm.model.state_dict().items():
            assert torch.equal(tensor, tensors[name]), f"{name} after {failure} at call {at}"
    found = operation()
    assert found == wanted if not isinstance(wanted, dict) else found.keys() == wanted.keys()
    for name in wanted if isinstance(wanted, dict) else ():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(wanted[name])), name


def test_rome(lm: LM, edits: list[Edit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = ROME(lm, ROMESettings(layers=(1, 2), mom2_adjustment=True, **TARGET, **corpus(tmp_path)))
    check(lm, lambda: editor.deltas(edits[:1])[0], monkeypatch)


def test_memit(lm: LM, edits: list[Edit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dict(mom2_adjustment=True, mom2_update_weight=10.0, edit_batch=2, **TARGET, **corpus(tmp_path))
    editor = MEMIT(lm, MEMITSettings(layers=(0, 1), **settings))
    check(lm, lambda: editor.deltas(edits[:3])[0], monkeypatch)


@pytest.mark.parametrize("grow", [False, True])
def test_kn(lm: LM, edits: list[Edit], grow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = KN(lm, KNSettings(steps=4, batch_size=3, adaptive_threshold=0.2, grow_prompt=grow))
    check(lm, lambda: editor.deltas(edits[1:2])[0], monkeypatch)


TRAINED: dict[str, Callable[[LM], Any]] = {
    "FT-M": lambda lm: FTM(lm, FTMSettings(layers=(1, 2), num_steps=2, lr=0.01, batch_size=2)),
    "LoRA": lambda lm: LoRA(lm, LoRASettings(num_steps=2, lr=0.01, batch_size=2, rank=2, lora_alpha=4.0, layers=(2,))),
    "UltraEdit": lambda lm: UltraEdit(lm, UltraEditSettings(inner_params=(lm.mlp_out(1),), lr=0.01, batch_size_once=2)),
}


@pytest.mark.parametrize("name", TRAINED)
def test_what_trains(name: str, edits: list[Edit], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that another tensor stands in for, modules that peft's stand in for, hooks for gradients."""
    lm = tiny("gpt2")
    editor, modules = TRAINED[name](lm), dict(lm.model.named_modules())
    check(lm, lambda: editor.deltas(edits)[0], monkeypatch)
    assert all(module is modules[path] for path, module in lm.model.named_modules())
    assert [path for path, _ in lm.model.named_modules()] == list(modules)


def mend_settings(lm: LM, folder: Path) -> MENDSettings:
    names = [f"{path}.weight" for layer in (2, 3) for path in (lm.mlp_in(layer), lm.mlp_out(layer))]
    return MENDSettings(inner_params=tuple(names), rank=4, accumulate_bs=2, archive_dir=str(folder), silent=True)


def test_mend(lm: LM, edits: list[Edit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hp = mend_settings(lm, tmp_path)
    training = Training(lm, hp, Records(edits, edits), hp.archive(lm.name))
    training._step([edits[:1], edits[1:2]])
    archive.save(hp.archive(lm.name) / BEST, training.net.state_dict(), training.header)
    editor = MEND(lm, hp)
    check(lm, lambda: editor.deltas(edits)[0], monkeypatch)


def test_a_training_step_of_mend(lm: LM, edits: list[Edit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails leaves the network's parameters as they were, too."""
    hp = mend_settings(lm, tmp_path)

    def step() -> dict[str, float]:
        training = Training(lm, hp, Records(edits, edits), tmp_path)
        fresh = seeded(shapes_of(lm, hp.inner_params), hp)
        try:
            return training._step([edits[:1], edits[1:2]])
        except BaseException:
            for one, other in zip(training.net.parameters(), fresh.parameters(), strict=True):
                assert torch.equal(one, other)
            raise

    check(lm, step, monkeypatch)


def test_the_probe(lm: LM, edits: list[Edit], monkeypatch: pytest.MonkeyPatch) -> None:
    check(lm, lambda: [p.said for p in probe(lm, edits)], monkeypatch)


@pytest.mark.parametrize(("tokens", "choices"), [(1, ()), (3, ("yes", "no"))])
def test_completions(lm: LM, edits: list[Edit], tokens: int, choices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lm.model.generation_config.repetition_penalty = 1.3  # a setting of the folder, put aside while decoding
    prompts = [edit.prompt for edit in edits]
    check(lm, lambda: [c.text for c in complete(lm, prompts, tokens, choices, batch_tokens=40)], monkeypatch)


@pytest.mark.parametrize("dataset", ["self-generated", "texts"])
def test_second_moments(lm: LM, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that fails leaves no file either."""
    texts = tmp_path / "t.txt"
    texts.write_text("\n\n".join(f"The number {i} is a word." for i in range(6)))
    made = Corpus(
        dataset if dataset == "self-generated" else str(texts), 2 if dataset == "self-generated" else 6, tmp_path
    )
    monkeypatch.setattr("core.lm.moments.GENERATED_TOKENS", 4)

    def collect() -> Any:
        for file in tmp_path.rglob("*.npz"):
            file.unlink()
        try:
            return second_moments(lm, (0, 1), made)
        except BaseException:
            assert [path for path in tmp_path.rglob("*") if path.is_file()] == [texts]
            raise

    check(lm, collect, monkeypatch)


@pytest.mark.parametrize("failure", FAILURES)
def test_preserved_in_every_dtype(failure: type[BaseException]) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        lm = tiny("llama")
        lm.model.to(dtype)
        name = f"{lm.mlp_out(1)}.weight"
        weight = lm.model.get_parameter(name)
        weight[0, 0], weight[0, 1] = -0.0, torch.nan
        before = weight.clone().view(torch.uint8)
        with pytest.raises(failure), preserved(lm.model, [name]):
            add_(lm.model, {name: torch.full(weight.shape, 0.1)})
            raise failure("injected")
        assert torch.equal(weight.view(torch.uint8), before)  # -0.0 and NaN, too
