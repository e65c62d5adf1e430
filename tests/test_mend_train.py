"""Training of MEND: it learns, it can be stopped anywhere, and what it leaves behind."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, in_soak, tiny
from safetensors.torch import load_file

import train_MEND
from core.errors import UserError
from core.lm.model import LM
from core.lm.weights import add_, preserved
from core.types import Edit
from edit_sets.zsre import EDIT_SET
from editors.mend import MEND, order
from editors.mend import training as train
from editors.mend.archive import LAST, load, save
from editors.mend.log import CURVES, METRICS
from editors.mend.settings import BEST, MENDSettings
from editors.mend.training import Records, Training
from experiment import quality

SAMPLE = ROOT / "data/sample/training-data"


def settings(lm: LM, **more: object) -> MENDSettings:
    names = [f"{path}.weight" for layer in (2, 3) for path in (lm.mlp_in(layer), lm.mlp_out(layer))]
    quick = dict(lr=3e-3, edit_lr=-1e-3, lr_lr=3e-3, rank=8, accumulate_bs=4, val_batch_size=1, silent=True)
    small = dict(max_iters=24, val_interval=8, log_interval=4, model_save_pt=8)
    return dataclasses.replace(MENDSettings(inner_params=tuple(names)), **{**quick, **small, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def records() -> Records:
    edits = EDIT_SET.training(SAMPLE / "zsre_mend_train.json")
    return Records(edits[:30], EDIT_SET.training(SAMPLE / "zsre_mend_eval.json")[:3], {"train": {"sha256": "x"}})


def success(lm: LM, hp: MENDSettings, edits: list[Edit]) -> float:
    """Share of greedy answers that are the target, each after its edit alone."""
    editor, found = MEND(lm, hp), []
    for edit in edits:
        deltas = editor.deltas([edit])[0]
        with preserved(lm.model, deltas):
            add_(lm.model, deltas)
            found += quality.probe(lm, [edit])
    return sum(probe.success for probe in found) / len(found)


@pytest.mark.parametrize("lm", ["gpt2", *in_soak("gptj", "llama")], indirect=True)
def test_training_raises_edit_success(lm: LM, edits: list[Edit], tmp_path: Path) -> None:
    """After a short training the network's edits take, one at a time: greedy decoding says the target."""
    far = dict(max_iters=240, val_interval=240, model_save_pt=240, log_interval=24, archive_dir=str(tmp_path))
    hp = settings(lm, edit_lr=-1e-2, cedit=1.0, cloc=0.1, **far)
    bare = [dataclasses.replace(edit, rephrase=None) for edit in edits]  # judged, and trained, on the prompt
    training = Training(lm, hp, Records(bare, bare), hp.archive(lm.name))
    training.run()
    log = [json.loads(line) for line in (training.folder / METRICS).read_text().splitlines()]
    trained = [record for record in log if "loss/edit" in record]
    assert trained[-1]["loss/edit"] < trained[0]["loss/edit"] and trained[-1]["edit/acc"] > 0.9
    assert not any(probe.success for probe in quality.probe(lm, bare))
    assert success(lm, hp, bare) > 0.7


def same(one: Path, other: Path) -> None:
    for name in (BEST, LAST):
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        for key, tensor in a.items():
            assert torch.equal(tensor, b[key]), f"{name}: {key}"
    assert (one / METRICS).read_text() == (other / METRICS).read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, records: Records) -> Path:
    lm, folder = tiny("gpt2"), tmp_path_factory.mktemp("mend") / "whole"
    Training(lm, settings(lm), records, folder).run()
    return folder


class Killed(BaseException):
    """What a signal would do, at a chosen place."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "at"),
    [("outcome", n) for n in (1, 2, 3, 4, 5, 8, 9)] + [("save", n) for n in (1, 2, 3, 4)],
    ids=lambda value: str(value),
)
def test_killed_and_resumed_is_as_if_nothing_had_happened(
    where: str, at: int, uninterrupted: Path, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at a step before, on or after a checkpoint, in a validation, or between the two files of a checkpoint.

    Weights, statistics, the optimiser's state and the metrics end up bit for bit those of the uninterrupted run.
    """
    lm, calls = tiny("gpt2"), 0
    target: Any = {"outcome": train, "save": train.archive}[where]
    real = getattr(target, where)

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(target, where, dies)
    with pytest.raises(Killed):
        Training(lm, settings(lm), records, tmp_path).run()
    monkeypatch.undo()
    torch.manual_seed(at)  # torch's own random state plays no part
    again = Training(lm, settings(lm), records, tmp_path)
    if (tmp_path / LAST).is_file():
        again.resume()
        assert again.progress.iteration > 0
    again.run()
    same(tmp_path, uninterrupted)


