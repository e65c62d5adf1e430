"""experiment.editing, experiment.stopped.checkpoint: updates one by one, and a stopped sequence that goes on."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import EditRefused, UserError
from core.lm.model import LM
from core.lm.weights import add_
from core.types import HELD, Change, Deltas, Edit, Editor, Notes
from edit_sets.zsre import EDIT_SET
from editors.regularizers import Random
from editors.regularizers.entries import keep_random
from experiment import editing as editing_module
from experiment.editing import Editing, Rules, Update
from experiment.stopped.checkpoint import RECORD, Checkpoint

NAME = "transformer.h.1.mlp.c_proj.weight"
OTHER = "transformer.h.2.mlp.c_proj.weight"


class Drawn(Editor):
    """An editor whose updates are drawn, and depend on the weights as they are and on the edits that were applied."""

    name = "Drawn"
    modes = frozenset({"Instance-Sequential"})
    hparams = dict

    def __init__(self, lm: LM, hp: None = None, seed: int = 0) -> None:
        self.lm, self.known = lm, list[int]()

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        generator, found = torch.Generator().manual_seed(edits[0].index), {}
        for name in (NAME, OTHER) if edits[0].index else (NAME,):
            weight = self.lm.model.get_parameter(name)
            found[name] = 0.01 * weight.detach() + 0.01 * torch.randn(weight.shape, generator=generator)
        return found, {"known": list(self.known)}

    def applied(self, edits: Sequence[Edit]) -> None:
        self.known += [edit.index for edit in edits]

    def state(self) -> dict[str, Tensor]:
        return {"known": torch.tensor(self.known)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.known = [int(index) for index in state.get("known", ())]


class Counting(Random):
    """Random, with a memory: how often each parameter was changed."""

    name = "counting"

    def __call__(self, change: Change, memory: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        memory[change.name] = memory.get(change.name, torch.zeros(())) + 1
        return super().__call__(change, memory, generator)


def editing(seed: int = 0, **rules: Any) -> Editing:
    lm = tiny("gpt2")
    return Editing(lm, Drawn(lm), Rules(Counting(0.5), seed, **rules))


def weights(lm: LM) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(one: Editing, other: Editing) -> bool:
    a, b = weights(one.lm), weights(other.lm)
    record = [[(u.edits, u.norms, u.rounding) for u in e.updates] for e in (one, other)]
    return all(torch.equal(a[k], b[k]) for k in a) and record[0] == record[1] and one.own == other.own


def saved(folder: Path, key: Any = "key", environment: Any = None, results: Sequence[str] = ("a",)) -> Checkpoint:
    return Checkpoint(folder / "unfinished", key, environment, results)


def record(file: Checkpoint) -> Any:
    with safe_open(file.file, framework="pt") as stored:
        return json.loads(bytes(stored.get_tensor(RECORD).numpy()))


@pytest.fixture
def batches(edits: list[Edit]) -> list[list[Edit]]:
    return [[edit] for edit in edits]


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4])
def test_stopped_and_resumed_is_the_same_to_the_bit(stop: int, batches: list[list[Edit]], tmp_path: Path) -> None:
    whole, first = editing(), editing()
    for batch in batches:
        whole.step(batch)
    for batch in batches[:stop]:
        first.step(batch)
    saved(tmp_path).write(first)
    torch.manual_seed(99)  # a resumed run does not depend on what was drawn before
    again, file = editing(), saved(tmp_path)
    assert file.read(again, batches) == file.count == stop == again.position
    assert same(first, again)
    for batch in batches[stop:]:
        again.step(batch)
    assert same(whole, again)
    assert whole.change() == again.change() and again.change().keys() == {NAME, OTHER}


def test_what_is_drawn_is_of_the_seed_and_the_updates_number(batches: list[list[Edit]]) -> None:
    """By (seed << 20) + number, and not from torch's own random state, which is left alone."""
    run, state = editing(seed=3), torch.get_rng_state()
    run.step(batches[0])
    before = run.lm.model.get_parameter(NAME).detach().clone()
    deltas, _ = run.editor.deltas(batches[1])
    run.step(batches[1])
    assert torch.equal(torch.get_rng_state(), state)
    generator = torch.Generator().manual_seed((3 << 20) + 1)
    wanted = before + keep_random(deltas[NAME], 0.5, generator)
    assert torch.equal(run.lm.model.get_parameter(NAME), wanted)


