"""Kill the scripts at drawn moments, start them again, and look at what is left: python -m tests.killing --help.

Every run is a fork of this process, which has everything imported and no second thread, so that a trial takes as long
as the script's work does. A moment counts from when the script listens for signals; before that there is nothing to
keep. Prints one JSON object per script.
"""

import argparse
import faulthandler
import json
import os
import random
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import folders
from tests.kill_scenarios import ROOT, Scenario, scenarios, warm

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
IN_A_ROW = 4
"""Kills of one run at most, each as it goes on from the one before; then it may finish."""
ENOUGH = 120.0
"""Seconds after which a run is taken to hang; before they are over, its frames go to its stderr."""
TIMES = re.compile(r'"seconds": (\{[^}]*\}|[-+.\de]+)')


@dataclass
class Run:
    """How a run ended: a process's exit code (minus a signal's number), stderr, and seconds as a moment counts."""

    code: int
    err: str
    seconds: float

    def wrong(self, sent: signal.Signals | None) -> str:
        """What is wrong with the end of a run that got this signal; empty if nothing is."""
        frames = re.search(r"Timeout \(|Fatal Python error", self.err)
        last = self.err.strip().splitlines()[0 if frames else -5 :]
        if any(word in self.err for word in ("Traceback", "Exception ignored", "Error:")):
            return f"a traceback: {last}"
        if self.code == 0 or (sent == signal.SIGKILL and self.code == -sent):
            return ""
        told = [line for line in self.err.splitlines() if line.startswith("interrupted: ")]
        if sent in (None, signal.SIGKILL) or self.code != 128 + sent or len(told) != 1:
            return f"exit code {self.code}: {last}"
        says = re.search(r"kept|nothing", told[0]) and re.search(r"the same command|--resume|--overwrite", told[0])
        return "" if says else f"does not say what is kept and how to go on: {told[0]}"


