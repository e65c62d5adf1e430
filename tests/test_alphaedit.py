"""AlphaEdit and EMMET by hand: the kept space, ridge regression in it, and ROME's closed form."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, tiny
from test_spread import STATS, alphaedit, drawn, emmet
from torch import Tensor

from core import hparams
from core.errors import EditRefused, UserError
from core.lm.load import load
from core.lm.moments import second_moments
from core.types import Edit
from editors._moments import Past, factorise
from editors._spread import spread
from editors.alphaedit import AlphaEdit, AlphaEditSettings, Space, kept_space
from editors.emmet import EMMET
from editors.rome import rank_one


def test_the_kept_space_is_where_the_originals_is(caplog: pytest.LogCaptureFixture) -> None:
    """The released code's dimensions on the golden model, said once a layer and noted."""
    caplog.set_level(logging.INFO, "editors")
    case = GOLDEN / "alphaedit-gpt2-batch4"
    hp = dataclasses.replace(hparams.load(AlphaEditSettings, case / "hparams.yaml"), stats_dir=STATS)
    editor = AlphaEdit(load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny"), hp)
    assert editor.about()["dimensions"] == {"1": 162, "2": 163, "3": 151}
    lines = [line for line in caplog.messages if line.startswith("AlphaEdit, layer")]
    assert len(lines) == 3 and lines[0].startswith("AlphaEdit, layer 1: updates keep to 162 of 256 dimensions (")
    assert all(space.beside and len(space.basis) == 256 for space in editor.moments.values())


@pytest.mark.parametrize("dimensions", [2, 7])
def test_a_space_is_its_projection(dimensions: int, tmp_path: Path) -> None:
    """By a basis of it, or of what is beside it: the smaller of the two."""
    root = drawn(9, 9)
    c = root @ root.T
    values, vectors = torch.linalg.eigh(c)
    edge = float((values[dimensions - 1] + values[dimensions]) / 2)
    space = kept_space(c, alphaedit(tmp_path, nullspace_share=None, nullspace_threshold=edge), "C")
    own, right = vectors[:, :dimensions], drawn(9, 3, seed=1)
    assert space.dimensions == dimensions and space.basis.shape == (9, 2)
    torch.testing.assert_close(space.solve(right), own @ own.T @ right)


def test_a_share_is_of_the_trace(tmp_path: Path) -> None:
    c = torch.diag(torch.tensor([4.0, 1.0, 2.0, 3.0], dtype=torch.double))  # 1, 2, 3, 4 hold .1, .3, .6, 1 of it
    for share, dimensions in ((0.1, 1), (0.25, 1), (0.31, 2), (0.7, 3)):
        assert kept_space(c, alphaedit(tmp_path, nullspace_share=share), "C").dimensions == dimensions


@pytest.mark.parametrize(("edge", "kept"), [(0.5, 0), (5.0, 4)])
def test_none_and_all_of_the_dimensions_are_refused(edge: float, kept: int, tmp_path: Path) -> None:
    c = torch.diag(torch.tensor([4.0, 1.0, 2.0, 3.0], dtype=torch.double))
    message = f"^AlphaEdit, layer 7: {kept} of 4 dimensions are kept, .* eigenvalues from 1 to 4, trace 10$"
    with pytest.raises(UserError, match=message):
        kept_space(c, alphaedit(tmp_path, nullspace_share=None, nullspace_threshold=edge), "AlphaEdit, layer 7")


def test_settings_say_one_of_two_things(tmp_path: Path) -> None:
    for changes in ({"nullspace_threshold": 0.1}, {"nullspace_share": None}):
        with pytest.raises(ValueError, match="nullspace_threshold, nullspace_share: expected one of the two"):
            alphaedit(tmp_path, **changes)
    with pytest.raises(ValueError, match="L2: expected more than 0"):
        alphaedit(tmp_path, L2=0.0)


def test_without_a_projection_and_past_edits_it_is_ridge_regression() -> None:
    """P = I: Delta minimises |Delta K - R|^2 + L2 |Delta|^2, worked as least squares on stacked rows."""
    keys, residual, ridge = drawn(5, 3), drawn(4, 3, seed=1), 2.0
    left = torch.cat([keys.T, ridge**0.5 * torch.eye(5, dtype=torch.double)])  # (3 + 5, 5)
    right = torch.cat([residual.T, torch.zeros(5, 4, dtype=torch.double)])
    everything = Space(torch.empty(5, 0, dtype=torch.double), beside=True)
    by_hand = torch.linalg.lstsq(left, right).solution.T
    torch.testing.assert_close(spread(Past(everything, ridge), keys, residual, ridge), by_hand)


def test_an_update_has_nothing_outside_the_kept_space(edits: list[Edit], tmp_path: Path) -> None:
    """So what the large directions of C carry is written as before; in sequence too."""
    lm = tiny("llama")
    editor = AlphaEdit(lm, alphaedit(tmp_path))
    for batch in (edits[:2], edits[2:]):
        deltas, _ = editor.deltas(batch)
        editor.applied(batch)
        for layer, name in editor.names.items():
            delta, c = deltas[name].double(), second_moments(lm, (layer,), editor.hp.corpus)[layer]
            space = editor.moments[layer]
            main = torch.linalg.eigh(c).eigenvectors[:, space.dimensions :]
            assert main.shape[1] and (delta @ main).norm() <= 1e-6 * delta.norm()


# --- EMMET ----------------------------------------------------------------------------------------------------------


def moments() -> Tensor:
    root = drawn(6, 6)
    return root @ root.T + torch.eye(6, dtype=torch.double)


def test_emmet_of_one_edit_is_romes_closed_form() -> None:
    key, residual, factors = drawn(6, 1), drawn(4, 1, seed=1), factorise(moments(), "C")
    wanted, _ = rank_one(key[:, 0], key[:, 0], residual[:, 0], factors)
    torch.testing.assert_close(spread(factors, key, residual, 0.0), wanted)


def test_the_weight_is_of_the_edits(tmp_path: Path) -> None:
    """One edit is written exactly; several are softened by the product of the two weights."""
    editor = EMMET.__new__(EMMET)
    editor.hp = emmet(tmp_path, mom2_update_weight=20.0, emmet_lambda=0.1)
    assert (editor.weight(1), editor.weight(2)) == (0.0, 2.0)


def test_without_softening_every_value_is_met() -> None:
    keys, residual = drawn(6, 3), drawn(4, 3, seed=1)
    update = spread(factorise(moments(), "C"), keys, residual, 0.0)
    torch.testing.assert_close(update @ keys, residual)


def test_two_values_for_one_key_are_refused(edits: list[Edit], tmp_path: Path) -> None:
    same = torch.ones(6, 2, dtype=torch.double)
    with pytest.raises(EditRefused, match="cannot be solved with"):
        spread(factorise(torch.eye(6, dtype=torch.double), "C"), same, drawn(4, 2), 0.0)
