"""`prepare.py stats`: second moments fetched where published, computed otherwise, and left alone where they are."""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from fake_hub import FakeHub, serving

from core.errors import UserError
from core.lm import moments as collected
from core.lm.load import load
from core.lm.moments import Corpus, second_moments
from core.script import script
from inputs import cli, moments

WIDTH, DOCUMENTS = 128, 20
MODULE = "transformer.h.{}.mlp.c_proj"


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serving(FakeHub()) as fake:
        yield fake


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """MEMIT's settings for the tiny model: layers 1 and 2, moments over 20 documents of wikipedia."""
    values = yaml.safe_load((ROOT / "hparams/MEMIT/gpt2-xl.yaml").read_text(encoding="utf-8"))
    values |= {"layers": [1, 2], "v_loss_layer": 3, "mom2_n_samples": DOCUMENTS, "stats_dir": str(tmp_path / "stats")}
    path = tmp_path / "memit.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def published(width: int = WIDTH, documents: int = DOCUMENTS, spoil: float = 0.0) -> bytes:
    """A file as the ROME authors' code writes it."""
    keys = np.random.default_rng(0).normal(size=(500, width)).astype(np.float32)
    total = keys.T @ keys
    total[0, 1] += spoil
    file = io.BytesIO()
    arrays: dict[str, Any] = {"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.mom2": total}
    np.savez(file, **arrays, **{"mom2.count": 500, "sample_size": documents})
    return file.getvalue()


def address(layer: int) -> str:
    return f"stats/tiny-gpt2/wikipedia_stats/{MODULE.format(layer)}_float32_mom2_{DOCUMENTS}.npz"


def prepare(model: Path, settings: Path, server: FakeHub | None = None, method: str = "MEMIT") -> None:
    url = f"{server.url}/stats/" if server else "http://127.0.0.1:9"
    arguments = [str(model), "--hparams", str(settings), "--url", url, "--device", "cpu", "--method", method]
    args = cli.parser().parse_args(["stats", *arguments])
    for line in args.run(args):
        print(line)


def test_published_files_are_fetched_and_serve_the_editor(
    server: FakeHub, settings: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.plain = {address(layer): published() for layer in (1, 2)}
    prepare(tiny_folder, settings, server)
    out = capsys.readouterr().out
    assert out.count(f" fetched from {server.url}/stats/tiny-gpt2/wikipedia_stats/") == 2
    lm = load(tiny_folder, "tiny-gpt2", "cpu")
    corpus = Corpus("wikipedia", DOCUMENTS, tmp_path / "stats")
    found = second_moments(lm, [1, 2], corpus)
    assert found[1].shape == (WIDTH, WIDTH)
    assert float(found[1].trace()) == pytest.approx(WIDTH, rel=0.05)
    assert not list((tmp_path / "stats").glob(".*"))
    server.requests.clear()
    prepare(tiny_folder, settings, server)
    assert capsys.readouterr().out.count(" is already there\n") == 2
    assert server.requests == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "the server answers 404"),
        (b"no archive", "not a file of second moments"),
        (published(width=16), r"expected finite sums \(128, 128\) over tokens, found \(16, 16\)"),
        (published(documents=7), "made from 7 documents, the settings want 20"),
        (published(spoil=900.0), "not symmetric"),
        (published(spoil=np.inf), "expected finite sums"),
    ],
    ids=["absent", "garbage", "another width", "other documents", "not symmetric", "infinite"],
)
def test_what_is_not_published_well_is_computed(
    content: bytes | None,
    reason: str,
    server: FakeHub,
    settings: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.plain = {address(1): published()} | ({address(2): content} if content else {})
    texts = [f"Document {i} is about the number {i} and nothing else." for i in range(30)]
    monkeypatch.setattr(collected, "_wikipedia", lambda: texts)
    prepare(tiny_folder, settings, server)
    out = capsys.readouterr().out
    assert out.count("fetched from") == 1
    assert out.count("mlp.c_proj_float32_mom2_20.npz computed") == 1
    lines = [line for line in caplog.messages if line.startswith("layer 2: ")]
    assert len(lines) == 1
    assert re.search(reason, lines[0])
    file = tmp_path / "stats/tiny-gpt2/wikipedia_stats" / Path(address(2)).name
    with np.load(file) as stored:
        assert stored["mom2.mom2"].shape == (WIDTH, WIDTH)
        assert int(stored["sample_size"]) == DOCUMENTS


def test_another_corpus_is_computed_at_once(
    server: FakeHub, settings: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(settings.read_text(encoding="utf-8")) | {"mom2_dataset": "self-generated"}
    settings.write_text(yaml.safe_dump(values), encoding="utf-8")
    prepare(tiny_folder, settings, server)
    assert server.requests == []
    assert capsys.readouterr().out.count(" computed\n") == 2
    assert len(list((tmp_path / "stats/tiny-gpt2/self-generated_stats").iterdir())) == 2


def test_methods_that_need_none(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("ROME", "KN"):
        prepare(tiny_folder, ROOT / f"hparams/{method}/gpt2-xl.yaml", method=method)
        assert f"{method} needs no second moments for tiny-gpt2" in capsys.readouterr().out


def test_as_a_command(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ROOT / "hparams/KN/gpt2-xl.yaml")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "stats", str(tiny_folder), "--method", "KN", "--hparams", file])
    script(cli.main)
    assert capsys.readouterr().out.startswith("KN needs no second moments")


def test_mistakes(tiny_folder: Path, settings: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown method 'MEMITT': did you mean 'MEMIT'"):
        prepare(tiny_folder, settings, method="MEMITT")
    with pytest.raises(UserError, match=r"no model '.*nowhere'"):
        prepare(tmp_path / "nowhere", settings)
    with pytest.raises(UserError, match=r"layers: 13: 'tiny-gpt2' has layers 0 to 3"):
        prepare(tiny_folder, ROOT / "hparams/MEMIT/gpt2-xl.yaml")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(UserError, match=r"cannot read the model at .*bad: "):
        prepare(tmp_path / "bad", settings)


def test_the_skeleton_has_no_weights(tiny_folder: Path) -> None:
    lm = moments.skeleton(tiny_folder, "tiny-gpt2")
    assert all(parameter.is_meta for parameter in lm.model.parameters())
    assert lm.fingerprint == load(tiny_folder, "tiny-gpt2", "cpu").fingerprint


def test_a_model_without_settings(tiny_folder: Path) -> None:
    """The line says what to run, before the model is looked into."""
    args = cli.parser().parse_args(["stats", str(tiny_folder), "--method", "ROME"])
    command = f"`python prepare.py suggest-hparams --model {tiny_folder} --method ROME`"
    with pytest.raises(UserError, match=f"no settings of ROME for this model yet; {re.escape(command)}"):
        list(args.run(args))
