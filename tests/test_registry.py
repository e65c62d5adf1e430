"""Plug-ins are found by their files; and what every editor promises, tried on each of them for each model family."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, OTHERS, ROOT, edit_model, tiny
from test_mend import archived, network
from tiny_settings import TARGET, corpus

from core import hparams
from core.errors import UserError
from core.lm.model import LM, transposed
from core.registry import discover, pick
from core.types import MODES, Change, Deltas, Edit, Editor, Layer, Mode, Notes, Weight, per_update
from editors.regularizers import REGULARIZERS, Share
from editors.regularizers import make as make_rule
from experiment.asked import batches
from experiment.editing import Editing
from experiment.quality import probe
from experiment.stopped.checkpoint import Checkpoint
from tasks import EIGHT

EDITORS: dict[str, Any] = discover("editors", "EDITOR")
TASKS: dict[str, Any] = discover("tasks", "TASK")

Check = Callable[[LM], Callable[[], None]]


# --- the registry --------------------------------------------------------------------------------------------------


def test_tasks_and_editors_are_found() -> None:
    assert set(TASKS) >= set(EIGHT)
    assert list(TASKS) == sorted(TASKS, key=str.lower)  # whatever the case
    assert set(EDITORS) >= {"ROME", "MEMIT", "KN", "MEND"}


def test_a_file_is_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_plugins"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "b.py").write_text("class B:\n    name = 'Bee'\nTHING = B")
    (package / "a.py").write_text("class A:\n    name = 'ant'\nTHING = A()")
    (package / "no_plug_in.py").write_text("x = 1")
    (package / "_helper.py").write_text("raise ImportError('helpers are not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(discover("some_plugins", "THING")) == ["ant", "Bee"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nerr", r"^unknown task 'nerr': did you mean 'NER'\?; known: ClosedDomainQA, dialogue, glue_cola"),
        ("closedomainqa", "did you mean 'ClosedDomainQA'"),
        ("sentiment", "did you mean 'SentimentAnalysis'"),
        ("xyzzy", r"^unknown task 'xyzzy'; known: ClosedDomainQA"),
    ],
)
def test_pick(name: str, message: str) -> None:
    assert pick("task", "NER", TASKS) is pick("task", "ner", TASKS) is TASKS["NER"]
    with pytest.raises(UserError, match=message):
        pick("task", name, TASKS)


# --- what every editor promises ------------------------------------------------------------------------------------


def small(lm: LM, folder: Path) -> dict[str, Any]:
    """Values, by the settings' common names, that suit a tiny model."""
    return {
        **TARGET,
        **corpus(folder),
        "archive_dir": str(folder / "archives"),
        "rank": 8,
        "num_steps": 3,
    }


def fitted(hp: Any, lm: LM) -> dict[str, Any]:
    """What names layers and weights of another model, with those of a tiny one: known by the settings' types."""
    weights = (f"{lm.mlp_in(3)}.weight", f"{lm.mlp_out(3)}.weight")
    small: dict[str, tuple[Any, ...]] = dict.fromkeys(hparams.named(type(hp), Layer), (1, 2, 3))
    small |= dict.fromkeys(hparams.named(type(hp), Weight), weights)
    return {key: value[:2] if isinstance(getattr(hp, key), tuple) else value[-1] for key, value in small.items()}


PREPARE: dict[str, Callable[[LM, Any], Any]] = {"MEND": lambda lm, hp: archived(lm, hp, network(lm, hp))}
"""What an editor needs besides its settings, e.g. trained weights: a row here for a newcomer that does."""


def make(name: str, lm: LM, folder: Path) -> Any:
    """The editor with the settings of the embedded model, made small."""
    hp = hparams.load(EDITORS[name].hparams, ROOT / f"hparams/{name}/smollm2-135m.yaml")
    fields = {field.name for field in dataclasses.fields(hp)}
    hp = dataclasses.replace(hp, **{key: value for key, value in small(lm, folder).items() if key in fields})
    hp = dataclasses.replace(hp, **fitted(hp, lm))
    PREPARE.get(name, lambda lm, hp: None)(lm, hp)
    return EDITORS[name](lm, hp)


