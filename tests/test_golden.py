"""ROME and RECT against numbers of the original implementations (shared/golden, copied to tests/golden)."""

import json
import math
from dataclasses import replace

import pytest
import torch
import yaml
from conftest import GOLDEN, ROOT
from reference import rome as naive
from safetensors.torch import load_file
from torch import Tensor

from core import hparams
from core.lm.load import load
from core.lm.model import LM
from core.lm.tokens import encode, target_ids
from core.lm.weights import add_
from core.types import Deltas, Edit
from edit_sets.zsre import EDIT_SET
from editors import rome
from editors.regularizers.entries import rect
from editors.rome import ROME, ROMESettings

CASE = GOLDEN / "rome-gpt2-1"
NUMBERS = json.loads((CASE / "expected/numbers.json").read_text())["edits"][0]


@pytest.fixture(scope="module")
def hp() -> ROMESettings:
    """The released file as it is: keys that are read past, 5e-1 as a string."""
    found = hparams.load(ROMESettings, CASE / "hparams.yaml")
    return replace(found, stats_dir=str(CASE / "stats"))


def model() -> LM:
    return load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny", "cpu")


@pytest.fixture(scope="module")
def edit() -> Edit:
    return EDIT_SET.edits(CASE / "zsre.json", 0, 1, 1)[0]


@pytest.fixture(scope="module")
def found(hp: ROMESettings, edit: Edit) -> Deltas:
    return ROME(model(), hp).deltas([edit])[0]


def assert_golden(delta: Tensor, weight: Tensor, expected: Tensor, rtol: float = 1e-4) -> None:
    """||dW - dW_expected|| / ||dW_expected|| <= rtol."""
    wanted = expected - weight
    assert wanted.norm() > 0.1
    assert (delta - wanted).norm() / wanted.norm() <= rtol


def test_rome(found: Deltas) -> None:
    lm, expected = model(), load_file(CASE / "expected/weights.safetensors")
    assert found.keys() == expected.keys() == {NUMBERS["weight"]}
    for name, weight in expected.items():
        assert_golden(found[name], lm.model.get_parameter(name), weight)
    assert float(found[NUMBERS["weight"]].norm()) == pytest.approx(NUMBERS["dW_norm"], rel=1e-4)


def test_the_naive_twin_is_the_original_too(hp: ROMESettings, edit: Edit) -> None:
    lm, expected = model(), load_file(CASE / "expected/weights.safetensors")
    assert hp.context_templates is not None
    for name, delta in naive.deltas(lm, edit, hp, hp.context_templates).items():
        assert_golden(delta, lm.model.get_parameter(name), expected[name])


def test_the_steps_on_the_way(hp: ROMESettings, edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, losses, optimise = model(), [], rome.optimise
    prompts = rome.prompts_of(lm, edit, hp.context_templates or ())
    assert prompts.target == NUMBERS["target_ids"]
    assert prompts.at == NUMBERS["lookup_idxs"]
    assert [
        row + [0] * (len(wanted) - len(row)) for row, wanted in zip(prompts.rows, NUMBERS["input_ids"], strict=True)
    ] == (NUMBERS["input_ids"])

    def spy(*args: object) -> object:
        result = optimise(*args)  # type: ignore[arg-type]
        losses.extend(result.losses[0])
        return result

    monkeypatch.setattr(rome, "optimise", spy)
    _, notes = ROME(lm, hp).deltas([edit])
    assert losses == pytest.approx(NUMBERS["losses"], rel=1e-4)
    assert notes["layer 2"]["forwards"] == NUMBERS["n_forward"] == 20
    assert notes["layer 2"]["denominator"] == pytest.approx(NUMBERS["k_dot_u"], rel=1e-4)


def test_the_edit_does_to_the_model_what_it_did(found: Deltas, edit: Edit) -> None:
    """P of each target token after the prompt and the target's tokens before it."""
    lm, target = model(), None
    for stage in ("target_before", "target_after"):
        target = target_ids(lm, edit.target)
        row = encode(lm, edit.prompt) + target[:-1]
        with torch.no_grad():
            chances = lm.model(torch.tensor([row])).logits[0, -len(target) :].softmax(-1)
        probs = [float(chance[token]) for chance, token in zip(chances, target, strict=True)]
        assert probs == pytest.approx(NUMBERS[stage]["token_probs"], rel=1e-3)
        assert math.prod(probs) == pytest.approx(NUMBERS[stage]["prob"], rel=1e-3)
        assert lm.tokenizer.decode([int(chances[0].argmax())]) == NUMBERS[stage]["argmax"]
        add_(lm.model, found)


@pytest.mark.parametrize("percent", [20, 40])
def test_rect(found: Deltas, percent: int) -> None:
    lm, name = model(), NUMBERS["weight"]
    weight = lm.model.get_parameter(name)
    expected = load_file(GOLDEN / f"rect-rome-gpt2/expected/weights_keep{percent}.safetensors")[name]
    kept = rect(weight, found[name], percent / 100)
    assert_golden(kept, weight, expected)
    share = int((kept != 0).sum()) / kept.numel()
    assert share == pytest.approx(percent / 100, abs=1e-3)
    # Rounding decides at the threshold alone: the kept entries are the expected ones but for a handful.
    assert int(((kept != 0) != (expected != weight)).sum()) <= 1e-3 * kept.numel()


REBUILT = ROOT.parent / "shared/golden"


@pytest.mark.skipif(not REBUILT.is_dir(), reason=f"the numbers of r-ROME and p-ROME are not at {REBUILT}")
@pytest.mark.parametrize(("case", "key"), [("r_rome-gpt2-1", "mean"), ("p_rome-gpt2-seq4", "bare")])
def test_one_key_for_all(case: str, key: str) -> None:
    """r-ROME and p-ROME (Rebuilding ROME), edits in sequence; tests/reference has both for everyone."""
    folder, lm = REBUILT / case, model()
    values = yaml.safe_load((folder / "hparams.yaml").read_text())
    own = {name: value for name, value in values.items() if name in ROMESettings.__dataclass_fields__}
    hp = hparams.build(ROMESettings, {**own, "stats_dir": str(folder / "stats"), "key": key}, case)
    editor, numbers = ROME(lm, hp), json.loads((folder / "expected/numbers.json").read_text())["edits"]
    name = numbers[0]["weight"]
    start = lm.model.get_parameter(name).clone()
    for edit, wanted in zip(EDIT_SET.edits(folder / "zsre.json", 0, len(numbers), 1), numbers, strict=True):
        deltas, notes = editor.deltas([edit])
        add_(lm.model, deltas)
        assert notes["layer 2"]["denominator"] == pytest.approx(wanted["k_dot_u"], rel=1e-4)
        assert float(deltas[name].norm()) == pytest.approx(wanted["dW_norm"], rel=1e-4)
    now = lm.model.get_parameter(name)
    assert_golden(now - start, start, load_file(folder / "expected/weights.safetensors")[name])