def test_a_finished_run_goes_on_to_more_iterations(uninterrupted: Path, records: Records, tmp_path: Path) -> None:
    lm = tiny("gpt2")
    Training(lm, settings(lm, max_iters=8), records, tmp_path).run()
    again = Training(lm, settings(lm), records, tmp_path)
    again.resume()
    again.run()
    same(tmp_path, uninterrupted)


def test_what_a_run_leaves(uninterrupted: Path) -> None:
    log = [json.loads(line) for line in (uninterrupted / METRICS).read_text().splitlines()]
    assert [r["iteration"] for r in log if "loss/total_edit" in r] == [4, 8, 12, 16, 20, 24]
    assert [r["iteration"] for r in log if "edit/acc_val" in r] == [8, 16, 24]
    assert all({"loss/edit_val", "loss/loc_val", "loc/acc_val"} <= r.keys() for r in log if "edit/acc_val" in r)
    assert (uninterrupted / CURVES).read_bytes().startswith(b"\x89PNG")
    left = {path.name for path in uninterrupted.iterdir()} - {"tensorboard"}
    assert left == {BEST, LAST, METRICS, CURVES}


def test_resume_is_refused(uninterrupted: Path, records: Records, tmp_path: Path) -> None:
    lm = tiny("gpt2")

    def refusal(training: Training) -> str:
        with pytest.raises(UserError) as caught:
            training.resume()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nothing to resume" in refusal(Training(lm, settings(lm), records, tmp_path))
    assert "made with lr 0.003, now 0.1" in refusal(Training(lm, settings(lm, lr=0.1), records, uninterrupted))
    assert "other weights" in refusal(Training(tiny("gpt2", 1), settings(lm), records, uninterrupted))
    others = dataclasses.replace(records, sources={"train": {"sha256": "y"}})
    assert "made with train" in refusal(Training(lm, settings(lm), others, uninterrupted))
    (tmp_path / LAST).write_bytes((uninterrupted / LAST).read_bytes()[:1000])
    assert "train it again" in refusal(Training(lm, settings(lm), records, tmp_path))


@pytest.mark.slow
def test_early_stopping_keeps_the_best(records: Records, tmp_path: Path) -> None:
    """With a rate that wrecks the network the first validation stays the best, and patience ends the run."""
    lm = tiny("gpt2")
    short = dict(val_interval=4, early_stop_patience=8, max_iters=100, archive_dir=str(tmp_path))
    hp = settings(lm, lr=1e-6, lr_lr=0.3, **short)
    training = Training(lm, hp, records, hp.archive(lm.name))
    found = training.run()
    p = training.progress
    assert p.iteration == p.best_iteration + 8 < 100
    log = [json.loads(line) for line in (training.folder / METRICS).read_text().splitlines()]
    values = {r["iteration"]: r["loss/total_edit_val"] for r in log if "loss/total_edit_val" in r}
    assert min(values, key=lambda i: values[i]) == p.best_iteration
    assert found["loss/total_edit_val"] == pytest.approx(values[p.best_iteration], rel=1e-5)
    assert torch.equal(MEND(lm, hp).net.edit_lrs, training.net.edit_lrs)  # an edit uses the best, not the last


def test_a_gradient_that_is_not_finite_is_left_out(records: Records, tmp_path: Path) -> None:
    lm = tiny("gpt2")
    training = Training(lm, settings(lm, edit_lr=1e30, max_iters=4), records, tmp_path)
    before = training.net.edit_lrs.detach().clone()
    training._step([[edit] for edit in records.train[:2]])
    assert training.progress.skipped == 1 and torch.equal(training.net.edit_lrs, before)


def test_every_epoch_sees_every_record(records: Records, tmp_path: Path) -> None:
    lm = tiny("gpt2")
    training = Training(lm, settings(lm, accumulate_bs=5, batch_size=3), records, tmp_path)
    epochs = []
    for _ in range(2):  # 2 steps x 5 updates x 3 edits = 30 records
        seen = []
        for _ in range(2):
            updates = training._updates()
            assert [len(update) for update in updates] == [3] * 5
            seen += [edit.index for update in updates for edit in update]
            training.progress.iteration += 5
        epochs.append(seen)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30)) and epochs[0] != epochs[1]


