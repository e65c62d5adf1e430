"""Signals that wait: what a block that postpones them does, and that everything that draws is one."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from matplotlib.figure import Figure

from analysis.plots.style import render
from core.script import NUMBERS, postponed, script
from editors.mend.log import CURVES, METRICS, Log
from inputs.suggest import picture
from tests import killing
from tests.test_suggest import PEAKED


@pytest.fixture(autouse=True)
def caught() -> Iterator[list[int]]:
    """The signals that handlers like a script's have caught."""
    found: list[int] = []

    def stop(number: int, frame: object) -> None:
        found.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in NUMBERS}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def test_it_comes_once_when_the_block_is_over(caught: list[int]) -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with postponed():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                signal.raise_signal(number)
            steps.append("whole")
        steps.append("never")
    assert (steps, caught) == (["whole"], [signal.SIGTERM])


def test_without_one_nothing_happens(caught: list[int]) -> None:
    handlers = [signal.getsignal(number) for number in NUMBERS]
    with postponed():
        assert [signal.getsignal(number) for number in NUMBERS] != handlers
    assert [signal.getsignal(number) for number in NUMBERS] == handlers and not caught


def test_a_block_that_fails_lets_it_come_too(caught: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt) as error, postponed():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("a bad picture")
    assert isinstance(error.value.__context__, ValueError) and caught == [signal.SIGINT]


def test_another_thread_has_no_handlers_to_hold_back() -> None:
    done = []

    def work() -> None:
        with postponed():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]


def log(folder: Path) -> None:
    Log(folder).draw()


def report(folder: Path) -> None:
    render(lambda columns: Figure())


def evidence(folder: Path) -> None:
    picture(PEAKED, "tiny")


@pytest.mark.parametrize("draw", [log, report, evidence])
def test_a_picture_is_drawn_to_its_end(
    draw: Callable[[Path], None], caught: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """matplotlib crashes on what a signal raises inside it."""
    save, drawn = Figure.savefig, []

    def interrupted(figure: Figure, *args: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
        save(figure, *args, **options)  # type: ignore[arg-type]
        drawn.append(figure)

    monkeypatch.setattr(Figure, "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path)
    assert drawn and caught == [signal.SIGTERM]
    assert sorted(path.name for path in tmp_path.iterdir()) == ([CURVES, METRICS] if draw is log else [])


def test_the_script_ends_as_after_any_signal() -> None:
    code = """
import os, signal
from core.script import script
from core.script import postponed
@postponed()
def main():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    print("whole")
script(main)
"""
    words, environment = [sys.executable, "-c", code], killing.untraced()
    run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (128 + signal.SIGTERM, "whole\n")
    assert run.stderr.strip().splitlines() == [
        "interrupted: what is finished is kept; the same command goes on from there"
    ]


def test_what_libraries_log_goes_to_stderr_as_it_is() -> None:
    """Ours from `info` on; that of others not, as they log without being asked."""
    code = """
import logging
from core.script import script
def main():
    logging.getLogger("inputs.models").info("%s: %d files", "org/x", 3)
    logging.getLogger("core.disk.lock").warning("no locks")
    logging.getLogger("editors.memit").debug("not this")
    logging.getLogger("httpx").info("nor this")
    print("a result")
script(main)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("a result\n", "org/x: 3 files\nno locks\n")


def test_a_second_script_in_one_process_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        script(lambda: logging.getLogger("inputs").info("once"))
        assert capsys.readouterr().err == "once\n"
