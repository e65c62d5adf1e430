"""UltraEdit: the original's numbers and steps, a plain twin with all rows kept, and its algebra by hand."""

import json
from typing import Any

import pytest
import torch
from conftest import GOLDEN, edit_model, tiny
from reference import ultraedit as naive
from safetensors.torch import load_file

from core import hparams
from core.errors import UserError
from core.lm.load import load
from core.lm.model import LM
from core.lm.weights import add_
from core.types import Edit
from edit_sets.zsre import EDIT_SET
from editors.ultraedit import Running, UltraEdit, UltraEditSettings, ridge

CASE = GOLDEN / "ultraedit-gpt2-seq2x2"
TURNS = {"2x2": [[0, 1], [4, 3]], "2x2_onebatch": [[0, 1], [4, 3]], "4x1": [[0], [1], [4], [3]]}


def settings(lm: LM, **more: Any) -> UltraEditSettings:
    """Both projections of two layers, so that one shape has two weights; chunks of two edits."""
    names = tuple(path for layer in (1, 2) for path in (lm.mlp_in(layer), lm.mlp_out(layer)))
    return UltraEditSettings(**{"inner_params": names, "lr": 0.01, "batch_size_once": 2, **more})


@pytest.mark.parametrize("variant", TURNS)
def test_the_original(variant: str, tmp_path: Any) -> None:
    """Whole tensors after all turns, by the variance as released; the rows and statistics of the first turn."""
    numbers = json.loads((CASE / "expected/numbers.json").read_text())["variants"][variant]
    once = numbers["override"].get("dataset", {"batch_size": 1})["batch_size"]
    file = tmp_path / "theirs.yaml"  # without what is about their batches
    lines = (CASE / "hparams.yaml").read_text().split("dataset:")[0]
    file.write_text(f"{lines}batch_size_once: {once}\nreleased_variance: true\n")
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny", "cpu")
    hp = hparams.load(UltraEditSettings, file)
    before = {name: lm.model.get_parameter(name).clone() for name in hp.inner_params}
    every = EDIT_SET.edits(CASE / "zsre.json", 0, 5, 1)
    editor = UltraEdit(lm, hp)
    updates, _ = edit_model(lm, editor, [[every[i] for i in turn] for turn in TURNS[variant]])
    expected = load_file(CASE / f"expected/weights{'' if variant == '2x2' else f'_{variant}'}.safetensors")
    assert expected.keys() == before.keys()
    for name, weight in expected.items():
        wanted = weight - before[name]
        assert (lm.model.get_parameter(name) - weight).norm() <= 1e-4 * wanted.norm()
    assert updates[-1].notes["rows_so_far"] == numbers["n_rows"]["(256, 64)"]
    first = numbers["dW_norm_after_turn"][0]
    assert {name: updates[0].norms[name] for name in first} == pytest.approx(first, rel=1e-4)


def test_the_steps_on_the_way() -> None:
    seen = load_file(CASE / "expected/intermediates.safetensors")
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny", "cpu")
    paths = ("transformer.h.2.mlp.c_proj", "transformer.h.3.mlp.c_proj")
    editor = UltraEdit(lm, UltraEditSettings(inner_params=paths, lr=1e-3, batch_size_once=1, released_variance=True))
    editor.deltas(EDIT_SET.edits(CASE / "zsre.json", 0, 2, 1))
    _, chunks = editor._passes(EDIT_SET.edits(CASE / "zsre.json", 0, 2, 1))
    for batch, rows in enumerate(chunks):
        for path in paths:
            for word, found in zip(("keys", "grads"), rows[f"{path}.weight"], strict=True):
                wanted = seen[f"turn0.batch{batch}.{path}.{word}"]
                assert (found - wanted).norm() <= 1e-4 * wanted.norm()
    running = editor.next[256, 64]
    assert running.n == int(seen["turn0.norm.(256, 64).n"])
    for found, word in ((running.mean, "mean"), ((running.squares / (running.n - 1)).sqrt(), "std")):
        wanted = seen[f"turn0.norm.(256, 64).{word}"]
        assert (found - wanted).norm() <= 1e-4 * wanted.norm()


@pytest.mark.parametrize("token", ["ans", "mask"])
def test_the_twin(token: str, lm: LM, edits: list[Edit]) -> None:
    """Two turns; the statistics are those of all rows at once."""
    hp, turns = settings(lm, token=token), [edits[:3], edits[3:]]
    wanted, editor = naive.sequence(tiny(lm.model.config.model_type), turns, hp), UltraEdit(lm, hp)
    for edits_, deltas in zip(turns, wanted, strict=True):
        found, _ = editor.deltas(edits_)
        assert found.keys() == deltas.keys()
        for name, delta in deltas.items():
            assert (found[name] - delta).norm() <= 1e-3 * delta.norm(), name
        add_(lm.model, found)
        editor.applied(edits_)


def test_the_ridge() -> None:
    """Either way the same, and what it is: M (H^T H + I) = H for M = (H H^T + I)^-1 H."""
    for n, f in ((3, 8), (8, 3), (5, 5)):
        h = torch.randn(n, f, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        torch.testing.assert_close(ridge(h) @ (h.T @ h + torch.eye(f).double()), h)
        torch.testing.assert_close((h @ h.T + torch.eye(n).double()) @ ridge(h), h)


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    rows = torch.randn(11, 4, generator=torch.Generator().manual_seed(0)) * 3 + 5
    running = Running(0, torch.zeros(4).double(), torch.zeros(4).double())
    for part in rows.split([1, 4, 6]):
        running = running.after(part, released=False)
    torch.testing.assert_close(running.mean, rows.double().mean(0))
    torch.testing.assert_close((running.squares / 10).sqrt(), rows.double().std(0))
    once = Running(0, torch.zeros(4).double(), torch.zeros(4).double()).after(rows, released=True)
    torch.testing.assert_close(once.squares / 10, rows.double().var(0) * 11 / 10)  # one chunk: too large by n / (n - 1)


def test_a_first_turn_of_one_token_is_refused(edits: list[Edit]) -> None:
    lm = tiny("gpt2")
    hp, one = (
        settings(lm, inner_params=(lm.mlp_out(1),)),
        [Edit("London is in", "London", "the"), Edit("Rome is in", "Rome", "a")],
    )
    with pytest.raises(UserError, match="the first update has one target token, of which there are no statistics"):
        edit_model(lm, UltraEdit(lm, hp), [one[:1]])
    updates, _ = edit_model(lm, UltraEdit(lm, hp), [edits[:1], one[:1]])
    assert all(norm > 0 for norm in updates[1].norms.values())


def test_an_update_that_is_not_applied_leaves_the_statistics(edits: list[Edit]) -> None:
    lm = tiny("gpt2")
    editor = UltraEdit(lm, settings(lm))
    editor.deltas(edits)
    assert editor.state() == {}
    editor.applied(edits)
    assert {name.split()[1] for name in editor.state()} == {"count", "mean", "squares"}
    assert {name.split()[0] for name in editor.state()} == {"32x128", "128x32"}


def test_what_is_refused() -> None:
    lm = tiny("gpt2")
    with pytest.raises(UserError, match=r"inner_params: 'transformer.h.1.ln_1.weight' is not the weight of a linear"):
        UltraEdit(lm, UltraEditSettings(inner_params=("transformer.h.1.ln_1",), lr=1e-3))
    for values, message in (
        ({"inner_params": ("a", "a.weight")}, "each named once"),
        ({"lr": 0.0}, "lr: expected more than 0"),
        ({"batch_size_once": 0}, "batch_size_once: 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            settings(lm, **values)
