"""experiment.plan and experiment.arguments: words to an experiment and back, and a plan that changes nothing."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny_settings import ROME_YAML

from core.errors import UserError
from core.types import Regularizer
from editors import regularizers
from experiment.arguments import after_parser, command, experiment, parser, sensible
from experiment.asked import EditRequest, Experiment, Placement
from experiment.models import Models
from experiment.plan import Plan, resolve
from experiment.stopped.note import Note

EDITED = Experiment(
    tasks=("NER", "NLI"),
    model="a model",
    edit=EditRequest(
        method="MEMIT",
        mode="Batch-Sequential",
        begin=10,
        end=22,
        step=3,
        batch_size=2,
        draw=4,
        checkpoints=(2,),
        regularizer="rect",
        keep=0.25,
        hparams=Path("my/settings.yaml"),
        edit_batch=8,
        max_update=10.0,
        on_error="skip",
        save_every=5.0,
        save_model=Path("out"),
    ),
    data=Path("my data"),
    limit=7,
    seed=3,
    placement=Placement(device="cuda:1", dtype="bfloat16", device_map="auto", attn="eager"),
    batch_tokens=512,
    results=Path("elsewhere"),
    overwrite=True,
)


@pytest.mark.parametrize("asked", [Experiment(), EDITED, Experiment(tasks=("NLI",), limit=2)])
def test_a_command_asks_for_the_experiment_it_was_made_of(asked: Experiment) -> None:
    import shlex

    _, script, *words = shlex.split(command(asked))
    read = after_parser() if script == "test-task-after.py" else parser()
    assert experiment(read.parse_args(words)) == asked


def test_the_command_says_what_is_not_usual() -> None:
    asked = Experiment(edit=EditRequest(method="ROME", mode="Instance-Sequential", begin=200, end=204))
    assert command(asked) == "python test-task-after.py all Instance-Sequential ROME 200 204 1"
    assert command(EDITED).startswith(
        "python test-task-after.py NER,NLI Batch-Sequential MEMIT 10 22 3 2 --checkpoints 2"
    )


@pytest.fixture
def asked(tmp_path: Path, tiny_folder: Path) -> Experiment:
    (tmp_path / "rome.yaml").write_text(ROME_YAML)
    request = EditRequest(
        method="ROME",
        mode="Instance-Sequential",
        begin=200,
        end=203,
        checkpoints=(1,),
        regularizer="rect",
        hparams=tmp_path / "rome.yaml",
        save_model=tmp_path / "saved",
    )
    return Experiment(
        tasks=("NLI", "NER"),
        model=str(tiny_folder),
        edit=request,
        data=ROOT / "data/sample",
        limit=2,
        placement=Placement(device="cpu"),
        results=tmp_path / "out",
    )


def test_a_plan_has_everything_settled_and_changes_nothing(asked: Experiment, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    plan = resolve(asked, Models())
    assert sorted(tmp_path.rglob("*")) == before
    names = [wanted.stem.relative_to(plan.root).as_posix() for wanted in plan.wanted]
    assert names == [
        f"test-{task}/result-{task}-Instance-Sequential-ROME-RECT40-{count}"
        for count in (1, 3)
        for task in ("NLI", "NER")
    ]
    assert [len(samples) for samples in plan.samples.values()] == [2, 8]
    settings = plan.wanted[-1].settings
    assert list(settings) == ["task", "model", "data", "limit", "seed", "edit"]
    assert settings["edit"]["regularizer"] == {"name": "rect", "keep": 0.4}
    assert [wanted.settings["edit"]["range"] for wanted in plan.wanted[::2]] == [[200, 201, 1], [200, 203, 1]]
    assert json.loads(json.dumps(settings)) == settings  # as it comes back from a file


def test_the_note_says_what_the_run_was(asked: Experiment) -> None:
    plan = resolve(asked, Models())
    note = Note(plan)
    note.write()
    content = json.loads(note.file.read_text(encoding="utf-8"))
    assert content["command"] == command(asked)
    assert list(content["results"].values()) == [wanted.settings for wanted in plan.wanted]
    assert note.file.parent == plan.root / "unfinished"
    note.remove()
    assert not note.file.parent.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "rom"}, "unknown method 'rom': did you mean 'ROME'"),
        ({"mode": "Batch-Single"}, "ROME does not run in mode Batch-Single; its modes: Instance-Sequential"),
        ({"batch_size": 2}, "Instance-Sequential takes no BATCH_SIZE"),
        ({"regularizer": "recta"}, "unknown regularizer 'recta': did you mean 'rect'"),
        ({"edit_batch": 2}, "--edit-batch: ROME takes its edits one at a time"),
        ({"checkpoints": (9,)}, "--checkpoints: no update ends at 9 edits"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], message: str, asked: Experiment) -> None:
    assert asked.edit
    with pytest.raises(UserError, match=message):
        resolve(replace(asked, edit=replace(asked.edit, **changed)), Models())


@dataclass(frozen=True)
class Cap(Regularizer):
    """One with a parameter of another name, and without bounds."""

    name = "cap"
    at: float = 1.0


@dataclass(frozen=True)
class Half(Regularizer):
    name = "half"


@dataclass(frozen=True)
class Twice(Regularizer):
    """`keep` need not be a share."""

    name = "twice"
    keep: float = 2.0

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "keep": self.keep}

    @property
    def label(self) -> str:
        return f"TWICE{self.keep:g}"


def test_keep_is_the_regularisers_own(asked: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bounds too; one without it says what it takes. Before the model is looked into."""
    request = asked.edit
    assert request
    for kind in (Cap, Half, Twice):
        monkeypatch.setitem(regularizers.REGULARIZERS, kind.name, kind)
    monkeypatch.setattr("experiment.asked.rows", lambda *_: list(regularizers.REGULARIZERS))

    def plan(name: str, keep: float) -> Plan:
        return resolve(replace(asked, edit=replace(request, regularizer=name, keep=keep)), Models())

    assert plan("twice", 3.5).wanted[0].settings["edit"]["regularizer"] == {"name": "twice", "keep": 3.5}
    monkeypatch.setattr(Models, "identify", lambda *_: pytest.fail("looked for the model"))
    for name, keep, message in (
        ("cap", 0.4, "--keep: the regularizer cap has no such parameter; its own are at, as in cap:at=...$"),
        ("half", 0.4, "--keep: the regularizer half has no such parameter; it has none$"),
        ("rect", 40, r"regularizer rect: keep: expected a share in \(0, 1\], found 40: did you mean 0.4\?$"),
    ):
        with pytest.raises(UserError, match=message):
            plan(name, keep)


