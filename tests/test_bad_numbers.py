"""NaN and infinity: an edit is refused and says why, a model that has collapsed is scored and said to have."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_settings
import torch
from conftest import ROOT, tiny
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import EditRefused, UserError
from core.lm.model import LM
from core.metrics import MEASURES
from core.registry import discover
from core.script import script
from core.types import Deltas, Edit, Editor, Notes
from editors import memit, rome
from editors._moments import factorise
from editors._spread import spread
from editors.regularizers import REGULARIZERS, make
from editors.rome import ROME, ROMESettings
from experiment import cli
from experiment.editing import Editing, Rules
from experiment.scoring import repeating
from tasks import EIGHT

SAMPLE = ROOT / "data/sample"
TASKS, EDITORS = discover("tasks", "TASK"), discover("editors", "EDITOR")
NAME = "transformer.h.1.mlp.c_proj.weight"
Check = Callable[[LM], Callable[[], None]]


@dataclass(frozen=True)
class NoSettings:
    pass


class Given(Editor):
    """An editor that returns `delta`, or what it makes of the weight."""

    name = "Given"
    modes = frozenset({"Instance-Sequential"})
    hparams = NoSettings

    def __init__(self, lm: LM, hp: Callable[[Tensor], Tensor], seed: int = 0) -> None:
        self.lm, self.make = lm, hp

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        return {NAME: self.make(self.lm.model.get_parameter(NAME).detach())}, {}


def one(value: float) -> Callable[[Tensor], Tensor]:
    """A delta with one entry of that value."""

    def make(weight: Tensor) -> Tensor:
        delta = torch.zeros_like(weight, dtype=torch.float32)
        delta[3, 5] = value
        return delta

    return make


BAD: dict[str, tuple[Callable[[Tensor], Tensor], str, float, str]] = {
    "nan": (one(float("nan")), "float32", 1000.0, "holds NaN or infinity"),
    "infinity": (one(float("-inf")), "float32", 1000.0, "holds NaN or infinity"),
    "explosion": (lambda w: w * 1001, "float32", 1000.0, r"has 1e\+03 times the weight's norm, the limit is 1000"),
    "own limit": (lambda w: w * 3, "float32", 2.0, "has 3 times the weight's norm, the limit is 2"),
    "float16": (one(70000.0), "float16", float("inf"), "overflows float16"),
    "bfloat16": (one(3.4e38), "bfloat16", float("inf"), "overflows bfloat16"),
    "float32": (lambda w: 1.5 * w.sign().mul(2.0**127), "float32", float("inf"), "overflows float32"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_update_is_refused_and_the_weights_stay(case: str, edits: list[Edit], unchanged: Check) -> None:
    make, dtype, limit, reason = BAD[case]
    lm = tiny("gpt2")
    lm.model.to(getattr(torch, dtype))
    with torch.no_grad():
        lm.model.get_parameter(NAME)[3, 5] = {"float32": 2.0**127, "bfloat16": 2.0**127}.get(case, 1.0)
    check = unchanged(lm)
    with pytest.raises(UserError, match=f"^edit 1: the update of {NAME} {reason}.*--on-error skip goes on without it$"):
        Editing(lm, Given(lm, make), Rules(max_update=limit)).step(edits[1:2])
    check()
    editing = Editing(lm, Given(lm, make), Rules(max_update=limit, skip=True))
    editing.step(edits[1:2])
    check()
    (refused,) = editing.refused
    assert refused["edits"] == [1] and editing.updates == [] and len(editing.own) == 1


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regulariser_does_not_hide_it(name: str, edits: list[Edit], unchanged: Check) -> None:
    """NaN is looked for in what the editor returned: a regulariser could drop the entry, or choke on it."""
    lm = tiny("gpt2")
    check = unchanged(lm)
    with pytest.raises(UserError, match="holds NaN or infinity"):
        Editing(lm, Given(lm, one(float("nan"))), Rules(make(name, {}))).step(edits[:1])
    check()


def rome_editor(lm: LM, **more: Any) -> ROME:
    return ROME(lm, replace(ROMESettings(**tiny_settings.ROME), **more))


@pytest.mark.parametrize("turned", [0.0, 1e-9, float("nan")])
def test_rome_refuses_to_divide_by_nearly_zero(
    turned: float, edits: list[Edit], unchanged: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """u is made orthogonal to the bare prompt's key, but for `turned`."""
    lm = tiny("gpt2")
    check = unchanged(lm)

    def orthogonal(key: Tensor, kbar: Tensor, change: Tensor, moments: None) -> Any:
        k, u = key.double(), torch.linspace(-1, 1, len(key)).double()
        u -= (u @ k) / (k @ k) * k
        return real(key, (u / u.norm() + turned * k / k.norm()).float(), change, moments)

    real = rome.rank_one
    monkeypatch.setattr(rome, "rank_one", orthogonal)
    with pytest.raises(EditRefused, match=r"layer 1: the denominator k \. u is .* with \|k\| = "):
        rome_editor(lm).deltas(edits[:1])
    check()


