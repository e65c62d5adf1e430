"""KN: golden numbers, the naive twin, the new rows by hand."""

import dataclasses
import json

import pytest
import torch
from conftest import GOLDEN, tiny
from reference import kn as naive
from safetensors.torch import load_file

from core import hparams
from core.errors import UserError
from core.lm.load import load
from core.lm.model import LM, orient
from core.lm.tokens import continuation, encode
from core.types import Edit
from editors import kn
from editors.kn import KN, KNSettings

SETTINGS = KNSettings(steps=20, batch_size=20, adaptive_threshold=0.2)


@pytest.mark.parametrize(("record", "file"), [(0, "weights"), (8, "weights_rec8")])
def test_golden(record: int, file: str) -> None:
    case = GOLDEN / "kn-gpt2"
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny")
    r = json.loads((case / "zsre.json").read_text())[record]
    editor = KN(lm, hparams.load(KNSettings, case / "hparams.yaml"))
    deltas, notes = editor.deltas([Edit(r["src"], r["subject"], r["alt"], r["pred"])])
    expected = load_file(case / f"expected/{file}.safetensors")
    assert deltas.keys() == expected.keys()
    for name, weight in expected.items():
        wanted = weight - lm.model.get_parameter(name)
        assert (deltas[name] - wanted).abs().max() <= 1e-3 * wanted.abs().max()
    numbers = json.loads((case / "expected/numbers.json").read_text())["edits"]
    coarse = next(edit["coarse"] for edit in numbers if edit["record"] == record)
    assert [neuron[:2] for neuron in notes["neurons"]] == coarse


@pytest.mark.parametrize(
    "changes", [{}, {"grow_prompt": True}, {"batch_size": 7}, {"prepend_space": True}, {"steps": 1}]
)
@pytest.mark.parametrize("together", [0, 500, 100_000])
def test_scores_equal_the_naive_twin(lm: LM, edits, changes: dict, together: int, monkeypatch) -> None:
    """Layer by layer, two or three layers in one pass, and all of them."""
    monkeypatch.setitem(kn.TOGETHER, "cpu", together)
    hp = dataclasses.replace(SETTINGS, **changes)
    for edit in edits[:2]:
        wanted = naive.scores(lm, hp, edit)
        found = KN(lm, hp).scores(edit)
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-12


@pytest.mark.parametrize(("target", "factor"), [("a", 2), ("the Program of", 1)])
def test_new_rows(lm: LM, edits, unchanged, target: str, factor: int) -> None:
    """Row of a neuron += sum E[t] - factor sum E[y], y the model's own greedy tokens; all other rows stay."""
    check = unchanged(lm)
    edit = dataclasses.replace(edits[0], target=target)
    deltas, notes = KN(lm, SETTINGS).deltas([edit])
    new, prompt = continuation(lm, target), encode(lm, edit.prompt)
    assert (len(new) == 1) == (factor == 2)
    for _ in new:
        prompt.append(int(naive.logits(lm, [prompt])[0].argmax()))
    embed = lm.model.get_input_embeddings().weight
    row = embed[new].sum(0) - factor * embed[prompt[-len(new) :]].sum(0)
    assert notes["neurons"]
    for name, delta in deltas.items():
        layer = next(i for i in range(lm.n_layers) if name == f"{lm.mlp_out(i)}.weight")
        rows = orient(lm.module(lm.mlp_out(layer)), delta).T  # (f, d)
        mine = [index for at, index, _ in notes["neurons"] if at == layer]
        torch.testing.assert_close(rows[mine], row.expand(len(mine), -1))
        rest = [i for i in range(len(rows)) if i not in mine]
        assert not rows[rest].any()
    check()


def test_threshold_is_a_share_of_the_largest_score(edits) -> None:
    lm = tiny("gpt2")
    scores = KN(lm, SETTINGS).scores(edits[0])
    for threshold in (0.2, 0.7):
        _, notes = KN(lm, dataclasses.replace(SETTINGS, adaptive_threshold=threshold)).deltas(edits[:1])
        assert len(notes["neurons"]) == int((scores > threshold * scores.max()).sum())


def test_switches_without_a_meaning_are_refused() -> None:
    for changes in (
        {"refine": True},
        {"lr_scale": 0.5},
        {"steps": 0},
        {"adaptive_threshold": 1.0},
        {"adaptive_threshold": -0.1},
    ):
        with pytest.raises(ValueError, match="expected"):
            dataclasses.replace(SETTINGS, **changes)


def test_an_edit_without_an_old_answer_is_refused() -> None:
    """Its neurons would be those of nothing: no number, and silently no update."""
    with pytest.raises(UserError, match="edit 7: KN looks for the neurons of the old answer, but there is none"):
        KN(tiny("gpt2"), SETTINGS).deltas([Edit("Where is Ann?", "Ann", "Rome", "", index=7)])


def test_a_prompt_beyond_the_context_is_refused(lm: LM, edits: list[Edit]) -> None:
    long = dataclasses.replace(edits[0], prompt="word " * lm.context + edits[0].prompt)
    with pytest.raises(UserError, match=r"^edit 0: \d+ tokens long, too long for"):
        KN(lm, KNSettings(steps=2, batch_size=2, adaptive_threshold=0.2)).deltas([long])
