"""Killed anywhere, every script leaves nothing half-made, and goes on to what it makes when nobody disturbs it.

What is killed is in kill_scenarios.py, how in killing.py; `make soak` does it at many more moments.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from tests import killing

KILLS = 6
GROUPS = (("test-task", "ROME", "MEMIT", "MEND"), ("train_MEND", "prepare model", "prepare data", "sweep"))


@pytest.mark.slow
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_killed_anywhere(names: tuple[str, ...], tmp_path: Path) -> None:
    found = killing.reports(0, KILLS, list(names), tmp_path)
    assert [report["name"] for report in found] == list(names)
    problems = [problem for report in found for problem in report["problems"]]
    assert not problems, "\n".join(problems)  # a message of its own, or pytest abbreviates it
    for report in found:
        assert sum(report["kills"].values()) >= KILLS, report
        assert len(report["kills"]) == len(killing.SIGNALS), report


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_real_process(number: signal.Signals, tmp_path: Path, tiny_folder: Path) -> None:
    """As from a shell: one line, the exit code of a signal, and the same command goes on."""
    words = ["test-task.py", "NER", "--model", tiny_folder, "--device", "cpu", "--results", tmp_path / "out"]
    command = [sys.executable, *map(str, [*words, "--data", ROOT / "data/sample", "--batch-tokens", 100])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": killing.untraced()}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload]
    journal = tmp_path / "out/tiny-gpt2/test-NER/.result-NER-before-edit.journal"
    while not (journal.is_file() and journal.stat().st_size > 500):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    (line,) = [line for line in err.splitlines() if line.startswith("interrupted: ")]
    assert line.endswith(" of 192 completions of NER; the same command goes on from there")
    assert out == "" and "Traceback" not in err
    assert [path.name for path in journal.parent.iterdir()] == [journal.name]


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    """Python drops what is raised in a destructor, and prints a traceback: neither is to happen."""
    code = """
import os, signal, sys, time
from core.script import script
class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
def main():
    closing = Closing()
    del closing
    time.sleep(100)
script(main)
"""
    stopped(code)


@pytest.mark.parametrize("error", ["UserError('cannot write out: Bad file')", "TypeError('incompatible arguments')"])
def test_an_error_after_a_signal_is_what_the_signal_cut_off(error: str) -> None:
    code = f"""
import os, signal, time
from core.script import script
from core.errors import UserError
def main():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(100)
    except KeyboardInterrupt:
        raise {error}
script(main)
"""
    stopped(code)


def test_what_a_signal_leaves_half_made_is_no_error_of_its_own() -> None:
    code = """
import os, signal
from core.script import script
class Bar:
    def __init__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
        self.position = 0
    def __del__(self):
        self.position
script(Bar)
"""
    stopped(code)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_when_all_is_done_changes_nothing(number: signal.Signals) -> None:
    code = f"""
import os
from core.script import script
script(lambda: None)
os.kill(os.getpid(), {int(number)})
print("done")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")


def stopped(code: str) -> None:
    """Run the code, which is to end as a script does that got a SIGTERM."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=killing.untraced(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (run.returncode, run.stdout) == (128 + signal.SIGTERM, "")
    assert run.stderr.strip() == "interrupted: what is finished is kept; the same command goes on from there"
