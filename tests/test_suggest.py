"""prepare.py suggest-hparams: what is written loads, says what it is, and follows what tracing found."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIGS, OTHERS, ROOT, settle, tiny
from reference import tracing as naive
from transformers import AutoConfig, AutoModelForCausalLM

from core import hparams
from core.errors import UserError
from core.lm.load import load
from core.lm.model import LM, hash_folder
from core.registry import discover
from editors.mend.factors import shapes_of
from inputs import cli, suggest
from inputs.sources import Source
from inputs.suggest import Evidence, measure, template_of
from inputs.tracing import Plan, fact_of, plan_for

EDITORS = discover("editors", "EDITOR")
PEAKED = Evidence([0.0, 0.3, 0.1, 0.9], 0.5, 0.1, 4, 2, Plan(0.1, 1), Source(Path("zsre.json"), "custom"))
"""The last layer does not count: the peak is layer 1."""


@pytest.fixture
def project(tmp_path: Path, tiny_folder: Path, edits, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped settings, a model and an edit file, to run prepare.py in."""
    shutil.copytree(ROOT / "hparams", tmp_path / "hparams")
    records = [dict(src=e.prompt, subject=e.subject, alt=e.target, pred=e.old) for e in edits]
    unusable = [{**records[0], "pred": " "}, {**records[0], "subject": "Nobody"}]
    (tmp_path / "edited-data").mkdir()
    (tmp_path / "edited-data/zsre.json").write_text(json.dumps([*unusable, *records]))
    settle(tmp_path, monkeypatch)
    (tmp_path / "hugging_cache").mkdir()
    (tmp_path / "hugging_cache/tiny-gpt2").symlink_to(tiny_folder)
    return tmp_path


def run(*flags: str) -> str:
    """What the command says."""
    given = ["suggest-hparams", "--model", "tiny-gpt2", "--data", ".", "--device", "cpu", *flags]
    args = cli.parser().parse_args(given)
    return "\n".join(args.run(args))


@pytest.mark.parametrize("method", ["ROME", "MEMIT", "KN", "MEND"])
def test_what_is_written_loads_and_fits_the_model(method: str, project: Path) -> None:
    out = run("--method", method, "--limit", "3")
    files = [Path("hparams") / method / "tiny-gpt2.yaml"]
    if method == "MEND":
        files.append(Path("hparams/TRAINING/MEND/tiny-gpt2.yaml"))
    lm = load(Path("hugging_cache/tiny-gpt2"), "tiny-gpt2", "cpu")
    for file in files:
        text = file.read_text()
        assert text.startswith(f"# SUGGESTED by `python prepare.py suggest-hparams --method {method}`")
        assert hash_folder(project / "hugging_cache/tiny-gpt2") in text
        assert f"{file} is written" in out
        hp = hparams.load(EDITORS[method].hparams, file)
        shipped = yaml.safe_load(Path(str(file).replace("tiny-gpt2", "smollm2-135m")).read_text())
        assert yaml.safe_load(text).keys() == shipped.keys() - {"context_templates"}  # of the other model
        if method in ("ROME", "MEMIT"):
            hparams.check(hp, lm)
            assert hp.v_loss_layer == 3
            assert "3 facts of edited-data/zsre.json (SHA-256 " in " ".join(text.split("\n# "))
        if method == "MEND":
            assert set(shapes_of(lm, hp.inner_params)) == {w for layer in (1, 2, 3) for w in lm.mlp_weights(layer)}
    assert list(project.glob("hparams/**/.sugg*")) == []
    assert ("effect on P(answer)" in out) == (method in ("ROME", "MEMIT"))


def test_nothing_is_overwritten_unasked(project: Path) -> None:
    file = project / "hparams/ROME/tiny-gpt2.yaml"
    file.write_text("mine")
    with pytest.raises(UserError, match=r"^hparams/ROME/tiny-gpt2.yaml exists: --overwrite replaces it, --out"):
        run("--method", "ROME")
    assert file.read_text() == "mine"
    run("--method", "ROME", "--limit", "1", "--overwrite")
    assert file.read_text().startswith("# SUGGESTED")


def test_out_and_plot(project: Path) -> None:
    run("--method", "ROME", "--out", "new/mine.yaml", "--plot", "new/effect.png", "--limit", "1")
    assert not Path("hparams/ROME/tiny-gpt2.yaml").exists()
    hparams.load(EDITORS["ROME"].hparams, Path("new/mine.yaml"))
    assert Path("new/effect.png").read_bytes().startswith(b"\x89PNG")
    run("--method", "MEND", "--out", "new/mend.yaml")  # one file, for training and for edits
    assert hparams.load(EDITORS["MEND"].hparams, Path("new/mend.yaml")).max_iters == 600
    with pytest.raises(UserError, match="--plot: KN has no layers to trace"):
        run("--method", "KN", "--plot", "new/kn.png")
    assert not Path("hparams/KN/tiny-gpt2.yaml").exists()


