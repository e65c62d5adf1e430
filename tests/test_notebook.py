"""The words of a notebook: what they give is what the scripts write, and the model is afterwards what it was."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, tiny
from tiny_settings import ROME, ROME_YAML, TARGET, corpus

import experiment as ex
from core.errors import UserError
from core.lm.model import LM
from core.types import Edit
from experiment.notebook import Scores

Check = Callable[[LM], Callable[[], None]]
SAMPLE = ROOT / "data/sample"


@pytest.fixture
def lm(tiny_folder: Path) -> LM:
    return ex.load(tiny_folder, device="cpu")


def test_what_it_gives_is_what_the_script_writes(
    lm: LM, tiny_folder: Path, tmp_path: Path, unchanged: Check, capfd: pytest.CaptureFixture[str]
) -> None:
    check = unchanged(lm)
    facts = ex.edits("zsre", 200, 203, data=SAMPLE)
    assert [fact.index for fact in facts] == [200, 201, 202]
    before = ex.score(lm, "NLI", limit=3, data=SAMPLE)
    known = ex.expect(lm, "NLI", limit=3, data=SAMPLE)
    with ex.edited(lm, "ROME", facts, regularizer="rect", keep=0.25, settings=ROME) as record:
        after = ex.score(lm, "NLI", limit=3, data=SAMPLE, unedited=known)
        quality = record.quality()
        with pytest.raises(AssertionError):
            check()
    check()
    with pytest.raises(ValueError, match="inside the `with` block"):
        record.quality()
    assert ex.score(lm, "NLI", limit=3, data=SAMPLE).metrics == before.metrics
    assert capfd.readouterr().out == ""
    (tmp_path / "rome.yaml").write_text(ROME_YAML)
    words = ("NLI", "Instance-Sequential", "ROME", 200, 203, 1, "--regularizer", "rect", "--keep", 0.25, "--limit", 3)
    more = ("--model", tiny_folder, "--hparams", tmp_path / "rome.yaml", "--data", SAMPLE, "--device", "cpu")
    command = [sys.executable, "test-task-after.py", *map(str, (*words, *more, "--results", tmp_path))]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = tmp_path.rglob("result-NLI-Instance-Sequential-ROME-RECT25-3.json")
    written = json.loads(file.read_text(encoding="utf-8"))
    assert {name: m.value for name, m in after.metrics.items()} == {
        n: m["value"] for n, m in written["metrics"].items()
    }
    assert after.metrics["drift"].value > 0 and "drift" not in before.metrics
    for stage, means in quality.items():
        assert {n: m.value for n, m in means.items()} == pytest.approx(
            {n: m["value"] for n, m in written["quality"][stage].items()}, abs=1e-6
        )


def test_the_headline_comes_first_and_the_text_is_the_table(lm: LM) -> None:
    scores = ex.score(lm, "NER", limit=2, data=SAMPLE)
    assert isinstance(scores, Scores) and scores.n == 2 and len(scores.samples) == 8
    assert scores.headline is scores.metrics["f1"]
    assert str(scores).splitlines()[1].startswith("f1 ")


def test_it_is_undone_whatever_happens(unchanged: Check) -> None:
    lm = tiny("gpt2")
    check = unchanged(lm)
    facts = ex.edits("zsre", 200, 202, data=SAMPLE)
    with pytest.raises(ZeroDivisionError), ex.edited(lm, "ROME", facts, settings=ROME):
        raise ZeroDivisionError
    check()
    with pytest.raises(UserError, match="refused"), ex.edited(lm, "ROME", facts, settings=ROME, max_update=1e-9):
        pass
    check()


def test_batches(tmp_path: Path, unchanged: Check) -> None:
    """A model in memory; all edits in one update, or so many in each."""
    lm = ex.wrap(tiny("gpt2").model, tiny("gpt2").tokenizer, "mine")
    check = unchanged(lm)
    facts = ex.edits("zsre", 200, 203, data=SAMPLE)
    settings = {"layers": (1, 2), "mom2_adjustment": True, "mom2_update_weight": 10.0, **TARGET, **corpus(tmp_path)}
    for size, updates in ((None, [[200, 201, 202]]), (2, [[200, 201], [202]])):
        with ex.edited(lm, "MEMIT", facts, batch_size=size, settings=settings) as record:
            assert [update.edits for update in record.editing.updates] == updates
        check()
    assert len(ex.probe(lm, facts)) == 3
    with (
        pytest.raises(UserError, match="ROME takes its edits one by one"),
        ex.edited(lm, "ROME", facts, batch_size=2, settings=ROME),
    ):
        pass


def test_an_edit_that_lacks_what_the_method_needs() -> None:
    settings = {"steps": 2, "batch_size": 2, "adaptive_threshold": 0.2}
    facts = [Edit("A is", "A", "b", "c", index=4), Edit("A is", "A", "b", index=9)]
    with (
        pytest.raises(UserError, match=r"^edit 9: KN needs a text in 'old', which is absent or empty$"),
        ex.edited(tiny("gpt2"), "KN", facts, settings=settings),
    ):
        pass


def test_edits_of_a_name_or_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As --edits takes one: of any edit set's format, in any folder."""
    monkeypatch.chdir(tmp_path)
    named = ex.edits("zsre", 3, 5, data=SAMPLE)
    content = (SAMPLE / "edited-data/zsre.json").read_text(encoding="utf-8")
    for place in ("facts.json", "mine/facts", "facts", "zsre"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(content, encoding="utf-8")
        assert ex.edits(tmp_path / place, 3, 5) == ex.edits(Path(place), 3, 5) == named
        assert ex.edits(place, 3, 5, **({"data": SAMPLE} if place == "zsre" else {})) == named  # a name, if it is one
    assert ex.edits("facts.json", 3, 5, draw=2) == ex.edits("zsre", 3, 5, data=SAMPLE, draw=2) != named
    with pytest.raises(UserError, match=r"^nowhere.json: no such file$"):
        ex.edits("nowhere.json", 0, 1)
    with pytest.raises(UserError, match=r"^facts.json is a file: data, a folder .*, has no part in it$"):
        ex.edits("facts.json", 0, 1, data=SAMPLE)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="unknown edit set 'zsr': did you mean 'zsre'"):
        ex.edits("zsr", 0, 1)
    with pytest.raises(UserError, match="unknown task 'nerr'"):
        ex.score(tiny("gpt2"), "nerr")
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        ex.lode  # noqa: B018


def test_the_package_alone_loads_no_torch() -> None:
    code = "import sys, experiment; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
