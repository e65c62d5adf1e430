"""FT-L and FT-M: the original's numbers, a plain twin, and what each part of the settings does."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from conftest import GOLDEN, tiny
from reference import ft as naive
from safetensors.torch import load_file

from core import hparams
from core.errors import UserError
from core.lm.load import load
from core.lm.model import LM
from core.lm.reads import Reads
from core.lm.weights import add_
from core.types import Edit
from edit_sets.zsre import EDIT_SET
from editors import ft_l, ft_m
from editors._training import ft, gradients, tuning

CASES = {"FT-L": (GOLDEN / "ftl-gpt2", ft_l.EDITOR), "FT-M": (GOLDEN / "ftm-gpt2", ft_m.EDITOR)}
each = pytest.mark.parametrize("method", CASES)


def settings(method: str, **more: Any) -> Any:
    """Two layers, chunks of two, a penalty and a constraint: all there is."""
    values: dict[str, Any] = dict(num_steps=4, lr=0.01, batch_size=2, weight_decay=0.01, norm_constraint=0.02)
    return CASES[method][1].hparams(**{**values, "layers": (2, 1), **more})


def counted_from_the_left(reads: Reads) -> Reads:
    """As the released code places padded rows: pads count."""
    positions = torch.arange(reads.tokens.ids.shape[1]).expand_as(reads.tokens.ids)
    return dataclasses.replace(reads, tokens=dataclasses.replace(reads.tokens, positions=positions))


@pytest.mark.parametrize(
    ("method", "variant"), [("FT-L", "1"), ("FT-L", "batch4_rightpad"), ("FT-M", "1"), ("FT-M", "batch4_leftpad")]
)
def test_the_original(method: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tensors and the losses on the way, one edit and four in chunks of three."""
    case, kind = CASES[method]
    if variant == "batch4_leftpad":
        plain = kind.reads
        monkeypatch.setattr(kind, "reads", lambda self, edits: counted_from_the_left(plain(self, edits)))
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny", "cpu")
    numbers = json.loads((case / "expected/numbers.json").read_text())["variants"][variant]
    edits = EDIT_SET.edits(case / "zsre.json", 0, len(numbers["records"]), 1)
    deltas, notes = kind(lm, hparams.load(kind.hparams, case / "hparams.yaml")).deltas(edits)
    name = "weights" if variant == "1" else f"weights_{variant}"
    expected = load_file(case / f"expected/{name}.safetensors")
    assert deltas.keys() == expected.keys() == set(numbers["changed"])
    for path, weight in expected.items():
        before = lm.model.get_parameter(path)
        assert (deltas[path] - (weight - before)).norm() <= 1e-4 * (weight - before).norm()
    losses = numbers["batch_losses"]
    chunks = (1,) if variant == "1" else (3, 1)
    for note, epoch in (("loss_first", losses[: len(chunks)]), ("loss_last", losses[-len(chunks) :])):
        mean = sum(loss * n for loss, n in zip(epoch, chunks, strict=True)) / sum(chunks)
        assert notes[note] == pytest.approx(mean, rel=1e-4)
    assert notes["epochs"] == len(losses) / len(chunks)


@each
def test_the_twin(method: str, lm: LM, edits: list[Edit]) -> None:
    hp = settings(method)
    found, wanted = CASES[method][1](lm, hp).deltas(edits)[0], naive.deltas(lm, edits, hp)
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        assert (found[name] - delta).norm() <= 1e-3 * delta.norm(), name


@each
def test_no_entry_goes_further_than_the_constraint(method: str, edits: list[Edit]) -> None:
    lm = tiny("llama")
    deltas, _ = CASES[method][1](lm, settings(method, norm_constraint=0.015, weight_decay=0)).deltas(edits)
    assert all(delta.abs().max() == pytest.approx(0.015) for delta in deltas.values())
    free, _ = CASES[method][1](lm, settings(method, norm_constraint=False)).deltas(edits)
    assert all(delta.abs().max() > 0.02 for delta in free.values())


@each
def test_it_ends_when_the_targets_are_said(method: str, edits: list[Edit]) -> None:
    """A target of one token is reached by both; then no step is taken, and no other epoch begun."""
    lm = tiny("gpt2")
    lm.module(lm.paths.final_norm).get_parameter("weight").mul_(20)  # else no probability comes near 1
    one = [dataclasses.replace(edits[1], target="the")]
    hp = settings(method, num_steps=60, layers=(2,), weight_decay=0, norm_constraint=False)
    editor = CASES[method][1](lm, hp)
    deltas, notes = editor.deltas(one)
    assert 1 < notes["epochs"] < 60 and notes["loss_last"] < 1e-2 < notes["loss_first"]
    add_(lm.model, deltas)
    assert not any(delta.any() for delta in editor.deltas(one)[0].values())


def test_the_objectives_are_told_apart() -> None:
    """The same for a target of one token, not for more: FT-L reads them all behind the prompt."""
    lm = tiny("gpt2")
    first, more = Edit("London is in", "London", "the"), Edit("London is in", "London", "the source code of")
    both = [CASES[method][1](lm, settings(method)).reads([first]) for method in CASES]
    assert torch.equal(both[0].column, both[1].column) and torch.equal(both[0].token, both[1].token)
    last, each_after = (CASES[method][1](lm, settings(method)).reads([first, more]) for method in CASES)
    assert last.token.tolist() == each_after.token.tolist()
    assert len(set(last.column.tolist())) == 1 < len(set(each_after.column.tolist()))


def test_parameters_are_back_in_their_places_after_an_error() -> None:
    lm = tiny("gpt2")
    names = [f"{lm.mlp_out(1)}.{own}" for own in ("weight", "bias")]
    before, order = [lm.model.get_parameter(name) for name in names], [name for name, _ in lm.model.named_parameters()]
    with pytest.raises(ZeroDivisionError), tuning.standing_in(lm.model, {names[0]: torch.zeros(128, 32)}):
        assert not lm.module(lm.mlp_out(1)).weight.any()
        raise ZeroDivisionError
    assert all(lm.model.get_parameter(name) is weight for name, weight in zip(names, before, strict=True))
    assert [name for name, _ in lm.model.named_parameters()] == order


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": ()}, "layers: expected at least one"),
        ({"norm_constraint": -1.0}, "norm_constraint: expected more than 0, or false"),
        ({"num_steps": 0}, "num_steps and batch_size: expected 1 or more"),
        ({"lr": 0.0}, "lr: expected more than 0"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings("FT-L", **values)


def test_a_target_too_long_names_its_edit() -> None:
    lm = tiny("gpt2")
    with pytest.raises(UserError, match=r"^edit 7: "):
        gradients.rows_of(lm, [Edit("London is in", "London", "word " * 200, index=7)])
    assert issubclass(ft_l.EDITOR, ft.Tuning)
