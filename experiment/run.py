"""One run of a script: what was asked for, resolved and checked before anything slow, then results written."""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from core import provenance, published, results
from core.disk import lock
from core.disk.whole import clear
from core.errors import Interrupted
from core.lm.model import LM, hash_folder, load
from core.registry import pick
from core.types import Task
from experiment.journal import Journal
from experiment.scoring import limited, result_of, score_model
from inputs.sources import default_model, find_data, find_model


@dataclass(frozen=True)
class Wanted:
    """A result to be made: of which task, after which edits (None: none). `edit` is that part of its settings."""

    task: Task
    plan: results.EditPlan | None = None
    edit: dict[str, Any] | None = None


class Session:
    """The model scored as it is. Making a session reads all data and settles which model is meant."""

    def __init__(self, args: argparse.Namespace, tasks: Mapping[str, Task]) -> None:
        self.args = args
        names = list(tasks) if args.task == "all" else args.task.split(",")
        self.tasks = [pick("task", name, {**tasks}) for name in names]
        self.sources = {task.name: find_data(f"task-data/{task.file}", args.data) for task in self.tasks}
        self.samples = {t.name: limited(list(t.samples(self.sources[t.name].path)), args.limit) for t in self.tasks}
        self.made = 0
        self.seconds: dict[str, float] = {}
        self.environment: dict[str, Any] = {}
        self.kept: dict[str, str] = {}
        self.model_name, self.folder = find_model(args.model)
        self.model_sha256 = hash_folder(self.folder)
        self.root = args.results / ("" if self.model_name == default_model() else self.model_name)
        results.writable(self.root)
        torch.manual_seed(args.seed)

    def run(self) -> Iterator[Path]:
        """Make what is missing; yields each result's path without its ending, once it is on the disk."""
        missing = self.missing()
        killed = [w for w in self.wanted() if any(self.beside(w, e).exists() for e in ("lock", "journal"))]
        begun = [wanted for wanted in self.wanted() if wanted in missing or wanted in killed]
        with lock.held(self.beside(wanted, "lock") for wanted in begun):
            try:
                missing = self.missing(tell=True)
                self._note(len(self.wanted()) - len(missing))
                for wanted in begun:
                    if wanted not in missing:  # killed when its result was just written
                        self.beside(wanted, "journal").unlink(missing_ok=True)
                        clear(self.stem(wanted))
                yield from self.make(missing)
            except KeyboardInterrupt as signal:
                kept = f"kept: {', '.join(self.kept.values())}" if self.kept else "nothing is done yet"
                raise Interrupted(f"{kept}; the same command goes on from there") from signal

    def make(self, missing: Sequence[Wanted]) -> Iterator[Path]:
        if missing:
            lm = self.load()
            for wanted in missing:
                yield self.score(lm, wanted, None)

    def wanted(self) -> list[Wanted]:
        return [Wanted(task) for task in self.tasks]

    def missing(self, tell: bool = False) -> list[Wanted]:
        """What does not exist yet; with `tell` what does is shown. UserError for one made with other settings."""
        missing = []
        for wanted in self.wanted():
            found = results.existing(self.stem(wanted), self.settings(wanted), self.args.overwrite)
            if found is None:
                missing.append(wanted)
            elif tell:
                print(f"\n{wanted.task.name}: already there, made with the same settings")
                show(self.stem(wanted), found)
        return missing

    def load(self) -> LM:
        args = self.args
        with self.timed("load"):
            lm = load(self.folder, self.model_name, args.device, args.dtype, device_map=args.device_map, attn=args.attn)
        self.environment = provenance.environment(str(lm.device))
        return lm

    def timed(self, stage: str) -> "Stopwatch":
        return Stopwatch(self.seconds, stage)

    def stem(self, wanted: Wanted) -> Path:
        return results.stem(self.root, wanted.task.name, wanted.plan)

    def settings(self, wanted: Wanted) -> dict[str, Any]:
        """What decides a result's numbers; two runs with equal settings give the same result."""
        return {
            "task": wanted.task.name,
            "model": {"name": self.model_name, "sha256": self.model_sha256, "dtype": self.args.dtype},
            "data": self.sources[wanted.task.name].describe(),
            "limit": self.args.limit,
            "seed": self.args.seed,
            "edit": wanted.edit,
        }

    def score(self, lm: LM, wanted: Wanted, edited: results.EditRecord | None) -> Path:
        """Score one task and write its result."""
        task, path = wanted.task, self.stem(wanted)
        journal = self._journal(wanted)
        try:
            with self.timed("score") as watch:
                scored = score_model(lm, task, self.samples[task.name], self.args.batch_tokens, journal)
        finally:
            self.kept["completions"] = f"{len(journal)} of {len(self.samples[task.name])} completions of {task.name}"
        seconds = {**self.seconds, "score": watch.seconds}
        result = result_of(task, scored, self.settings(wanted), self.environment, seconds)
        result = replace(result, edited=edited)
        results.write(path, result, scored)
        self._note(self.made + 1)
        del self.kept["completions"]
        journal.remove()
        print(f"\n{task.name}: {result.n} records from {self.sources[task.name].path}")
        show(path, result)
        return path

    def _journal(self, wanted: Wanted) -> Journal:
        """Completions of this very result, left by a run that was stopped: same settings, same code."""
        key = json.dumps([self.settings(wanted), self.environment, self.args.batch_tokens], sort_keys=True)
        return Journal(self.beside(wanted, "journal"), hashlib.sha256(key.encode()).hexdigest())

    def _note(self, made: int) -> None:
        """What a signal from now on would leave."""
        self.made = made
        if made:
            self.kept["results"] = f"{made} of {len(self.wanted())} results"

    def beside(self, wanted: Wanted, ending: str) -> Path:
        """A hidden file of a run at work, beside the result."""
        stem = self.stem(wanted)
        return stem.with_name(f".{stem.name}.{ending}")


class Stopwatch:
    """`with Stopwatch(seconds, "stage")` notes how long the block took."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.into, self.stage, self.seconds = seconds, stage, 0.0

    def __enter__(self) -> "Stopwatch":
        self.start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = self.into[self.stage] = round(time.perf_counter() - self.start, 3)


def show(path: Path, result: results.Result) -> None:
    print(results.table(result.metrics, result.n))
    if result.published:
        print(published.line(result.published))
    for kind, count in result.degenerate.items():
        if count > result.completions / 2:
            print(f"collapsed: {count} of {result.completions} completions are {kind.replace('_', ' ')}")
    print(f"-> {path}.json\n-> {path}.jsonl", flush=True)
