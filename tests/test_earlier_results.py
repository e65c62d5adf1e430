"""Results made before the repository had its rooms (commit 3b7a9da): still valid, still read, and made anew the same.

They are of the embedded model on the sample data, `--limit 3`, as it is and after two edits by ROME with RECT 40 %.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EMBEDDED, ROOT

from analysis.collect import results
from experiment.models import Models
from experiment.plan import EditRequest, Experiment, resolve
from experiment.run import existing

EARLIER = Path(__file__).parent / "data/earlier"
TASKS = ("NER", "NLI")
ROME = EditRequest(method="ROME", mode="Instance-Sequential", begin=200, end=202, regularizer="rect", keep=0.4)

needs_model = pytest.mark.skipif(not (EMBEDDED / "config.json").is_file(), reason="prepare.py model smollm2-135m")


@needs_model
@pytest.mark.parametrize("edit", [None, ROME], ids=["unedited", "edited"])
def test_made_with_the_same_settings(edit: EditRequest | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    asked = Experiment(tasks=TASKS, model="smollm2-135m", edit=edit, limit=3, results=tmp_path)
    plan = resolve(asked, Models())
    shutil.copytree(EARLIER, plan.root, dirs_exist_ok=True)
    assert len(existing(plan)) == len(plan.wanted) == 2


def test_the_report_reads_them() -> None:
    found, copies = results(EARLIER)
    assert (len(found), copies) == (4, 0)
    assert {(result.task, result.edits) for result in found} == {(task, n) for task in TASKS for n in (0, 2)}


@needs_model
def test_made_anew_they_are_equal_to_the_byte(tmp_path: Path) -> None:
    """But for the times, the environment, and the number of the format."""
    words = ["NLI", "--model", "smollm2-135m", "--limit", "3", "--results", str(tmp_path)]
    subprocess.run([sys.executable, "test-task.py", *words], cwd=ROOT, check=True, capture_output=True)
    stem = "test-NLI/result-NLI-before-edit"
    (anew,) = tmp_path.rglob("result-NLI-before-edit.json")
    assert anew.with_suffix(".jsonl").read_bytes() == (EARLIER / f"{stem}.jsonl").read_bytes()
    assert timeless(anew) == timeless(EARLIER / f"{stem}.json")


def timeless(file: Path) -> str:
    text = re.sub(r' "(seconds|environment)": \{[^{}]*\},?\n', "", file.read_text(encoding="utf-8"))
    return re.sub(r' "format": 1,\n', "", text)