def test_a_failure_leaves_the_old_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = project / "hparams/KN/tiny-gpt2.yaml"
    file.write_text("old")
    monkeypatch.setattr(suggest, "body", lambda values: "steps: none\n")
    with pytest.raises(UserError, match="batch_size"):
        run("--method", "KN", "--overwrite")
    assert file.read_text() == "old"
    with pytest.raises(UserError, match=r"^cannot write hparams/KN/tiny-gpt2.yaml/x.yaml: "):
        run("--method", "KN", "--out", "hparams/KN/tiny-gpt2.yaml/x.yaml")


def test_an_edit_file_without_a_usable_fact_is_refused(project: Path) -> None:
    records = json.loads(Path("edited-data/zsre.json").read_text())
    Path("edited-data/zsre.json").write_text(json.dumps(records[:2]))
    with pytest.raises(UserError, match=r"^edited-data/zsre.json: expected facts with a subject in 'src'"):
        run("--method", "ROME")


def test_the_likeliest_facts_are_traced(project: Path, edits) -> None:
    """Effects are those of the naive twin over the two facts with the highest P(answer)."""
    lm, source = tiny("gpt2"), Source(Path("edited-data/zsre.json"), "custom")
    facts = [fact_of(lm, dataclasses.replace(edit, index=edit.index + 2)) for edit in edits]
    two = sorted(facts, key=lambda fact: naive.chance(lm, fact), reverse=True)[:2]
    plan = plan_for(lm, two)
    wanted = [naive.traced(lm, fact, plan) for fact in two]
    found = measure(lm, source, 2)
    assert found.plan == plan
    assert (found.facts, found.known) == (2, 0)
    assert found.clean == pytest.approx(sum(w.clean for w in wanted) / 2, rel=1e-4)
    assert found.corrupted == pytest.approx(sum(w.corrupted for w in wanted) / 2, rel=1e-4)
    effects = torch.stack([w.restored - w.corrupted for w in wanted]).mean(0)
    torch.testing.assert_close(torch.tensor(found.effects), effects, rtol=1e-3, atol=1e-4 * found.clean)


def layered(family: str, n: int) -> LM:
    """A tiny model with as many layers as a real one."""
    sizes = {**CONFIGS, **OTHERS}[family]
    key = "n_layer" if "n_layer" in sizes else "num_hidden_layers"
    with torch.device("meta"):
        config = AutoConfig.for_model(family, vocab_size=8, **{**sizes, key: n})
        return LM(AutoModelForCausalLM.from_config(config), None, family)


def test_as_many_layers_as_the_template_has_up_to_the_peak() -> None:
    lm, small = layered("gpt2", 48), tiny("gpt2")
    for method in ("ROME", "MEMIT"):  # the peak the authors found gives the layers they chose
        shipped = yaml.safe_load((ROOT / f"hparams/{method}/gpt2-xl.yaml").read_text())
        assert EDITORS[method].suggested(shipped, lm, 17) == {**shipped, "v_loss_layer": 47}
        for given, layers in (([0] * 5, [0, 1, 2]), ([9], [1])):
            found = EDITORS[method].suggested({**shipped, "layers": given}, small, 1)
            assert found == {**shipped, "layers": layers, "v_loss_layer": 3}
    assert EDITORS["KN"].suggested({"steps": 3}, small, None) == {"steps": 3}


@pytest.mark.parametrize(("family", "n", "name"), [("llama", 32, "llama2-7b"), ("gpt2", 48, "gpt2-xl")])
def test_inner_params_are_those_of_the_released_files(family: str, n: int, name: str) -> None:
    shipped = yaml.safe_load((ROOT / f"hparams/MEND/{name}.yaml").read_text())
    found = EDITORS["MEND"].suggested(shipped, layered(family, n), None)
    assert sorted(found.pop("inner_params")) == sorted(shipped.pop("inner_params"))
    assert found == shipped


@pytest.mark.parametrize("family", [*CONFIGS, *OTHERS])
def test_the_template_is_chosen_by_size_and_gate(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny(family)
    assert template_of(lm) == "smollm2-135m"
    monkeypatch.setattr(suggest, "SMALL", 0)
    assert template_of(lm) == ("gpt2-xl" if family in ("gpt2", "gptj", "gpt_neox", "opt", "phi") else "llama2-7b")


def test_the_table_shows_the_peak() -> None:
    lines = PEAKED.table().splitlines()
    assert PEAKED.peak == 1
    assert lines[2].split() == ["1", "0.3000", "#" * 17, "<-", "largest"]
    assert lines[4].split() == ["3", "0.9000", "#" * 50]