def test_the_regularisers_memory_is_of_the_updates_that_were_applied(batches: list[list[Edit]]) -> None:
    run = editing(skip=True)
    run.step(batches[0])
    kept = run.memory[NAME]
    run.rules = replace(run.rules, max_update=0.0)
    run.step(batches[1])
    assert len(run.refused) == 1 and run.memory == {NAME: kept} and float(kept) == 1
    assert run.editor.state()["known"].tolist() == [0]  # and so are the edits that the editor knows of
    run.rules = replace(run.rules, max_update=1000.0)
    run.step(batches[2])
    assert {name: int(count) for name, count in run.memory.items()} == {NAME: 2, OTHER: 1}
    assert [update.notes for update in run.updates] == [{"known": []}, {"known": [0]}]


@pytest.mark.parametrize("place", [None, "deltas", "add_", "applied", "probe"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, ZeroDivisionError])
def test_undo(
    place: str | None,
    failure: type[BaseException],
    batches: list[list[Edit]],
    monkeypatch: pytest.MonkeyPatch,
    unchanged: Callable[[LM], Callable[[], None]],
) -> None:
    """After whole updates, and after one that was broken off anywhere: as before the first, and again the same."""
    run, fresh = editing(), editing()
    with torch.no_grad():
        for one in (run, fresh):
            one.lm.model.get_parameter(NAME)[0, 0] = -0.0
    check = unchanged(run.lm)
    for batch in batches[:2]:
        run.step(batch)

    def half(model: Any, deltas: Deltas) -> None:
        add_(model, {OTHER: deltas[OTHER]})
        raise failure

    def broken(*_: Any) -> None:
        raise failure

    if place is not None:
        owner: Any = Drawn if place in ("deltas", "applied") else editing_module
        with monkeypatch.context() as patch, pytest.raises(failure):
            patch.setattr(owner, place, half if place == "add_" else broken)
            run.step(batches[2])
    record = run.updates
    run.undo()
    check()
    assert str(float(run.lm.model.get_parameter(NAME)[0, 0])) == "-0.0"
    assert run.whole and run.position == 0 and run.own == [] and run.unedited == run.memory == {}
    assert len(record) >= 2  # what was handed out stays
    for batch in batches:
        run.step(batch)
        fresh.step(batch)
    assert same(run, fresh) and [u.notes for u in run.updates] == [u.notes for u in fresh.updates]


class Halved(Counting):
    """Half of all change counts, of one of the parameters."""

    name = "halved"

    def restrained(self, change: Change) -> Tensor | None:
        return change.delta / 2 if change.name == NAME else change.delta


def test_scored_weights_are_restrained_and_editing_goes_on_without(
    batches: list[list[Edit]], unchanged: Callable[[LM], Callable[[], None]]
) -> None:
    run, plain = editing(), editing()
    run.rules = replace(run.rules, regularizer=Halved(0.5))
    with torch.no_grad():
        for one in (run, plain):
            one.lm.model.get_parameter(NAME)[0, 0] = -0.0
    start, check = weights(run.lm), unchanged(run.lm)
    with run.scored() as told:
        assert told == {}
    for batch in batches:
        run.step(batch)
        plain.step(batch)
        edited, same_as_edited = weights(run.lm), unchanged(run.lm)
        with run.scored() as told:
            assert told == {name: name == NAME for name in run.unedited}
            now = weights(run.lm)
            assert torch.equal(now[NAME], start[NAME] + (edited[NAME] - start[NAME]) / 2)
            assert all(torch.equal(now[name], edited[name]) for name in now if name != NAME)
        same_as_edited()
        assert run.whole
    with pytest.raises(ZeroDivisionError), run.scored():
        raise ZeroDivisionError
    same_as_edited()
    assert same(run, plain)
    with plain.scored() as told:
        assert told == {}  # a regulariser that has nothing to say of it
    run.undo()
    check()


def test_the_editor_is_told_what_is_held_back(batches: list[list[Edit]], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Deltas] = []
    monkeypatch.setattr(Drawn, "carry", lambda self, held: told.append(held))
    run = editing()
    run.rules = replace(run.rules, regularizer=Random(0.5, feedback=True))
    for batch in batches[:3]:
        held = {name.removeprefix(HELD): tensor for name, tensor in run.memory.items()}
        run.step(batch)
        assert told[-1].keys() == held.keys() and all(torch.equal(told[-1][name], held[name]) for name in held)
    assert [sorted(held) for held in told] == [[], [NAME], [NAME, OTHER]]
    run.undo()
    run.rules = replace(run.rules, regularizer=None)
    run.step(batches[0])
    assert told[-1] == {}


def test_a_seed_draws_other_updates(batches: list[list[Edit]]) -> None:
    one, other = editing(0), editing(1)
    one.step(batches[0])
    other.step(batches[0])
    assert not torch.equal(one.lm.model.get_parameter(NAME), other.lm.model.get_parameter(NAME))


