"""MEMIT: golden numbers, the naive twin, ridge regression by hand, conflicts."""

import dataclasses
import json

import pytest
import torch
from conftest import GOLDEN, edit_model, tiny
from reference import memit as naive
from safetensors.torch import load_file
from tiny_settings import TARGET, corpus

from core import hparams
from core.errors import UserError
from core.lm.load import load
from core.lm.model import LM
from core.lm.tokens import encode, target_ids
from core.lm.weights import add_
from core.types import Edit
from editors._moments import factorise
from editors._moments import load as load_moments
from editors._spread import spread
from editors._value import search
from editors.memit import MEMIT, MEMITSettings
from experiment.editing import editor_of

TEMPLATES = ("{}", "The first day. {}", "In this section, the text says that. {}")


def settings(tmp_path, **changes) -> MEMITSettings:
    values = dict(
        layers=(0, 1),  # at least one block between them and the loss, or there is no gradient
        v_num_grad_steps=6,
        clamp_norm_factor=0.75,
        mom2_adjustment=True,
        mom2_update_weight=10.0,
        context_templates=TEMPLATES,
    )
    return MEMITSettings(**{**TARGET, **corpus(tmp_path), **values, **changes})


def close(found: dict, wanted: dict, rtol: float) -> None:
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        assert (found[name] - delta).abs().max() <= rtol * delta.abs().max(), name