def facts(folder: Path, *changes: dict[str, str]) -> Path:
    """A file of facts, each with its changes."""
    fact = {"src": "London is in", "subject": "London", "alt": "Italy", "pred": "England"}
    (folder / "facts.json").write_text(json.dumps([fact | change for change in changes]))
    return folder / "facts.json"


def test_what_is_odd_in_edits_is_said_once(asked: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert asked.edit
    file = facts(tmp_path, {}, {"alt": "Italy "}, {"alt": "Spain\n"})
    asked = replace(asked, edit=replace(asked.edit, edits=file, begin=0, end=3))
    plan = resolve(sensible(asked), Models())
    assert [message.split(":")[1] for message in caplog.messages] == [" record 1, 2"]
    assert plan.schedule and [edit.target for edit in plan.schedule.edits] == ["Italy", "Italy", "Spain"]


@pytest.mark.parametrize("change", [{"pred": ""}, {"pred": " "}])
def test_an_edit_that_lacks_what_the_method_needs(
    change: dict[str, str], asked: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With file and record, before the model is looked into; another method can do without it."""
    assert asked.edit
    request = replace(asked.edit, edits=facts(tmp_path, {}, change), begin=0, end=2)
    resolve(replace(asked, edit=request), Models())
    monkeypatch.setattr(Models, "identify", lambda *_: pytest.fail("looked for the model"))
    with pytest.raises(UserError, match=r"/facts.json: record 1: KN needs a text in 'pred', which is absent or empty$"):
        resolve(replace(asked, edit=replace(request, method="KN")), Models())


def test_an_uneven_end_is_the_next_even_one(asked: Experiment) -> None:
    """200, 202, 204 are the edits of 200 205 2 and of 200 206 2: for results, saved models and stopped runs alike."""
    assert asked.edit
    ends = [replace(asked.edit, end=end, step=2, checkpoints=()) for end in (205, 206)]
    plans = [resolve(replace(asked, edit=request), Models()) for request in ends]
    for plan in plans:
        assert plan.edited["edit"]["range"] == plan.wanted[-1].settings["edit"]["range"] == [200, 206, 2]
    assert plans[0].edited == plans[1].edited


def test_what_is_drawn_has_the_seed_of_drawn_edits_unless_it_has_its_own(asked: Experiment) -> None:
    assert asked.edit
    drawn = replace(asked.edit, draw=3)
    for seed, edit, wanted in ((None, asked.edit, 0), (None, drawn, 3), (0, drawn, 0), (5, drawn, 5), (5, None, 5)):
        plan = resolve(replace(asked, seed=seed, edit=edit), Models())
        assert {made.settings["seed"] for made in plan.wanted} == {wanted}


def test_templates_that_settings_state_win_unless_they_are_to_be_drawn_anew(
    asked: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert asked.edit
    for redraw, templates in ((False, ["{}", "The first day. {}"]), (True, None)):
        plan = resolve(replace(asked, edit=replace(asked.edit, redraw=redraw)), Models())
        assert plan.wanted[0].settings["edit"]["hparams"]["context_templates"] == templates
    assert caplog.messages == []
    (tmp_path / "kn.yaml").write_text("{steps: 2, batch_size: 2, adaptive_threshold: 0.2}")
    resolve(replace(asked, edit=replace(asked.edit, method="KN", redraw=True, hparams=tmp_path / "kn.yaml")), Models())
    assert caplog.messages == ["--redraw changes nothing: KN draws no context templates"]