def test_the_change_is_from_the_unedited_weights(batches: list[list[Edit]]) -> None:
    found = editing()
    before = found.lm.model.get_parameter(NAME).detach().clone()
    for batch in batches[:2]:
        found.step(batch)
    after = found.lm.model.get_parameter(NAME).detach()
    assert found.change()[NAME] == {"norm": float((after - before).norm()), "weight": float(before.norm())}


def test_only_the_beginning_of_these_edits_is_of_use(
    batches: list[list[Edit]], edits: list[Edit], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = editing()
    for batch in batches[:2]:
        first.step(batch)
    saved(tmp_path).write(first)
    longer = [*batches, *batches]
    caplog.clear()
    assert saved(tmp_path).read(editing(), longer) == 2  # the beginning of a longer run
    for other in (batches[:1], batches[1:], batches[::-1], [edits[:2], edits[2:]]):  # behind it, or other edits
        fresh = editing()
        untouched = weights(fresh.lm)
        assert saved(tmp_path).read(fresh, other) == fresh.position == 0
        assert all(torch.equal(tensor, untouched[name]) for name, tensor in fresh.lm.model.state_dict().items())
    assert caplog.messages == []
    assert saved(tmp_path, "other key").read(editing(), batches) == 0  # has a file of its own
    assert saved(tmp_path, environment="another torch").read(editing(), batches) == 0
    assert caplog.messages[-1].endswith(": of other versions or another device; editing starts again")


def damaged(whole: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "garbage": b"\0\xff" * 300,
        "header": whole[:8] + b"x" * 40 + whole[48:],
        "no record": whole.replace(b"record/json", b"record/jso_", 1),
        "no updates": whole.replace(b'"updates"', b'"updat_s"', 1),
        "other fields": whole.replace(b'"norms"', b'"norm_"', 1),
    }


@pytest.mark.parametrize("damage", damaged(b""))
def test_a_damaged_file_is_no_use_and_says_so_once(
    damage: str, batches: list[list[Edit]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, file = editing(), saved(tmp_path)
    for batch in batches[:2]:
        first.step(batch)
    file.write(first)
    bad = damaged(file.file.read_bytes())[damage]
    assert bad != file.file.read_bytes()
    file.file.write_bytes(bad)
    again = editing()
    caplog.clear()
    assert saved(tmp_path).read(again, batches) == 0
    (line,) = caplog.messages
    assert line.startswith(f"{file.file}: not usable (") and line.endswith("; editing starts again")
    again.step(batches[0])
    saved(tmp_path).write(again)  # replaces it
    assert saved(tmp_path).read(editing(), batches) == 1


def test_a_longer_run_keeps_what_it_left(batches: list[list[Edit]], tmp_path: Path) -> None:
    """A run with the same edits that is behind neither replaces nor removes it."""
    far = editing()
    for batch in batches[:3]:
        far.step(batch)
    saved(tmp_path, results=("a", "b")).write(far)
    near, file = editing(), saved(tmp_path)
    near.step(batches[0])
    file.write(near)
    assert file.count == 0
    file.remove()
    assert saved(tmp_path).read(editing(), batches) == 3
    saved(tmp_path, results=("a", "b", "c")).remove()  # the results it was for are there
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("further", [3, 1])
def test_two_runs_of_the_same_edits_keep_them_for_each_other(
    further: int, batches: list[list[Edit]], tmp_path: Path
) -> None:
    """Whichever is ahead: what one has left goes when both are done, and not before."""
    one, other = editing(), editing()
    for batch in batches[:2]:
        one.step(batch)
    for batch in batches[:further]:
        other.step(batch)
    saved(tmp_path, results=("a", "b")).write(one)
    saved(tmp_path, results=("b", "c")).write(other)
    most = max(2, further)
    assert record(saved(tmp_path))["results"] == ["a", "b", "c"]
    saved(tmp_path, results=("a", "b")).remove()
    again = editing()
    assert saved(tmp_path).read(again, batches) == most
    assert same(again, other if further == most else one)
    saved(tmp_path, results=("b", "c")).remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_goes_with_the_next_write(batches: list[list[Edit]], tmp_path: Path) -> None:
    first, file = editing(), saved(tmp_path)
    first.step(batches[0])
    left = file.file.parent / f".{file.file.name}-abcdefgh"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    file.write(first)
    assert [path.name for path in file.file.parent.iterdir()] == [file.file.name]
    left.mkdir()
    file.remove()
    assert list(tmp_path.iterdir()) == []
    file.remove()  # nothing there is fine


def test_the_file_holds_the_edited_parameters_alone(batches: list[list[Edit]], tmp_path: Path) -> None:
    first, file = editing(), saved(tmp_path)
    first.step(batches[0])
    file.write(first)
    with safe_open(file.file, framework="pt") as stored:
        assert list(stored.keys()) == [f"memory/{NAME}", RECORD, "state/known", NAME]
        assert torch.equal(stored.get_tensor(NAME), first.lm.model.get_parameter(NAME))
    assert Update(**record(file)["updates"][0]) == first.updates[0]


def test_what_the_unedited_model_said_is_kept_however_much(batches: list[list[Edit]], tmp_path: Path) -> None:
    first, file = editing(), saved(tmp_path)
    assert file.before == {}
    first.step(batches[0])
    file.before[0, 1] = [*first.own, replace(first.own[0], said="x" * 101_000_000)]  # more than a header holds
    file.write(first)
    assert saved(tmp_path).before == file.before
    assert saved(tmp_path).read(editing(), batches) == 1
    assert saved(tmp_path, environment="another").before == saved(tmp_path, key="other").before == {}
    damaged = json.dumps({**record(file), "before": [[[0, 1], [{"said": "x"}]]]}).encode()
    tensors = load_file(file.file) | {RECORD: torch.frombuffer(bytearray(damaged), dtype=torch.uint8)}
    save_file(tensors, file.file)
    assert saved(tmp_path).before == {}
    assert saved(tmp_path).read(editing(), batches) == 1


def test_no_room_for_it(batches: list[list[Edit]], tmp_path: Path) -> None:
    (tmp_path / "unfinished").write_text("")
    with pytest.raises(UserError, match=r"cannot (write|lock) .*unfinished.*; --results DIR names another place"):
        saved(tmp_path).write(editing())


def test_refused_updates_are_part_of_the_record(
    batches: list[list[Edit]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchanged: Callable[[LM], Any]
) -> None:
    def refuse(self: Drawn, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        if edits[0].index == 1:
            raise EditRefused("a reason")
        return whole(self, edits)

    whole = Drawn.deltas
    monkeypatch.setattr(Drawn, "deltas", refuse)
    stops, skips = editing(), editing(skip=True)
    stops.step(batches[0])
    check = unchanged(stops.lm)
    with pytest.raises(UserError, match="edit 1: a reason; the update is refused, --on-error skip goes on without it"):
        stops.step(batches[1])
    check()
    assert stops.whole and stops.position == 1  # so that it is saved, and goes on with skip
    saved(tmp_path).write(stops)
    for batch in batches:
        skips.step(batch)
    again = editing(skip=True)
    assert saved(tmp_path).read(again, batches) == 1
    for batch in batches[1:]:
        again.step(batch)
    assert same(skips, again)
    assert skips.refused == again.refused == [{"edits": [1], "reason": "a reason"}]
    assert again.position == 4 and len(again.updates) == 3 and len(again.own) == 4
    saved(tmp_path).write(again)
    last = editing(skip=True)
    assert saved(tmp_path).read(last, batches) == 4 and last.refused == again.refused


def test_drawn_edits_of_a_smaller_number_begin_a_larger(tmp_path: Path) -> None:
    record = dict(subject="A", src="A is", pred="x", alt="y")
    records = [record if i % 7 else {**record, "alt": ""} for i in range(40)]  # some cannot be used
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps(records))
    for seed in range(5):
        drawn = [[edit.index for edit in EDIT_SET.edits(path, 5, 5 + n, 1, seed)] for n in range(1, 31)]
        assert all(longer[: len(shorter)] == shorter for shorter, longer in itertools.pairwise(drawn))
        assert len({*drawn[-1]}) == 30 and all(index >= 5 and index % 7 for index in drawn[-1])
    assert len({tuple(edit.index for edit in EDIT_SET.edits(path, 5, 15, 1, seed)) for seed in range(5)}) == 5
    with pytest.raises(UserError, match="has 30 usable records from 5 on, too few to draw from"):
        EDIT_SET.edits(path, 5, 36, 1, 0)
    assert [edit.index for edit in EDIT_SET.edits(path, 1, 4, 1)] == [1, 2, 3]


@pytest.mark.parametrize("place", ["editor", "add_", "probe"])
def test_whole_is_what_ended_between_two_updates(
    place: str, batches: list[list[Edit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal while an update is computed leaves record and weights as they were; later, they do not agree."""
    run = editing()
    assert run.whole
    run.step(batches[0])
    assert run.whole
    before = weights(run.lm)

    def interrupted(*_: Any) -> None:
        if place == "add_":
            with torch.no_grad():
                run.lm.model.get_parameter(NAME)[0, 0] += 1e-3
        raise KeyboardInterrupt

    monkeypatch.setattr(*((Drawn, "deltas") if place == "editor" else (editing_module, place)), interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.step(batches[1])
    assert run.whole == (place == "editor")
    if run.whole:
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(run.lm).items())
    monkeypatch.undo()
    run.settle()
    run.step(batches[1])
    assert run.whole