@pytest.mark.parametrize("edit_batch", [1, 3, 16])
def test_golden(edit_batch: int) -> None:
    case = GOLDEN / "memit-gpt2-batch4"
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny")
    hp = hparams.load(MEMITSettings, case / "hparams.yaml")
    hp = dataclasses.replace(hp, stats_dir=str(case / "stats"), edit_batch=edit_batch)
    records = json.loads((case / "zsre.json").read_text())[:4]
    batch = [Edit(r["src"], r["subject"], r["alt"], r["pred"]) for r in records]
    deltas = MEMIT(lm, hp).deltas(batch)[0]
    expected = load_file(case / "expected/weights.safetensors")
    assert deltas.keys() == expected.keys()
    for name, weight in expected.items():
        wanted = weight - lm.model.get_parameter(name)
        assert (deltas[name] - wanted).norm() <= 1e-4 * wanted.norm()
        assert (deltas[name] - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("loss_layer", [3, 2])
def test_equals_the_naive_twin(lm: LM, edits, tmp_path, unchanged, loss_layer: int) -> None:
    check = unchanged(lm)
    hp = settings(tmp_path, v_loss_layer=loss_layer)
    found = MEMIT(lm, hp).deltas(edits)[0]
    close(found, naive.deltas(lm, hp, TEMPLATES, load_moments(lm, hp.layers, hp.corpus), edits), 1e-4)
    check()


def nearly_said(lm: LM, edit: Edit) -> str:
    """A token that the model finds likely after the edit's prompt, but not the likeliest."""
    with torch.no_grad():
        logits = lm.model(torch.tensor([encode(lm, edit.prompt)])).logits[0, -1]
    for token in logits.argsort(descending=True)[1:].tolist():
        text = lm.tokenizer.decode([token])
        if text.strip() and target_ids(lm, text) == [token]:
            return text
    raise AssertionError


@pytest.mark.parametrize("steps", [0, 2])
def test_encores_early_stop(steps: int, edits, tmp_path) -> None:
    """Each edit stops so many steps after its target first was the likeliest."""
    lm = tiny("gpt2")
    edits = [dataclasses.replace(edit, target=nearly_said(lm, edit)) for edit in edits]
    hp = settings(tmp_path, v_num_grad_steps=12, v_lr=0.05, context_templates=("{}",), v_stop_after=steps)
    (found, notes), whole = MEMIT(lm, hp).deltas(edits), MEMIT(lm, dataclasses.replace(hp, v_stop_after=None))
    close(found, naive.deltas(lm, hp, ("{}",), load_moments(lm, hp.layers, hp.corpus), edits), 1e-3)
    longer = whole.deltas(edits)[1]["forwards"]
    (first,) = {n - steps for n in notes["forwards"] if n < 12}  # of one edit alone, in those steps
    assert 1 < first < 10 and longer == [12] * 4


def test_several_edits_at_a_time_stop_each_on_its_own(lm: LM, edits, tmp_path, monkeypatch) -> None:
    hp = settings(tmp_path, v_num_grad_steps=12, clamp_norm_factor=20.0, v_weight_decay=0.0, kl_factor=0.0)
    one, many = (MEMIT(lm, dataclasses.replace(hp, edit_batch=size)) for size in (1, 4))
    losses = one.deltas(edits)[1]["loss_last"]
    monkeypatch.setattr(search, "GOOD_ENOUGH", sorted(losses)[1] + 1e-3)  # two of four get there
    (found, notes), (wanted, alone) = many.deltas(edits), one.deltas(edits)
    close(found, wanted, 1e-3)
    assert notes["forwards"] == alone["forwards"]
    assert len(set(notes["forwards"])) > 1


def test_batch_halves_when_memory_runs_out(edits, tmp_path, monkeypatch) -> None:
    lm, sizes = tiny("gpt2"), []
    editor = MEMIT(lm, settings(tmp_path))
    wanted, real = editor.deltas(edits)[0], MEMIT._optimised

    def cramped(self, prompts):
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError
        return real(self, prompts)

    monkeypatch.setattr(MEMIT, "_optimised", cramped)
    close(editor.deltas(edits)[0], wanted, 1e-4)
    assert sizes == [4, 2, 1, 1, 1, 1]


def test_one_layer_is_ridge_least_squares() -> None:
    """Delta minimises |Delta K - R|^2 + w tr(Delta C Delta^T): worked as least squares on stacked rows."""
    generator = torch.Generator().manual_seed(0)
    keys, residual = (torch.randn(n, 3, generator=generator, dtype=torch.double) for n in (5, 4))
    root = torch.randn(5, 5, generator=generator, dtype=torch.double)
    c, weight = root @ root.T, 2.0
    left = torch.cat([keys.T, weight**0.5 * torch.linalg.cholesky(c).T])  # (3 + 5, 5)
    right = torch.cat([residual.T, torch.zeros(5, 4, dtype=torch.double)])
    by_hand = torch.linalg.lstsq(left, right).solution.T
    torch.testing.assert_close(spread(factorise(c, "C"), keys, residual, weight), by_hand)


def test_not_positive_definite_is_said_and_solved(caplog) -> None:
    c = torch.diag(torch.tensor([1.0, -1e-3], dtype=torch.double))
    keys, residual = torch.eye(2, dtype=torch.double), torch.ones(3, 2, dtype=torch.double)
    found = spread(factorise(c, "C of layer 3"), keys, residual, 1.0)
    torch.testing.assert_close(found, residual @ torch.linalg.inv(c + torch.eye(2, dtype=torch.double)))
    assert "C of layer 3: not positive definite" in caplog.text
    with pytest.raises(UserError, match="singular"):
        factorise(torch.zeros(2, 2, dtype=torch.double), "C")


def test_updates_in_sequence_equal_separate_applications(edits, tmp_path) -> None:
    lm, other = tiny("llama"), tiny("llama")
    editor, twin = MEMIT(lm, settings(tmp_path)), MEMIT(other, settings(tmp_path))
    edit_model(lm, editor, [edits[:2], edits[2:]])
    for batch in (edits[:2], edits[2:]):
        add_(other.model, twin.deltas(batch)[0])
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name])


def test_conflicting_edits_are_named_once(edits, tmp_path, capsys) -> None:
    rival = dataclasses.replace(edits[0], target="a painter", index=7)
    MEMIT(tiny("gpt2"), settings(tmp_path, v_num_grad_steps=1)).deltas([edits[0], edits[1], rival])
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1 and "edits 0 and 7" in lines[0] and "'the Program'" in lines[0] and "'a painter'" in lines[0]


def test_settings_that_do_not_fit_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="second moments"):
        settings(tmp_path, mom2_adjustment=False)
    with pytest.raises(ValueError, match="ascending"):
        settings(tmp_path, layers=(2, 1))
    with pytest.raises(UserError, match="has layers 0 to 3"):
        editor_of(MEMIT, tiny("gpt2"), settings(tmp_path, layers=(3, 4)))