@pytest.fixture
def lm(any_lm: LM) -> LM:
    return any_lm


def batch_for(editor: Any, edits: list[Edit]) -> list[Edit]:
    return edits[:1] if editor.modes == {"Instance-Sequential"} else edits


each_editor = pytest.mark.parametrize("name", EDITORS)
WAYS = ("ROME", "KN", "MEND", "FT-L")
"""Each goes through the blocks of a family in a way of its own; the others share theirs."""
everywhere = pytest.mark.parametrize(
    ("name", "any_lm"),
    [
        pytest.param(name, family, marks=() if name in WAYS or family == "llama" else pytest.mark.slow)
        for name in EDITORS
        for family in (*CONFIGS, *OTHERS)
    ],
    indirect=["any_lm"],
)
"""Each editor on a model of each family: of those that share a way, all families but one in soak."""


@each_editor
def test_an_editor_says_what_it_is(name: str) -> None:
    editor = EDITORS[name]
    assert editor.name == name
    assert editor.modes
    assert editor.modes <= set(MODES)
    assert dataclasses.is_dataclass(editor.hparams)
    assert editor.hparams.__dataclass_params__.frozen
    assert Editor in editor.__mro__
    assert editor.edit_batch == ("edit_batch" in {field.name for field in dataclasses.fields(editor.hparams)})


@everywhere
def test_deltas_are_finite_and_leave_the_model_bit_identical(
    name: str, lm: LM, edits: list[Edit], tmp_path: Path, unchanged: Check
) -> None:
    check = unchanged(lm)
    editor = make(name, lm, tmp_path)
    check()
    deltas, notes = editor.deltas(batch_for(editor, edits))
    check()
    assert not any(p.requires_grad or p.grad is not None for p in lm.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
    assert not any(module._backward_hooks or "forward" in vars(module) for module in lm.model.modules())
    assert not lm.model.training
    parameters = dict(lm.model.named_parameters())
    assert deltas
    for path, delta in deltas.items():
        assert delta.shape == parameters[path].shape
        assert delta.dtype == torch.float32
        assert delta.isfinite().all()
        assert delta.any()
        assert not delta.requires_grad
    assert json.loads(json.dumps(notes)) == notes  # as they are to be in the result file


@each_editor
def test_deltas_are_deterministic(name: str, edits: list[Edit], tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        editor = make(name, tiny("llama"), tmp_path)
        found.append(editor.deltas(batch_for(editor, edits))[0])
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][path], found[1][path]) for path in found[0])


@each_editor
def test_torchs_own_random_state_plays_no_part(name: str, edits: list[Edit], tmp_path: Path) -> None:
    """Neither is it drawn from nor seeded; the seed of the constructor decides what is drawn."""
    lm, found = tiny("gpt2"), []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        editor = make(name, lm, tmp_path)
        found.append(editor.deltas(batch_for(editor, edits))[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[0][path], found[1][path]) for path in found[0])


@each_editor
def test_a_new_start_is_a_new_editor(name: str, edits: list[Edit], tmp_path: Path) -> None:
    """load_state: with what `state` returned another editor goes on, with nothing this one starts anew."""
    lm = tiny("gpt2")
    editor, other = make(name, lm, tmp_path), make(name, lm, tmp_path)
    batches = [[edit] for edit in edits[:2]]
    first = editor.deltas(batches[0])[0]
    editor.applied(batches[0])
    state = editor.state()
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    other.load_state(state)
    second, again = (one.deltas(batches[1])[0] for one in (editor, other))
    assert second.keys() == again.keys() and all(torch.equal(second[path], again[path]) for path in second)
    editor.load_state({})
    assert editor.state().keys() == make(name, lm, tmp_path).state().keys()
    anew = editor.deltas(batches[0])[0]
    assert first.keys() == anew.keys() and all(torch.equal(first[path], anew[path]) for path in first)


