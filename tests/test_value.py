"""The search for v* and z: what it asks the device, and that asking rarely changes nothing.

That it finds what the originals and the naive twins find is in test_rome, test_memit, test_golden and test_spread.
"""

import re
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import FAMILIES, tiny
from pretend import READS, Placed, Played, pretended
from tiny_settings import TARGET, corpus
from torch import Tensor
from torch.overrides import TorchFunctionMode

from core.lm.model import LM
from editors._value import search
from editors._value.prompts import Batch, prompts_of
from editors._value.search import Patience, _clamped, anchored, optimise
from editors._value.settings import TargetSettings
from editors.memit import MEMIT, MEMITSettings

STEPS = 12


def settings(tmp_path: Any, **others: Any) -> MEMITSettings:
    values = dict(layers=(1, 2), mom2_adjustment=True, mom2_update_weight=10.0, **TARGET, **corpus(tmp_path))
    return MEMITSettings(**(values | {"v_num_grad_steps": STEPS, "v_lr": 0.05} | others))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"context_templates": ("So. {}", "{}")}, 'the first must be "{}"'),
        ({"context_templates": ("{}", "{} and {}")}, "each must contain {} exactly once"),
        ({"context_template_length_params": ((0, 5),)}, "pairs of a length and a number from 1 on"),
        ({"layers": ()}, "at least one layer"),
        ({"v_num_grad_steps": 0}, "one step"),
        ({"v_stop_after": -1}, "a number of steps, 0 or more"),
        ({"v_lr": 0.0}, "expected more than 0"),
        ({"kl_factor": -0.1}, "expected 0 or more"),
        ({"v_norm": 0.0}, "expected more than 0"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], said: str) -> None:
    good = {"layers": (1,), "mom2_adjustment": False, **TARGET}
    assert TargetSettings(**good).v_norm is None
    with pytest.raises(ValueError, match=re.escape(said)):
        TargetSettings(**{**good, **values})


def test_prompts_of_several_edits_are_one_batch(edits) -> None:
    """Each subject's last token is in one column; the loss of an edit is the mean over its templates and tokens."""
    lm, templates = tiny("llama"), ("{}", "So. {}")
    parts = [prompts_of(lm, edit, templates) for edit in edits[:2]]
    batch = Batch(lm, parts)
    assert batch.rows_each == len(templates) + 1 and batch.column == max(at for part in parts for at in part.at)
    assert all(part.columns == max(len(r) - at for r, at in zip(part.rows, part.at, strict=True)) for part in parts)
    logp = torch.randn(len(batch.of), lm.model.config.vocab_size).log_softmax(-1)
    tokens = [list(part.target) for part in parts for _ in templates]
    own = iter(logp)
    rows = [[-float(next(own)[token]) for token in target] for target in tokens]
    each = [sum(map(sum, pair)) / sum(map(len, pair)) for pair in (rows[:2], rows[2:])]
    torch.testing.assert_close(batch.nll(logp), torch.tensor(each))
    assert batch.likeliest(logp).tolist() == [False, False]
    wanted = torch.nn.functional.one_hot(batch.reads.token, logp.shape[1]).float()
    assert batch.likeliest(wanted).tolist() == [True, True]


