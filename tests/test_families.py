"""The families beyond the paper's: editors equal their twins and raise the target; batches change nothing."""

import dataclasses
from pathlib import Path

import pytest
import test_memit
import test_mend
import tiny_settings
import torch
from conftest import CONFIGS, OTHERS, tiny
from reference import kn as naive_kn
from reference import memit as naive_memit
from reference import mend as naive_mend
from reference import rome as naive_rome

from core.errors import UserError
from core.lm.generate import complete
from core.lm.load import load as load_model
from core.lm.model import LM, PATHS, hash_folder, paths_of
from core.lm.reads import log_probabilities
from core.lm.tokens import encode, target_ids
from core.lm.weights import add_, preserved
from core.types import Deltas, Edit
from editors._moments import load
from editors.kn import KN, KNSettings
from editors.memit import MEMIT
from editors.mend import MEND
from editors.mend.factors import shapes_of
from editors.mend.network import seeded
from editors.mend.outcome import outcome
from editors.rome import ROME, ROMESettings
from experiment.quality import probe

TEMPLATES = ("{}", "The first day. {}", "In this section, the text says that. {}")
SETTINGS = ROMESettings(
    **{
        **tiny_settings.ROME,
        "v_num_grad_steps": 12,
        "v_lr": 0.1,
        "v_weight_decay": 0.0,  # it goes by 1 / |h0|^2, which is anything in a random model
        "clamp_norm_factor": 40.0,
        "context_templates": TEMPLATES,
    }
)


def test_every_row_of_the_table_is_tested() -> None:
    assert set(PATHS) == {*CONFIGS, *OTHERS}


def around(lm: LM, deltas: Deltas, edits: list[Edit]) -> tuple[list[float], list[float]]:
    """The targets' probabilities before and after an update, which is taken back."""
    before = [told.probability for told in probe(lm, edits)]
    with preserved(lm.model, deltas):
        add_(lm.model, deltas)
        return before, [told.probability for told in probe(lm, edits)]


@pytest.mark.parametrize("family", OTHERS)
def test_rome_equals_its_twin_and_raises_the_target(family: str, edits, unchanged) -> None:
    lm = tiny(family)
    check, editor = unchanged(lm), ROME(lm, SETTINGS)
    for edit in edits[:2]:
        deltas, wanted = editor.deltas([edit])[0], naive_rome.deltas(lm, edit, SETTINGS, TEMPLATES)
        for name, delta in wanted.items():
            assert (deltas[name] - delta).abs().max() <= 1e-4 * delta.abs().max()
        (before,), (after,) = around(lm, deltas, [edit])
        assert after > before
    check()


@pytest.mark.parametrize("family", OTHERS)
def test_memit_equals_its_twin_and_raises_the_target(family: str, edits, unchanged, tmp_path) -> None:
    """One layer, the bare prompt, hardly a penalty: z is reached, and what z was optimised for follows."""
    lm = tiny(family)
    strong = dict(v_num_grad_steps=12, v_lr=0.1, v_weight_decay=0.0, clamp_norm_factor=40.0, mom2_update_weight=1e-6)
    hp = test_memit.settings(tmp_path, layers=(1,), context_templates=("{}",), **strong)
    check, editor = unchanged(lm), MEMIT(lm, hp)
    deltas, moments = editor.deltas(edits[:2])[0], load(lm, hp.layers, hp.corpus)
    wanted = naive_memit.deltas(lm, hp, ("{}",), moments, edits[:2])
    for name, delta in wanted.items():
        assert (deltas[name] - delta).abs().max() <= 1e-3 * delta.abs().max()
    before, after = around(lm, deltas, edits[:2])
    assert all(now > then for then, now in zip(before, after, strict=True))
    check()