@each_editor
def test_every_regulariser_takes_its_deltas(name: str, edits: list[Edit], tmp_path: Path) -> None:
    """Matrices and vectors (biases, norms), twice in a row, with and without what is carried from one to the next."""
    lm = tiny("gpt2")
    editor = make(name, lm, tmp_path)
    deltas, _ = editor.deltas(batch_for(editor, edits))
    for rule in (make_rule(text, {}) for kind in REGULARIZERS for text in (kind, f"{kind}:feedback=true")):
        assert rule is not None
        memory: dict[str, torch.Tensor] = {}
        for path, delta in [*deltas.items(), *deltas.items()]:
            weight = lm.model.get_parameter(path).detach()
            change = Change(path, weight, delta, weight, transposed(lm.module(path.rpartition(".")[0])))
            for kept in (rule(change, memory, torch.Generator()), rule.restrained(change)):
                assert kept is None or (kept.shape == delta.shape and kept.isfinite().all()), rule


@each_editor
def test_a_stopped_run_goes_on_to_the_last_bit(name: str, edits: list[Edit], tmp_path: Path) -> None:
    """Two of three updates, then what is on the disk is read by another editor on another copy of the model."""
    batches, checkpoint = [[edit] for edit in edits[:3]], Checkpoint(tmp_path / "unfinished", "key", None, ["result"])
    ends = []
    for parts in ([3], [2, 1]):
        for count in parts:
            lm = tiny("gpt2")
            editing = Editing(lm, make(name, lm, tmp_path))
            start = checkpoint.read(editing, batches)
            assert start == (2 if count == 1 else 0)
            for batch in batches[start : start + count]:
                editing.step(batch)
            if count == 2:
                checkpoint.write(editing)
        ends.append({path: weight.clone() for path, weight in lm.model.named_parameters()})
    assert all(torch.equal(weight, ends[1][path]) for path, weight in ends[0].items())


@each_editor
def test_suggested_settings_fit_the_model(name: str, lm: LM) -> None:
    """Settings of a model of 30 layers, made to fit one of four whose facts are in layer 1."""
    kind = EDITORS[name]
    template = hparams.load(kind.hparams, ROOT / f"hparams/{name}/smollm2-135m.yaml")
    values = {field.name: getattr(template, field.name) for field in dataclasses.fields(template)}
    before, found = dict(values), kind.suggested(values, lm, 1)
    assert values == before and found.keys() == values.keys() - {"context_templates"}
    changed = {key for key in found if found[key] != values[key]}
    assert changed <= {*hparams.named(kind.hparams, Layer), *hparams.named(kind.hparams, Weight)}
    hparams.check(kind.hparams(**found), lm)
    if values.get("layers"):
        assert max(found["layers"]) == max(1, len(found["layers"]) - 1)
        assert found.get("v_loss_layer", 3) == 3
    for weight in found.get("inner_params", ()):
        assert lm.model.get_parameter(weight).dim() == 2


@everywhere
def test_every_update_of_a_run_changes_the_weights(name: str, lm: LM, edits: list[Edit], tmp_path: Path) -> None:
    """In each of its modes: as many updates as the protocol says, and none of them without effect."""
    editor = make(name, lm, tmp_path)
    counts: dict[Mode, int] = {"Instance-Sequential": 4, "Batch-Single": 1, "Batch-Sequential": 2}  # 3 + 1
    for mode in sorted(editor.modes):
        states = []

        def watched(updates: Any, states: Any = states) -> Any:
            for batch in updates:
                states.append({n: p.clone() for n, p in lm.model.named_parameters()})
                yield batch

        done, own = edit_model(lm, editor, watched(batches(edits, per_update(mode, len(edits), 3))))
        states.append({n: p.clone() for n, p in lm.model.named_parameters()})
        assert len(done) == counts[mode]
        assert [i for update in done for i in update.edits] == [edit.index for edit in edits]
        for update, before, after in zip(done, states, states[1:], strict=False):
            assert update.norms
            assert all(0 < norm < math.inf for norm in update.norms.values())
            changed = {n for n in before if not torch.equal(before[n], after[n])}
            assert changed == set(update.norms)
        assert [said.said for said in own[-1:]] == [probe(lm, edits[-1:])[0].said]


