"""What MEMIT, AlphaEdit and EMMET have in common: goldens, the naive twin, past keys, feedback, resuming."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, edit_model, tiny
from reference.sequences import Course, projector
from safetensors.torch import load_file
from tiny_settings import TARGET, corpus
from torch import Tensor

from core import hparams
from core.errors import EditRefused
from core.lm.load import load
from core.lm.model import LM
from core.lm.moments import second_moments
from core.types import Edit
from edit_sets.zsre import EDIT_SET
from editors._moments import Factors, Past, factorise
from editors._spread import spread
from editors.alphaedit import AlphaEdit, AlphaEditSettings
from editors.emmet import EMMET, EMMETSettings
from editors.memit import MEMIT, MEMITSettings
from editors.regularizers import Rect, Rule, make
from editors.regularizers.entries import rect
from experiment.editing import Editing, Rules
from experiment.stopped.checkpoint import Checkpoint

STATS = str(GOLDEN / "memit-gpt2-batch4/stats")
RECORDS = GOLDEN / "memit-gpt2-batch4/zsre.json"


def total(lm: LM, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """The change of every parameter that changed."""
    now = {name: p.detach() for name, p in lm.model.named_parameters()}
    return {name: now[name] - was for name, was in before.items() if not torch.equal(now[name], was)}


def weights(lm: LM) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], rtol: float) -> None:
    assert found.keys() == wanted.keys() and wanted
    for name, delta in wanted.items():
        assert (found[name] - delta).norm() <= rtol * delta.norm(), name


# --- numbers of the original implementations ------------------------------------------------------------------------

MASKED = 6555 / 16384
"""The released MEMIT_rect keeps 40 % and one entry: those from the kthvalue(int(0.6 n))-th on."""
CASES: list[tuple[str, Any, str, dict[str, Any], Rule | None]] = [
    ("memit_seq-gpt2-seq2x2", MEMIT, "weights", {"cache": True}, None),
    ("memit_rect-gpt2-seq2x2", MEMIT, "weights", {}, Rect(keep=MASKED)),
    ("alphaedit-gpt2-seq2x2", AlphaEdit, "weights", {}, None),
    ("alphaedit-gpt2-batch4", AlphaEdit, "weights", {}, None),
    ("emmet-gpt2-batch4", EMMET, "weights", {}, None),
    ("emmet-gpt2-batch4", EMMET, "weights_batch4_lambda0", {"emmet_lambda": 0.0}, None),
    ("emmet-gpt2-batch4", EMMET, "weights_batch4_mom2w1", {"mom2_update_weight": 1.0}, None),
    ("emmet-gpt2-batch4", EMMET, "weights_batch4_normlambda", {"update_norm_lambda": 0.5}, None),
    ("emmet-gpt2-batch4", EMMET, "weights_batch4_layers123", {"layers": (1, 2, 3)}, None),
]


@pytest.mark.parametrize(("case", "kind", "file", "changes", "rule"), CASES)
def test_golden(case: str, kind: Any, file: str, changes: dict[str, Any], rule: Rule | None) -> None:
    folder, lm = GOLDEN / case, load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny")
    hp = hparams.load(kind.hparams, folder / "hparams.yaml")
    editor = kind(lm, dataclasses.replace(hp, stats_dir=STATS, **changes))
    edits = EDIT_SET.edits(RECORDS, 0, 4, 1)
    before, batches = weights(lm), json.loads((folder / "case.json").read_text())["batches"]
    edit_model(lm, editor, [[edits[i] for i in batch] for batch in batches], rule)
    expected = load_file(folder / f"expected/{file}.safetensors")
    close(total(lm, before), {name: weight - before[name] for name, weight in expected.items()}, 1e-4)


# --- the twins ------------------------------------------------------------------------------------------------------

TEMPLATES = ("{}", "The first day. {}", "In this section, the text says that. {}")


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    own = dict(layers=(0, 1), v_num_grad_steps=5, clamp_norm_factor=0.75, mom2_adjustment=True)
    return {**TARGET, **corpus(folder), **own, "context_templates": TEMPLATES, **changes}


def memit(folder: Path, **changes: Any) -> MEMITSettings:
    return MEMITSettings(**values(folder, **{"mom2_update_weight": 10.0, "cache": True, **changes}))


def alphaedit(folder: Path, **changes: Any) -> AlphaEditSettings:
    return AlphaEditSettings(**values(folder, **{"L2": 0.5, "nullspace_share": 0.05, **changes}))


def emmet(folder: Path, **changes: Any) -> EMMETSettings:
    return EMMETSettings(**values(folder, **{"mom2_update_weight": 3.0, "emmet_lambda": 0.5, **changes}))


METHODS: dict[str, tuple[Any, Any]] = {
    "MEMIT": (MEMIT, memit),
    "AlphaEdit": (AlphaEdit, alphaedit),
    "EMMET": (EMMET, emmet),
}
each_method = pytest.mark.parametrize("method", METHODS)


def batches_of(edits: list[Edit]) -> list[list[Edit]]:
    return [edits[:2], edits[2:3], edits[3:]]


@each_method
def test_equals_the_naive_twin(method: str, lm: LM, edits: list[Edit], tmp_path: Path) -> None:
    kind, settings = METHODS[method]
    hp, other = settings(tmp_path), tiny(lm.name.removeprefix("tiny-"))
    matrices = second_moments(other, hp.layers, hp.corpus)
    editor = kind(lm, hp)
    if method == "AlphaEdit":
        smallest = {layer: torch.linalg.eigvalsh(c) for layer, c in matrices.items()}
        edges = {layer: smallest[layer][space.dimensions] for layer, space in editor.moments.items()}
        matrices = {layer: projector(c, float(edges[layer]) - 1e-12) for layer, c in matrices.items()}
    twin, before = Course(other, hp, TEMPLATES, method, matrices), weights(lm)
    for batch in batches_of(edits):
        twin.step(batch)
    edit_model(lm, editor, batches_of(edits))
    close(total(lm, before), total(other, before), 1e-4)


@pytest.mark.parametrize("keep", [0.2, 0.6])
def test_feedback_is_that_of_the_normal_equations(keep: float, lm: LM, edits: list[Edit], tmp_path: Path) -> None:
    """What RECT drops, carried in weight space, makes the update that E = (M D - D) A makes."""
    hp, other = memit(tmp_path), tiny(lm.name.removeprefix("tiny-"))
    moments, before = second_moments(other, hp.layers, hp.corpus), weights(lm)
    twin = Course(other, hp, TEMPLATES, "MEMIT", moments, lambda weight, delta: rect(weight, delta, keep))
    for batch in batches_of(edits):
        twin.step(batch)
    edit_model(lm, MEMIT(lm, hp), batches_of(edits), Rect(keep=keep, feedback=True))
    found, wanted = total(lm, before), total(other, before)
    for name, delta in wanted.items():  # rounding decides at the threshold of a mask
        assert int(((found[name] != 0) != (delta != 0)).sum()) <= 2
    close(found, wanted, 1e-3)


# --- past keys ------------------------------------------------------------------------------------------------------


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (4, 1, 2), (3, 9), (5, 5, 5, 5)])
@pytest.mark.parametrize("definite", [True, False])
def test_past_keys_are_added_to_the_matrix(sizes: tuple[int, ...], definite: bool) -> None:
    """Solved with as (C + K K^T / w)^-1, as columns and when they are folded into one matrix; f = 12."""
    root = drawn(12, 12)
    c = root @ root.T + 0.1 * torch.eye(12)
    factors = factorise(c, "C") if definite else Factors(*torch.linalg.lu_factor(c))
    past, keys = Past(factors, 3.0), drawn(12, sum(sizes), seed=1)
    for part in keys.split(sizes, 1):
        past = past.grown(part)
    right = drawn(12, 2, seed=2)
    torch.testing.assert_close(past.solve(right), torch.linalg.solve(c + keys @ keys.T / 3.0, right))
    kept, many = past.state(), sum(sizes)
    assert kept.keys() == ({"solved", "inner"} if many * (12 + many) <= 144 else {"inverse"})
    assert all(tensor.dtype == torch.float64 and tensor.numel() <= 144 for tensor in kept.values())
    again = Past(factors, 3.0, **kept)
    assert torch.equal(again.solve(right), past.solve(right))


def test_without_past_keys_nothing_is_different() -> None:
    factors, right = factorise(torch.eye(3, dtype=torch.double) * 2, "C"), drawn(3, 2)
    past = Past(factors, 1.0)
    assert past.state() == {} and torch.equal(past.solve(right), factors.solve(right))


def test_keys_that_cannot_be_remembered_are_refused() -> None:
    factors = Factors(*torch.linalg.lu_factor(-torch.eye(3, dtype=torch.double)))
    with pytest.raises(EditRefused, match="these keys cannot be remembered"):
        Past(factors, 1.0).grown(torch.eye(3, 1, dtype=torch.double))


def test_an_empty_memory_is_memit(edits: list[Edit], tmp_path: Path) -> None:
    """To the bit, while there are no past edits; afterwards not."""
    lm = tiny("gpt2")
    plain, cached = (MEMIT(lm, memit(tmp_path, cache=cache)) for cache in (False, True))
    for editor in (plain, cached):
        first = editor.deltas(edits[:2])[0]
        editor.applied(edits[:2])
    assert plain.state() == {} and cached.state().keys() == {"0/solved", "0/inner", "1/solved", "1/inner"}
    one, two = (editor.deltas(edits[2:])[0] for editor in (plain, cached))
    assert all(not torch.equal(one[name], two[name]) for name in one)
    cached.load_state({})
    anew = cached.deltas(edits[:2])[0]
    assert all(torch.equal(first[name], anew[name]) for name in first)


def test_old_facts_are_left_alone(tmp_path: Path) -> None:
    """With a heavy memory an update writes next to nothing for a past key, without one it does."""
    c, keys, other = torch.eye(6, dtype=torch.double), drawn(6, 1), drawn(6, 1, seed=3)
    residual = drawn(4, 1, seed=4)
    past = Past(factorise(c, "C"), 1e-3).grown(keys)
    written = [float((spread(m, other, residual, 1e-3) @ keys).norm()) for m in (past, past.base)]
    assert written[0] < 0.01 * written[1]


# --- feedback -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["rect:keep=1.0,feedback=true", "scale:keep=1.0,feedback=true", "prune:feedback=true"])
@pytest.mark.parametrize("method", ["MEMIT", "AlphaEdit"])
def test_feedback_of_nothing_is_none(text: str, method: str, edits: list[Edit], tmp_path: Path) -> None:
    """Where all is kept, or within PRUNE's bounds, it is the method itself to the bit."""
    kind, settings = METHODS[method]
    found = []
    for rule in (None, make(text, {})):
        lm = tiny("gpt2")
        edit_model(lm, kind(lm, settings(tmp_path, clamp_norm_factor=0.02)), batches_of(edits), rule)
        found.append(weights(lm))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, "rect:keep=0.3,feedback=true"])
@pytest.mark.parametrize("method", ["MEMIT", "AlphaEdit"])
def test_stopped_and_resumed_is_the_same_to_the_bit(
    method: str, rule: str | None, edits: list[Edit], tmp_path: Path
) -> None:
    kind, settings = METHODS[method]
    batches, hp = [[edit] for edit in edits], settings(tmp_path)

    def editing() -> Editing:
        lm = tiny("llama")
        return Editing(lm, kind(lm, hp), Rules(make(rule or "none", {})))

    def file() -> Checkpoint:
        return Checkpoint(tmp_path / "unfinished", "key", None, ["a"])

    whole, first, again = editing(), editing(), editing()
    for batch in batches:
        whole.step(batch)
    for batch in batches[:2]:
        first.step(batch)
    file().write(first)
    assert file().read(again, batches) == 2
    for batch in batches[2:]:
        again.step(batch)
    one, other = weights(whole.lm), weights(again.lm)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [u.norms for u in whole.updates] == [u.norms for u in again.updates]
    assert whole.editor.state().keys() == again.editor.state().keys() != set()
    again.undo()  # and a second run in this process is the first
    for batch in batches:
        again.step(batch)
    other = weights(again.lm)
    assert all(torch.equal(one[name], other[name]) for name in one)