def test_updates_of_several_sizes(records: Records, tmp_path: Path) -> None:
    """Each run of three updates has the three sizes, in more than one order; an epoch leaves no record out."""
    hp = settings(tiny("gpt2"), batch_sizes=(1, 2, 5), accumulate_bs=3)
    drawn = [order.drawn(update, records.train, hp) for update in range(90)]
    sizes = [tuple(map(len, drawn[start : start + 3])) for start in range(0, 90, 3)]
    assert {tuple(sorted(turn)) for turn in sizes} == {(1, 2, 5)} and len(set(sizes)) > 3
    seen = [edit.index for update in drawn for edit in update]
    epochs = [seen[start : start + 30] for start in range(0, 240, 30)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs) and epochs[0] != epochs[1]
    other = dataclasses.replace(hp, seed=1)
    assert [order.places(update, other) for update in range(9)] != [order.places(update, hp) for update in range(9)]
    training = Training(tiny("gpt2"), hp, records, tmp_path)
    training.progress.iteration = 6
    assert training._updates() == drawn[6:9]


def test_updates_of_several_sizes_are_resumed(records: Records, tmp_path: Path) -> None:
    """Stopped in the middle of a run of sizes: bit for bit the training that was not."""
    lm = tiny("gpt2")
    hp = settings(lm, batch_sizes=(1, 2, 3), batch_loss="sum", max_iters=16)
    Training(lm, hp, records, tmp_path / "whole").run()
    Training(lm, dataclasses.replace(hp, max_iters=8), records, tmp_path / "stopped").run()
    again = Training(lm, hp, records, tmp_path / "stopped")
    again.resume()
    again.run()
    same(tmp_path / "stopped", tmp_path / "whole")


def test_a_training_of_before_these_settings_goes_on(uninterrupted: Path, records: Records, tmp_path: Path) -> None:
    lm = tiny("gpt2")
    tensors, head = load(uninterrupted / LAST)
    older = {key: value for key, value in head["settings"].items() if key not in MENDSettings.added()}
    save(tmp_path / LAST, tensors, {**head, "settings": older})
    Training(lm, settings(lm), records, tmp_path).resume()
    with pytest.raises(UserError, match=r"made with batch_sizes \[\], now \[1, 2\]"):
        Training(lm, settings(lm, batch_sizes=(1, 2)), records, tmp_path).resume()


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train_MEND.py", *arguments])
    monkeypatch.chdir(ROOT)
    train_MEND.main()


def test_script(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short run, refused a second time, resumed, started again."""
    file, out = tmp_path / "m.yaml", tmp_path / "out"
    values = dataclasses.asdict(settings(tiny("gpt2"), val_steps=2, final_eval=False, silent=False))
    file.write_text(json.dumps(values), encoding="utf-8")
    common = ["--model", str(tiny_folder), "--device", "cpu", "--hparams", str(file), "--out", str(out)]
    run_script(monkeypatch, *common, "--max-iters", "4")
    said = capsys.readouterr()
    assert "4 iterations" in said.out and "edit/acc_val" in said.out and str(out) in said.out
    assert "loss/edit" in said.err  # progress, with running losses
    with pytest.raises(UserError, match="--resume goes on"):
        run_script(monkeypatch, *common)
    run_script(monkeypatch, *common, "--max-iters", "8", "--resume")
    assert "8 iterations" in capsys.readouterr().out
    with pytest.raises(UserError, match="made with seed 42, now 1"):
        run_script(monkeypatch, *common, "--resume", "--seed", "1")
    run_script(monkeypatch, *common, "--max-iters", "4", "--seed", "1", "--overwrite")
    assert "4 iterations" in capsys.readouterr().out
    file.write_text(json.dumps({**values, "eval_only": True}), encoding="utf-8")
    with pytest.raises(UserError, match="eval_only"):
        run_script(monkeypatch, *common)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nonesuch"], "no model 'nonesuch'"),
        (["--max-iters", "0"], "expected 1 or more"),
        (["--nonesuch"], "--help"),
    ],
)
def test_script_refuses(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=message):
        run_script(monkeypatch, *arguments)


@pytest.mark.slow
def test_script_from_a_shell() -> None:
    command = [sys.executable, str(ROOT / "train_MEND.py"), "--model", "nonesuch"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 2 and run.stderr.startswith("error: ") and len(run.stderr.splitlines()) == 1


def test_a_model_without_settings(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to run, before records are read."""
    monkeypatch.setattr(sys, "argv", ["train_MEND.py", "--model", str(tiny_folder), "--data", "/nowhere"])
    with pytest.raises(UserError, match=r"no settings of MEND's training .* `python prepare.py suggest-hparams"):
        train_MEND.main()