# --- the loop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "size", "wanted"),
    [
        ("Instance-Sequential", None, [[0], [1], [2], [3], [4]]),
        ("Batch-Single", None, [[0, 1, 2, 3, 4]]),
        ("Batch-Sequential", 2, [[0, 1], [2, 3], [4]]),
        ("Batch-Sequential", 5, [[0, 1, 2, 3, 4]]),
        ("Batch-Sequential", 9, [[0, 1, 2, 3, 4]]),
    ],
)
def test_batches(mode: Mode, size: int | None, wanted: list[list[int]]) -> None:
    edits = [Edit("p", "s", "t", "o", index=i) for i in range(5)]
    assert [[edit.index for edit in batch] for batch in batches(edits, per_update(mode, 5, size))] == wanted


class Given(Editor):
    """An editor that returns what `hp` does, and keeps a record of its calls."""

    name, modes = "Given", frozenset({"Instance-Sequential"})

    def __init__(self, lm: LM, hp: Callable[[], Deltas], seed: int = 0) -> None:
        self.make, self.record = hp, list[Any]()

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        self.record.append([edit.index for edit in edits])
        return self.make(), {"calls": sum(isinstance(entry, list) for entry in self.record)}

    def applied(self, edits: Sequence[Edit]) -> None:
        self.record.append(("applied", [edit.index for edit in edits]))


def test_each_update_is_made_on_the_result_of_the_one_before(edits: list[Edit]) -> None:
    """An editor that doubles a weight: 4 updates make 16 times the weight; each sees what the last one left."""
    lm = tiny("gpt2")
    path = f"{lm.mlp_out(0)}.weight"
    start = lm.model.get_parameter(path).clone()
    double = Given(lm, lambda: {path: lm.model.get_parameter(path).clone()})
    done, own = edit_model(lm, double, batches(edits, 1))
    assert torch.equal(lm.model.get_parameter(path), 16 * start)
    norm = float(start.norm())
    assert [update.norms[path] for update in done] == pytest.approx([norm, 2 * norm, 4 * norm, 8 * norm], rel=1e-5)
    assert [update.notes for update in done] == [{"calls": n} for n in (1, 2, 3, 4)]
    assert double.record == [entry for i in range(4) for entry in ([i], ("applied", [i]))]
    assert own[3] == probe(lm, [edits[3]])[0]


def test_the_regulariser_sees_the_weight_now_and_unedited(edits: list[Edit]) -> None:
    lm, seen = tiny("gpt2"), []
    path = f"{lm.mlp_out(0)}.weight"
    lm.model.get_parameter(path).fill_(1.0)

    class Half(Share):
        name = "half"

        def __call__(self, change: Change, memory: dict[str, Any], generator: torch.Generator) -> torch.Tensor:
            seen.append((change.name, float(change.weight[0, 0]), float(change.unedited[0, 0])))
            return change.delta / 2

    done, _ = edit_model(lm, Given(lm, lambda: {path: torch.ones(128, 32)}), [edits[:1], edits[1:2]], Half())
    assert seen == [(path, 1.0, 1.0), (path, 1.5, 1.0)]
    assert float(lm.model.get_parameter(path)[0, 0]) == 2.0
    assert done[0].norms[path] == pytest.approx(0.5 * math.sqrt(128 * 32))
