"""Every settings file fits the model it is named after, built without weights from the sizes its authors published."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from core import hparams
from core.lm.model import LM
from core.registry import discover
from core.types import Layer, Weight
from editors import locft_bf, lora
from editors._training.gradients import shapes_of
from inputs.official import REPOS

CONFIGS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data/configs.json").read_text())
EDITORS = discover("editors", "EDITOR")
FILES = [(name, path) for name in EDITORS for path in sorted(ROOT.glob(f"hparams/**/{name}/*.yaml"))]
NAMED = {"llama3-8b", "llama3.1-8b", "llama3.2-3b", "llama2-7b", "qwen2.5-7b", "mistral-7b-v0.1", "gpt-j-6B", "phi-1.5"}


@cache
def skeleton(model: str) -> LM:
    """The model without weights: its modules and shapes."""
    config = dict(CONFIGS[model])
    del config["parameters"]
    with torch.device("meta"):
        return LM(AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)), None, model)


@pytest.mark.parametrize("model", CONFIGS)
def test_the_sizes_are_the_published_ones(model: str) -> None:
    """Down to the number of parameters, and with the projections where the family's row says."""
    lm = skeleton(model)
    assert sum(parameter.numel() for parameter in lm.model.parameters()) == CONFIGS[model]["parameters"]
    width = lm.model.config.hidden_size
    inner = getattr(lm.model.config, "intermediate_size", None) or 4 * width
    for layer in (0, lm.n_layers - 1):
        out, start = lm.module(lm.mlp_out(layer)), lm.module(lm.mlp_in(layer))
        assert isinstance(out, nn.Linear | Conv1D) and isinstance(start, nn.Linear | Conv1D)
        assert lm.key_width(layer) == inner and sorted(out.weight.shape) == sorted((width, inner))
    assert lm.model.get_submodule(lm.paths.final_norm).get_parameter("weight").shape == (width,)


def test_phis_head_has_a_bias() -> None:
    assert skeleton("phi-1.5").model.get_output_embeddings().get_parameter("bias").shape == (51200,)


@pytest.mark.parametrize(
    ("method", "path"), FILES, ids=[f"{path.parent.parent.name}-{m}-{path.stem}" for m, path in FILES]
)
def test_a_file_fits_its_model(method: str, path: Path) -> None:
    """Every layer and weight it names is there; the loss reads the last block; what is adapted is found."""
    lm, hp = skeleton(path.stem), hparams.load(EDITORS[method].hparams, path)
    hparams.check(hp, lm)
    if hasattr(hp, "v_loss_layer"):
        assert hp.v_loss_layer == lm.n_layers - 1 and max(hp.layers) < hp.v_loss_layer
    if hasattr(hp, "inner_params"):
        assert len(shapes_of(lm, hp.inner_params)) == len(hp.inner_params)
    if method == "LoRA":
        layers = len(hp.layers or range(lm.n_layers))
        assert len(lora.targets(lm, hp)) == layers * len(hp.target_modules or ("q_proj", "v_proj"))
    if method == "LocFT-BF":
        assert locft_bf.trained(lm, hp)


def test_it_is_noticed_if_a_file_does_not_fit() -> None:
    """The layers of a deeper model, the weights of another family."""
    hp = hparams.load(EDITORS["ROME"].hparams, ROOT / "hparams/ROME/gpt2-xl.yaml")
    with pytest.raises(Exception, match=r"v_loss_layer: 47: 'phi-1\.5' has layers 0 to 23"):
        hparams.check(hp, skeleton("phi-1.5"))
    mend = hparams.load(EDITORS["MEND"].hparams, ROOT / "hparams/MEND/gpt-j-6B.yaml")
    with pytest.raises(Exception, match="inner_params: 'llama3-8b' has no weight"):
        hparams.check(mend, skeleton("llama3-8b"))


def test_settings_say_where_they_are_from_and_their_models_can_be_fetched() -> None:
    for method, path in FILES:
        assert path.read_text(encoding="utf-8").startswith("# ") or method == "MEND", path
        assert path.stem in {*REPOS, "smollm2-135m"}, f"prepare.py model {path.stem}: no row in inputs/official.py"
    assert {*REPOS} >= NAMED and {*CONFIGS} >= {*REPOS}
    shipped = {path.stem for _, path in FILES}
    assert shipped >= NAMED


@pytest.mark.parametrize("method", EDITORS)
def test_layers_and_weights_are_typed_as_such(method: str) -> None:
    """Else they would not be checked: a setting of a number called layer, or of names of weights."""
    kind = EDITORS[method].hparams
    named = {*hparams.named(kind, Layer), *hparams.named(kind, Weight)}
    fields = {name for name in kind.__dataclass_fields__ if "layer" in name or name == "inner_params"}
    assert fields - named <= {"no_grad_layers"}