@dataclass
class Report:
    """What happened to one script: kills by signal, runs that ended first, and everything that was wrong."""

    name: str
    seconds: float
    kills: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    said: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def forked(scenario: Scenario, folder: Path, err: Path) -> int:
    """Start the script in `folder`, as `python SCRIPT ...` would; returns the process's id."""
    words = [scenario.script, *scenario.arguments(folder)]
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.chdir(folder)
        for stream, path in ((1, "/dev/null"), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
        os.environ.update(scenario.environment)
        for name in ("ROOT", "MODELS", "DATA", "SOURCES", "STATS", "HPARAMS", "TRAINING_HPARAMS", "TRAINED"):
            setattr(folders, name, folder / getattr(folders, name).relative_to(ROOT))  # as if it were the clone
        faulthandler.enable(2)
        faulthandler.dump_traceback_later(ENOUGH - 10)
        scenario.patch()
        sys.argv = words
        runpy.run_path(str(ROOT / scenario.script), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def listens(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM of its own (it ended, or it is a zombie: none to wait for)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    return "State:\tZ" in status or caught is None or bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@dataclass
class Kill:
    """A signal, sent `after` so many seconds, and perhaps once more: ^C is often hit twice."""

    signal: signal.Signals
    after: float
    hits: int = 1

    def __str__(self) -> str:
        return f"{self.signal.name} after {self.after:.2f} s{', twice' * (self.hits - 1)}"


def run(scenario: Scenario, folder: Path, kill: Kill | None = None) -> Run:
    """Run the script in `folder`."""
    err = folder.with_suffix(".err")
    pid = forked(scenario, folder, err)
    while not listens(pid):
        time.sleep(0.001)
    start = time.monotonic()
    ended, status, sent = 0, 0, 0
    while not ended:
        ended, status = os.waitpid(pid, os.WNOHANG)
        passed = time.monotonic() - start
        if not ended and kill and sent < kill.hits and passed >= kill.after + 0.02 * sent:
            os.kill(pid, kill.signal)
            sent += 1
        elif not ended and passed > ENOUGH:
            os.kill(pid, signal.SIGKILL)
        elif not ended:
            time.sleep(0.002)
    return Run(os.waitstatus_to_exitcode(status), err.read_text(errors="replace"), time.monotonic() - start)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones too, without the times in result files."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: content(path) for name, path in files.items()}


def content(path: Path) -> bytes:
    if path.suffix != ".json" or not path.name.startswith("result-"):
        return path.read_bytes()
    return TIMES.sub('"seconds": 0', path.read_text(encoding="utf-8")).encode()


def half(folder: Path, whole: dict[str, bytes], scenario: Scenario) -> list[str]:
    """What a killed run has left that is visible and not what an undisturbed run leaves there."""
    found = snapshot(folder)
    seen = {name: b for name, b in found.items() if not re.search(r"(^|/)\.", name) and "unfinished/" not in name}
    wrong = [f"{name}: half-made or another" for name, b in seen.items() if not scenario.may_be(name, b, whole)]
    wrong += [
        f"{name} without its .jsonl"
        for name in seen
        if name.endswith(".json") and whole.get(name + "l") and name + "l" not in seen
    ]
    for place in scenario.folders:
        there, all_of_it = ({n for n in names if n.startswith(f"{place}/")} for names in (seen, whole))
        if there and there != all_of_it:
            wrong.append(f"{place}: without {sorted(all_of_it - there)}")
    return wrong


def trials(scenario: Scenario, work: Path, seed: int, kills: int) -> Report:
    """Kill the script at least `kills` times, in rounds that each end with a run that nobody disturbs."""
    draw = random.Random(f"{scenario.name} {seed}")
    first = scenario.begin(work / f"{scenario.name}-whole")
    undisturbed = run(scenario, first)
    report = Report(scenario.name, undisturbed.seconds)
    if undisturbed.code or undisturbed.wrong(None):
        report.problems.append(f"undisturbed: exit code {undisturbed.code}: {undisturbed.err[-500:]}")
        return report
    whole = snapshot(first)
    report.problems += two_at_once(scenario, scenario.begin(work / f"{scenario.name}-twice"), whole)
    number = 0
    while report.kills.total() < kills and number < 3 * kills:
        number += 1
        folder = scenario.begin(work / f"{scenario.name}-{number}")
        history = []
        for _ in range(min(IN_A_ROW, kills - report.kills.total())):
            one = SIGNALS[report.kills.total() % len(SIGNALS)]  # again, where it came too late
            kill = Kill(one, draw.random() * report.seconds, draw.choice((1, 1, 1, 2)))
            ended = run(scenario, folder, kill)
            history.append(str(kill))
            where = f"round {number} ({', '.join(history)}): "
            wrong = [*filter(None, [ended.wrong(kill.signal)]), *half(folder, whole, scenario)]
            report.problems += [where + text for text in wrong]
            report.said += [line for line in ended.err.splitlines() if line.startswith("interrupted: ")]
            if ended.code == 0:
                report.finished += 1
                report.seconds = min(report.seconds, ended.seconds if len(history) == 1 else report.seconds)
                break
            report.kills[kill.signal.name] += 1
        last = run(scenario, folder)
        found = snapshot(folder)
        where = f"round {number} ({', '.join(history)}), then undisturbed: "
        if last.code or last.wrong(None):
            report.problems.append(f"{where}exit code {last.code}: {last.err[-500:]}")
        differing = [name for name in {**whole, **found} if whole.get(name) != found.get(name)]
        report.problems += [f"{where}{name} {told(name, whole, found)}" for name in differing]
        if not report.problems:
            shutil.rmtree(folder)
    return report


def two_at_once(scenario: Scenario, folder: Path, whole: dict[str, bytes]) -> list[str]:
    """What is wrong when two of the same command start together: one is to work, the other to say who does."""
    errs = [folder.with_suffix(f".err{i}") for i in range(2)]
    pids = [forked(scenario, folder, err) for err in errs]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    fine = [[0, 2], [0, 0], *([[2, 2]] if scenario.script == "sweep.py" else [])]  # of two sweeps each may take cells
    wrong = [] if sorted(codes) in fine else [f"two at once end with {codes}"]
    for code, err, other in zip(codes, errs, reversed(pids), strict=True):
        lines = [line for line in err.read_text().splitlines() if line.startswith(("error: ", "Traceback"))]
        says = (f"process {other} on {socket.gethostname()}", " exists: --resume")  # at work, or finished just before
        if code == 2 and not (len(lines) == 1 and any(words in lines[0] for words in says)):
            wrong.append(f"of two at once one says {lines}")
    found = snapshot(folder)
    return wrong + [
        f"two at once: {n} {told(n, whole, found)}" for n in {**whole, **found} if whole.get(n) != found.get(n)
    ]


def told(name: str, whole: dict[str, bytes], found: dict[str, bytes]) -> str:
    return "is left over" if name not in whole else "is missing" if name not in found else "differs"


def untraced() -> dict[str, str]:
    """The environment of a process that coverage does not look at: a signal to its tracer may leave it locked."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}


def reports(seed: int, kills: int, only: list[str], work: Path) -> list[dict[str, Any]]:
    """The reports of a process of its own, started here."""
    environment = {**untraced(), "HF_HOME": str(work / "hf"), "OMP_NUM_THREADS": "1", "GIT_DIR": "/nowhere"}
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        environment.pop(name, None)
    words = ["--seed", seed, "--kills", kills, "--work", work, *(["--only", *only] if only else [])]
    command = [sys.executable, "-m", "tests.killing", *map(str, words)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr[-2000:]}")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--kills", type=int, default=10, help="of each script")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", nargs="+", default=[], help="names of scripts' scenarios")
    p.add_argument("--work", type=Path, help="a folder for what they make (default: a temporary one)")
    args = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="killing-") as scratch:
        work = args.work or Path(scratch)
        warm()
        with scenarios(work / "given") as found:
            for scenario in found:
                if not args.only or scenario.name in args.only:
                    print(json.dumps(vars(trials(scenario, work, args.seed, args.kills))), flush=True)


if __name__ == "__main__":
    main()
