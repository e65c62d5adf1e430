"""The families beyond the paper's: editors equal their naive twins, the model stays, batches change nothing."""

import pytest
import torch
from conftest import CONFIGS, OTHERS, tiny
from reference import kn as naive_kn
from reference import rome as naive_rome

from core.generate import complete
from core.model import PATHS
from core.quality import probe
from core.weights import add_, preserved
from editors.kn import KN, KNSettings
from editors.rome import ROME, ROMESettings

TEMPLATES = ("{}", "The first day. {}", "In this section, the text says that. {}")
SETTINGS = ROMESettings(
    layers=(1,),
    v_num_grad_steps=12,
    v_lr=0.1,
    v_loss_layer=3,
    v_weight_decay=0.0,  # it goes by 1 / |h0|^2, which is anything in a random model
    clamp_norm_factor=40.0,
    kl_factor=0.0625,
    mom2_adjustment=False,
    context_templates=TEMPLATES,
)


def test_every_row_of_the_table_is_tested() -> None:
    assert set(PATHS) == {*CONFIGS, *OTHERS}


@pytest.mark.parametrize("family", OTHERS)
def test_rome_equals_its_twin_and_raises_the_target(family: str, edits, unchanged) -> None:
    lm = tiny(family)
    check, editor = unchanged(lm), ROME(lm, SETTINGS)
    for edit in edits[:2]:
        deltas, wanted = editor.deltas([edit]), naive_rome.deltas(lm, edit, SETTINGS, TEMPLATES)
        for name, delta in wanted.items():
            assert (deltas[name] - delta).abs().max() <= 1e-4 * delta.abs().max()
        (before,) = probe(lm, [edit])
        with preserved(lm.model, deltas):
            add_(lm.model, deltas)
            (after,) = probe(lm, [edit])
        assert after.probability > before.probability
    check()


@pytest.mark.parametrize("family", OTHERS)
def test_kn_equals_its_twin(family: str, edits) -> None:
    lm, hp = tiny(family), KNSettings(steps=10, batch_size=10, adaptive_threshold=0.2)
    wanted = naive_kn.scores(lm, hp, edits[0])
    assert (KN(lm, hp).scores(edits[0]) - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-12


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("new_tokens", [1, 5])
def test_a_batch_equals_its_rows(family: str, new_tokens: int) -> None:
    lm = tiny(family)
    prompts = [f"The number {'very ' * i}big is" for i in range(8)] + ["London"]
    assert complete(lm, prompts, new_tokens) == [complete(lm, [prompt], new_tokens)[0] for prompt in prompts]
    assert torch.isfinite(lm.model(torch.tensor([[1, 2, 3]], device=lm.device)).logits).all()
