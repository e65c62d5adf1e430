"""A long course: 2,000 edits in updates of 100 by methods that remember past ones, how time and memory grow.

The search for z costs every update the same, so it is cut to one step in one template: what grows weighs the more. Then
the same as a command, `test-task-after.py`, killed when one update is left and given again: how long until it edits on.
"""

import argparse
import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil
import yaml

from benchmarks._common import embedded, hparams_file, parser, printed, seconds
from core import folders, hparams
from core.lm.weights import add_
from core.script import positive
from core.types import Edit
from edit_sets.zsre import EDIT_SET
from editors._spread import SpreadEditor
from editors.alphaedit import AlphaEdit
from editors.memit import MEMIT

FACTS = Path("edited-data/zsre.json")
OPENINGS = ("", "So ", "Now ", "Well, ")
"""Before a prompt they make a new edit of it, with other keys: there are fewer facts in the sample than are needed."""


class Way(NamedTuple):
    name: str
    kind: type[SpreadEditor]
    settings: dict[str, Any]


WAYS = {"MEMIT": Way("MEMIT with past keys", MEMIT, {"cache": True}), "AlphaEdit": Way("AlphaEdit", AlphaEdit, {})}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser("long", "Time and memory of a long course.")
    p.add_argument("--methods", nargs="+", choices=WAYS, default=WAYS)
    p.add_argument("--edits", type=positive, default=2000, help="(default: 2000)")
    p.add_argument("--batch", type=positive, default=100, help="edits of an update (default: 100)")
    p.add_argument("--steps", type=positive, default=1, help="of the search for z (default: 1)")
    args = p.parse_args(argv)
    if args.edits <= args.batch:
        p.error(f"--edits: a course has several updates, and {args.edits} edits are one of {args.batch}")
    return args


def run(args: argparse.Namespace | None = None) -> Iterator[str]:
    args = args or arguments([])
    with TemporaryDirectory() as place:
        folder = Path(place)
        edits = many(args.edits, folder / FACTS)
        batches = [edits[i : i + args.batch] for i in range(0, len(edits), args.batch)]
        for method in dict.fromkeys(args.methods):
            lm, (name, kind, settings) = embedded(), WAYS[method]
            hp = hparams.load(kind.hparams, hparams_file(method))
            hp = replace(hp, v_num_grad_steps=args.steps, context_templates=("{}",), **settings)
            yield f"{name}: {course(kind(lm, hp), batches)}"
            words = ["NLI", "Batch-Sequential", method, 0, args.edits, 1, args.batch, "--model", lm.folder]
            yield f"{name}: {resumed(words, hp, len(batches), folder)}"


def many(count: int, file: Path) -> list[Edit]:
    """So many edits, which are written to the file too."""
    facts = json.loads((folders.SAMPLE / FACTS).read_text(encoding="utf-8"))
    records = [{**fact, "src": opening + fact["src"]} for opening in OPENINGS for fact in facts][:count]
    file.parent.mkdir()
    file.write_text(json.dumps(records), encoding="utf-8")
    return EDIT_SET.edits(file, 0, count, 1)


def course(editor: SpreadEditor, batches: list[list[Edit]]) -> str:
    """Updates are applied one after the other, as in a run."""
    process, times, resident, kept = psutil.Process(), list[float](), list[float](), list[float]()

    def update(batch: list[Edit]) -> None:
        add_(editor.lm.model, editor.deltas(batch)[0])
        editor.applied(batch)

    for batch in batches:
        times.append(seconds(lambda batch=batch: update(batch)))
        given_back()
        resident.append(process.memory_info().rss / 1e6)
        kept.append(sum(t.numel() * t.element_size() for t in editor.state().values()) / 1e6)
    last = max(1, len(times) // 10)
    first, end = times[0], statistics.median(times[-last:])
    grown, keys = resident[-1] - resident[1], kept[-1] - kept[1]
    return (
        f"{len(batches)} updates of {len(batches[0])}, the first {first:.1f} s, the last {last} {end:.1f} s: "
        f"{end / first:.2f}x; kept keys {kept[-1]:.0f} MB, memory since the second update {grown:+.0f} MB, "
        f"{keys:.0f} of them keys"
    )


def given_back() -> None:
    """Let the system have what is free, so that what is resident is held by something; glibc keeps it for itself."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def resumed(words: list[Any], hp: Any, updates: int, folder: Path) -> str:
    """How long the command takes to go on. Of its results none is made."""
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(hp)))), encoding="utf-8")
    places = ["--data", folder, "--hparams", settings, "--results", folder / words[2]]
    command = [sys.executable, "test-task-after.py", *map(str, [*words, *places, "--limit", 1, "--save-every", 0])]
    until(command, updates - 1, updates)
    left = seconds(lambda: until(command, 0, 1))
    return f"killed after {updates - 1} updates, given again it edits on after {left:.1f} s"


def until(command: list[str], done: int, of: int) -> None:
    """Kill the command when its progress bar says how far it is."""
    every = {**os.environ, "TQDM_MININTERVAL": "0"}  # it would else leave updates out that are fast
    pipes: Any = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "bufsize": 0}
    with subprocess.Popen(command, env=every, **pipes) as process:
        assert process.stderr
        told = ""
        while not re.search(rf"editing with [^\r\n]* {done}/{of} \[", told):
            more = process.stderr.read(1 << 16)
            if not more:
                raise RuntimeError(f"ended before {done} of {of} updates were in: {told}")
            told += more.decode(errors="replace")
        process.kill()


if __name__ == "__main__":
    printed(lambda: run(arguments()))
