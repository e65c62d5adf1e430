"""Long runs of what the tests do briefly: python -m tests.soak [--rounds N] [--cases N]. `make soak` does all of it.

Kills the scripts at moments drawn anew, and runs the property tests on cases drawn anew. Ends with exit code 1 if
anything was wrong; says how to repeat it.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests import killing
from tests.conftest import ROOT

SCRIPTS = ("test-task", "ROME", "MEMIT", "MEND", "train_MEND", "prepare model", "prepare data", "sweep")
EACH = 5
"""Kills in one round of one script."""


def kills(rounds: int, seed: int) -> int:
    """Rounds of kill, resume, kill ... of a script drawn each time; returns how many problems there were."""
    draw, seen, problems = random.Random(seed), Counter[str](), 0
    for number in range(rounds):
        name, own = draw.choice(SCRIPTS), draw.randrange(1 << 32)
        with tempfile.TemporaryDirectory(prefix="soak-") as work:
            (report,) = killing.reports(own, EACH, [name], Path(work))
        seen += Counter({f"{name}, {kind}": count for kind, count in report["kills"].items()})
        seen[f"{name}, ended before the kill"] += report["finished"]
        for problem in report["problems"]:
            print(
                f"{name}: {problem}\n  python -m tests.killing --seed {own} --kills {EACH} --only '{name}'", flush=True
            )
        problems += len(report["problems"])
        print(
            f"round {number + 1} of {rounds}: {name}, {len(report['problems'])} problems", file=sys.stderr, flush=True
        )
    for what, count in sorted(seen.items()):
        print(f"{count:6d}  {what}")
    print(f"{problems:6d}  problems in {rounds} rounds, seed {seed}", flush=True)
    return problems


def cases(count: int) -> int:
    """The property tests on `count` cases; returns pytest's exit code."""
    files = sorted(map(str, Path(ROOT, "tests").glob("test_hostile_*.py")))
    command = [sys.executable, "-m", "pytest", *files, "tests/test_undo.py"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "HOSTILE_CASES": str(count)}, check=False).returncode


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=200, help="of kill and resume (default: 200)")
    p.add_argument("--cases", type=int, default=20_000, help="of the property tests; 0: none (default: 20000)")
    p.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the kills")
    args = p.parse_args()
    wrong = kills(args.rounds, args.seed)
    sys.exit(bool(wrong) | bool(args.cases and cases(args.cases)))


if __name__ == "__main__":
    main()