@pytest.mark.parametrize("every", [2, 5, 100])
def test_edits_that_end_may_be_asked_for_rarely(every: int, edits, tmp_path, monkeypatch) -> None:
    """Edits end at different steps; each has the z, the losses and the steps that it has alone."""
    lm = tiny("llama")
    editor = MEMIT(lm, settings(tmp_path))
    losses = editor.deltas(edits)[1]["loss_last"]
    monkeypatch.setattr(search, "GOOD_ENOUGH", sorted(losses)[len(losses) // 2] * 1.01)  # some get there, some do not
    wanted, notes = editor.deltas(edits)
    assert len({*notes["forwards"]}) > 1 and max(notes["forwards"]) == STEPS
    monkeypatch.setitem(search.ASKED, "cpu", every)
    found, noted = editor.deltas(edits)
    assert noted["forwards"] == notes["forwards"]
    assert noted["loss_last"] == pytest.approx(notes["loss_last"], rel=1e-4)
    for name, delta in wanted.items():
        torch.testing.assert_close(found[name], delta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_can_be_recorded(family: str, edits, tmp_path, monkeypatch) -> None:
    """It asks the device nothing and leaves everything in its place, and finds what it finds without a recorder."""
    editor = MEMIT(tiny(family), settings(tmp_path))
    losses = editor.deltas(edits)[1]["loss_last"]
    monkeypatch.setattr(search, "GOOD_ENOUGH", sorted(losses)[len(losses) // 2] * 1.01)
    wanted, notes = editor.deltas(edits)
    places, look, step = list[Any](), search._Search._look, search._step

    def stepped(*args: Any) -> None:
        with torch._C.DisableTorchFunction():  # on a CPU Adam reads the number of its steps
            step(*args)

    def state(of: Any) -> list[int]:
        """Where all is that a step reads and changes: a recording makes none of it."""
        adam = [*of.adam.state[of.delta].values()]
        assert len(adam) == 3
        own = [of.delta, of.losses, of.taken, of.active, of.going, of.step, of.unedited]
        return [x.data_ptr() for x in [*own, *adam]]

    def watched(self: Any) -> Tensor:
        before = state(self)
        loss = look(self)
        places.append((self, len(self.active), before, state(self)))
        return loss

    monkeypatch.setattr(LM, "recorder", property(lambda self: object()))
    monkeypatch.setattr(search, "Recording", Played)
    monkeypatch.setattr(search._Search, "_look", watched)
    monkeypatch.setattr(search, "_step", stepped)
    monkeypatch.setitem(search.ASKED, "cpu", 5)
    found, noted = editor.deltas(edits)
    assert noted["forwards"] == notes["forwards"] and len(places) > 10
    assert all(a[2] == a[3] for a in places)
    assert all(a[2] == b[2] for a, b in pairwise(places) if a[:2] == b[:2])
    for name, delta in wanted.items():
        torch.testing.assert_close(found[name], delta, rtol=1e-4, atol=1e-6)


def test_the_norm_anchor_of_nas(edits, tmp_path) -> None:
    """Every v* is scaled to one length, up or down, z by as much; what is far longer is left out."""
    lm = tiny("llama")
    free = MEMIT(lm, settings(tmp_path))
    z, notes = free._targets(edits)  # (d, B)
    lengths = torch.tensor(notes["v_norm"])
    mean = float(lengths.median())
    assert float(lengths.min()) < mean < float(lengths.max())
    anchored, noted = MEMIT(lm, settings(tmp_path, v_norm=mean))._targets(edits)
    assert noted["v_norm"] == notes["v_norm"]  # as they were found
    torch.testing.assert_close((anchored - z).norm(dim=0).float(), (lengths - mean).abs(), rtol=1e-4, atol=1e-5)
    deltas, _ = MEMIT(lm, settings(tmp_path, v_norm=mean, v_norm_limit=1e-3)).deltas(edits)
    assert all(float(delta.abs().max()) < 1e-6 for delta in deltas.values())  # nothing is left to write


def test_what_v_norm_adds_by_hand() -> None:
    v0, delta = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 1.0], [0.0, 20.0]])
    hp = SimpleNamespace(v_norm=4.0, v_norm_limit=2.0)
    added, lengths = anchored(delta, v0, cast(Any, hp))
    assert lengths == [5.0, 2.0, 20.0]
    torch.testing.assert_close(added, torch.tensor([[-0.6, 3.2], [0.0, 3.0], [0.0, 0.0]]))
    assert anchored(delta, v0, cast(Any, SimpleNamespace(v_norm=None)))[0] is delta


class Waiting(TorchFunctionMode):
    """Counts how often the host waits for a number of the pretended device."""

    count = 0

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += call in READS and isinstance(args[0], Placed)
        return call(*args, **(kwargs or {}))


@pytest.mark.parametrize(("steps", "waits"), [(4, 0), (10, 1), (16, 3)])
def test_hardly_a_step_waits_for_the_device(steps: int, waits: int, edits, tmp_path, monkeypatch) -> None:
    """After every fifth it is asked who has ended, not after the last; behind the loop losses and steps are read."""
    lm, counts = tiny("llama"), list[int]()
    editor = MEMIT(lm, settings(tmp_path, v_num_grad_steps=steps))

    def watched(*args: Any) -> Any:
        with Waiting() as seen:
            found = optimise(*args)
        counts.append(seen.count)
        return found

    monkeypatch.setattr("editors._spread.optimise", watched)
    with pretended():
        lm.model.to("lazy:0")
        editor.deltas(edits)
    assert {*counts} == {waits + 2}


def test_a_search_goes_on_as_long_as_it_is_patient() -> None:
    patience = Patience(2, 2, torch.device("cpu"))
    both = torch.tensor([0, 1])
    said = [[False, True], [True, False], [False, False], [False, False]]
    over = [patience.over(both, torch.tensor(likeliest)).tolist() for likeliest in said]
    assert over == [[False, False], [False, False], [False, True], [True, False]]
    assert not Patience(None, 2, torch.device("cpu")).over(both, torch.tensor([True, True])).any()
    assert Patience(0, 2, torch.device("cpu")).over(both, torch.tensor([False, True])).tolist() == [False, True]


def test_what_is_too_long_is_scaled_back() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    wanted = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(_clamped(delta, torch.ones(3)), wanted)