def test_rome_without_a_key(edits: list[Edit], unchanged: Check) -> None:
    """A dead layer: all keys are zero, u is NaN."""
    lm = tiny("gpt2")
    with torch.no_grad():
        lm.model.get_parameter("transformer.h.1.mlp.c_fc.weight").zero_()
        lm.model.get_parameter("transformer.h.1.mlp.c_fc.bias").zero_()
    check = unchanged(lm)
    with pytest.raises(EditRefused, match="denominator"):
        rome_editor(lm).deltas(edits[:1])
    check()


def test_singular_second_moments() -> None:
    c = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    with pytest.raises(UserError, match="second moments of layer 5: singular, collected over too few tokens"):
        factorise(c, "second moments of layer 5")


def test_second_moments_that_are_not_positive_definite(caplog: pytest.LogCaptureFixture) -> None:
    """Rounding can make C indefinite: solved by LU, and said so."""
    c = torch.diag(torch.tensor([1.0, 2.0, -1e-3], dtype=torch.float64))
    keys, residual = torch.eye(3, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    found = spread(factorise(c, "second moments of layer 5"), keys, residual, 3.0)
    assert torch.allclose(found, residual @ keys.T @ torch.linalg.inv(3.0 * c + keys @ keys.T))
    assert "second moments of layer 5: not positive definite, solving by LU" in caplog.text


def test_a_system_of_memit_that_cannot_be_solved() -> None:
    """lambda I + K^T C^-1 K is the zero matrix where C = -1, lambda = 1 and |k| = 1."""
    c, key = -torch.eye(3, dtype=torch.float64), torch.eye(3, 1, dtype=torch.float64)
    with pytest.raises(EditRefused, match=r"lambda I \+ K\^T C\^-1 K cannot be solved with"):
        spread(factorise(c, "C"), key, torch.ones(2, 1, dtype=torch.float64), 1.0)


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> int:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    try:
        script(cli.test_task_after if "after" in name else cli.test_task)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def told(capsys: pytest.CaptureFixture[str], word: str) -> list[str]:
    return [line for line in capsys.readouterr().err.replace("\r", "\n").split("\n") if word in line]


def test_stop_keeps_what_is_done_and_skip_goes_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third of four edits is refused: one line, exit code 2; with skip the two before it are not made again."""
    (tmp_path / "rome.yaml").write_text(tiny_settings.ROME_YAML)
    made: list[int] = []
    real = ROME.deltas

    def deltas(self: ROME, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        made.append(edits[0].index)
        found, notes = real(self, edits)
        return {name: delta * (float("nan") if edits[0].index == 202 else 1) for name, delta in found.items()}, notes

    monkeypatch.setattr(ROME, "deltas", deltas)
    words = ["test-task-after.py", "NLI", "Instance-Sequential", "ROME", 200, 204, 1, "--limit", 2, "--device", "cpu"]
    words += ["--model", tiny_folder, "--data", SAMPLE, "--results", tmp_path / "out"]
    words += ["--hparams", tmp_path / "rome.yaml"]
    assert run(monkeypatch, *words) == 2  # type: ignore[arg-type]
    reason = f"the update of {NAME} holds NaN or infinity"
    line = f"error: edit 202: {reason}; the update is refused, --on-error skip goes on without it"
    assert told(capsys, "error") == [line]
    assert made == [200, 201, 202]
    assert run(monkeypatch, *words, "--on-error", "skip") == 0  # type: ignore[arg-type]
    assert told(capsys, "left out") == [f"edit 202 left out: {reason}"]
    assert made == [200, 201, 202, 202, 203]
    (path,) = (tmp_path / "out").rglob("*.json")
    found = json.loads(path.read_text())
    assert found["refused"] == [{"edits": [202], "reason": reason}]
    assert [update["edits"] for update in found["updates"]] == [[200], [201], [203]]
    assert [edit["index"] for edit in found["edits"]] == [200, 201, 202, 203]
    assert [file.name for file in (tmp_path / "out").rglob("*") if "unfinished" in str(file)] == []


@pytest.mark.parametrize("how", ["nan", "constant"])
def test_a_collapsed_model_is_scored_and_said_to_be(
    how: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All eight tasks, no crash: weights of NaN, and a model that says the same word over and over."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    with torch.no_grad():
        if how == "nan":
            model.get_parameter(NAME).fill_(float("nan"))
        else:
            norm = model.transformer.ln_f
            norm.weight.zero_()
            norm.bias.copy_(model.get_input_embeddings().weight[tokenizer(" the")["input_ids"][0]] * 100)
    model.save_pretrained(tmp_path / how)
    tokenizer.save_pretrained(tmp_path / how)
    words = ["--model", tmp_path / how, "--data", SAMPLE, "--results", tmp_path / "out", "--device", "cpu"]
    assert run(monkeypatch, "test-task.py", "all", "--limit", 2, *words) == 0
    out = capsys.readouterr().out
    eight = {name: TASKS[name] for name in EIGHT}
    for name, task in eight.items():
        (path,) = (tmp_path / "out").rglob(f"result-{name}-before-edit.json")
        found = json.loads(path.read_text())
        kind = "not_finite" if how == "nan" else "repeating"
        if how == "nan" or task.max_new_tokens >= 3:
            assert found["degenerate"][kind] == found["completions"], (name, found["degenerate"])
        scores = [m for metric, m in found["metrics"].items() if metric not in MEASURES]
        assert all(0 <= m[part] <= 1 for m in scores for part in ("low", "value", "high")), name
        assert (how == "nan") == ("text_logprob" not in found["metrics"])
    told_of = {"nan": "not finite", "constant": "repeating"}[how]
    collapsed = [line for line in out.splitlines() if line.startswith("degenerate: ") and line.endswith(told_of)]
    assert len(collapsed) == (8 if how == "nan" else sum(task.max_new_tokens >= 3 for task in eight.values()))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no no no", True),
        ("Paris, Paris, Paris, Paris", True),
        ("the end the end the end", True),
        ("unununununununununun", True),
        ("1.1.1.1.1.1.1.1.1.1.1", True),
        ("\U0001f600" * 20, True),
        ("no no", False),
        ("...", False),
        ("1111", False),
        ("She sells sea shells. She sells sea shells.", False),
        ("The cat sat on the mat and the dog on the cat.", False),
        ("", False),
    ],
)
def test_what_counts_as_repeating(text: str, found: bool) -> None:
    assert repeating(text) is found


def test_editing_a_collapsed_model_is_refused(
    edits: list[Edit], unchanged: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of NaN below the edited layer: so are the edit's numbers, and nothing is written."""
    lm = tiny("gpt2")
    with torch.no_grad():
        lm.model.get_parameter("transformer.h.0.mlp.c_proj.weight").fill_(float("nan"))
    before = lm.model.get_parameter(NAME).detach().clone()
    editing = Editing(lm, rome_editor(lm), Rules(skip=True))
    editing.step(edits[:1])
    assert len(editing.refused) == 1 and torch.equal(lm.model.get_parameter(NAME), before)
    assert editing.own[0].success is False


def test_a_batch_of_memit_is_refused_by_its_first_and_last(edits: list[Edit], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Tensor:
        raise EditRefused("a reason")

    lm = tiny("gpt2")
    monkeypatch.setattr(memit.MEMIT, "__init__", lambda self, lm, hp: setattr(self, "lm", lm))
    monkeypatch.setattr(memit.MEMIT, "deltas", refuse)
    with pytest.raises(UserError, match=r"^edits 0 to 3: a reason; the update is refused"):
        Editing(lm, memit.MEMIT(lm, None)).step(edits)  # type: ignore[arg-type]