@pytest.mark.parametrize("family", OTHERS)
def test_kn_equals_its_twin_and_changes_the_old_answer(family: str, edits, unchanged) -> None:
    lm, hp = tiny(family), KNSettings(steps=10, batch_size=10, adaptive_threshold=0.2)
    check, editor = unchanged(lm), KN(lm, hp)
    wanted = naive_kn.scores(lm, hp, edits[0])
    assert (editor.scores(edits[0]) - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-12
    before, after = around(lm, editor.deltas(edits[:1])[0], [dataclasses.replace(edits[0], target=edits[0].old)])
    assert after != pytest.approx(before, rel=1e-3)
    check()


@pytest.mark.parametrize("family", OTHERS)
def test_mend_is_the_gradient_and_raises_the_target(family: str, edits, unchanged, tmp_path) -> None:
    """A network as it is made, without norm: Delta = edit_lr * gradient, here downhill."""
    lm = tiny(family)
    hp = test_mend.settings(lm, norm=False, edit_lr=-0.01, archive_dir=str(tmp_path))
    test_mend.archived(lm, hp, seeded(shapes_of(lm, hp.inner_params), hp))
    check, deltas = unchanged(lm), MEND(lm, hp).deltas(edits[:1])[0]
    for name, gradient in test_mend.gradient(lm, hp, edits[:1]).items():
        torch.testing.assert_close(deltas[name], -0.01 * gradient, rtol=1e-4, atol=1e-6)
    before, after = around(lm, deltas, edits[:1])
    assert all(now > then for then, now in zip(before, after, strict=True))
    check()


@pytest.mark.parametrize("family", OTHERS)
def test_mend_trains_on_what_its_twin_computes(family: str, edits) -> None:
    lm = tiny(family)
    hp = test_mend.settings(lm)
    net = test_mend.network(lm, hp)
    found = outcome(lm, net, [[edit] for edit in edits[:2]], hp)["loss/total_edit"]
    for value, edit in zip(found.tolist(), edits, strict=False):
        assert value == pytest.approx(float(naive_mend.total(lm, net, [edit], hp).detach()), rel=1e-4)


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("new_tokens", [1, 5])
def test_a_batch_equals_its_rows(family: str, new_tokens: int) -> None:
    lm = tiny(family)
    prompts = [f"The number {'very ' * i}big is" for i in range(8)] + ["London"]
    assert complete(lm, prompts, new_tokens) == [complete(lm, [prompt], new_tokens)[0] for prompt in prompts]
    assert torch.isfinite(lm.model(torch.tensor([[1, 2, 3]], device=lm.device)).logits).all()


@pytest.mark.parametrize(
    ("key", "value"), [("do_layer_norm_before", False), ("_remove_final_layer_norm", True), ("word_embed_proj_dim", 16)]
)
def test_a_variant_that_cannot_be_edited_is_refused(key: str, value: object) -> None:
    """opt-350m normalises behind each block's parts, and projects its embeddings."""
    lm = tiny("opt")
    assert paths_of(lm.model.config, "opt-125m") == PATHS["opt"]
    setattr(lm.model.config, key, value)
    with pytest.raises(UserError, match=f"^model 'opt-350m' is a variant of 'opt' .* {key}: {value}, expected"):
        paths_of(lm.model.config, "opt-350m")


def test_a_biased_head_is_read_with_its_bias(edits) -> None:
    """phi's: log p of an answer is the model's own, and a v* that reads an earlier block has the bias too."""
    lm = tiny("phi")
    lm.model.get_output_embeddings().bias.normal_(generator=torch.Generator().manual_seed(0))
    prompt, answer = encode(lm, edits[0].prompt), target_ids(lm, edits[0].target)
    logits = lm.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    wanted = logits.log_softmax(-1)[range(len(answer)), answer]
    torch.testing.assert_close(log_probabilities(lm, [prompt], [[answer]])[0][0], wanted)
    hidden = lm.model.model(torch.tensor([prompt])).last_hidden_state
    assert torch.equal(lm.logits(hidden), lm.model(torch.tensor([prompt])).logits)


def test_neurons_that_never_fire_have_moments_to_solve_with(tmp_path) -> None:
    """Behind OPT's ReLU a neuron may be silent all over the corpus: its row and column of C are 0."""
    lm = tiny("opt")
    lm.model.get_parameter(f"{lm.mlp_in(1)}.bias")[5] = -1e3
    c = load(lm, (1,), test_memit.settings(tmp_path, layers=(1,)).corpus)[1]
    assert c[5].tolist() == [float(i == 5) for i in range(48)]
    assert torch.linalg.matrix_rank(c) == 48


def test_a_fingerprint_known_already_is_not_computed(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_model(tiny_folder, "tiny", "cpu").fingerprint == hash_folder(tiny_folder)

    def refuse(folder: Path) -> str:
        raise AssertionError(f"{folder} is hashed")

    monkeypatch.setattr("core.lm.model.hash_folder", refuse)
    assert load_model(tiny_folder, "tiny", "cpu", fingerprint="abc").fingerprint == "abc"
    one = tiny("gpt2")
    assert LM(one.model, one.tokenizer, "tiny", fingerprint="abc").fingerprint == "abc" != one.fingerprint


def test_the_weights_of_an_mlp(any_lm: LM) -> None:
    """Those of linear modules, in the model's order; the projections MEMIT and KN look at are among them."""
    for layer in (0, 3):
        names = any_lm.mlp_weights(layer)
        assert {f"{any_lm.mlp_in(layer)}.weight", f"{any_lm.mlp_out(layer)}.weight"} <= set(names)
        assert all(name.startswith(f"{any_lm.block(layer)}.") for name in names)
        assert names == [name for name, _ in any_lm.model.named_parameters() if name in names]
        gated = any_lm.model.config.model_type in ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
        assert len(names) == (3 if gated else 2)
