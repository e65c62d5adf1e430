"""One run of a script: what was asked for, resolved and checked before anything slow, then results written."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core import published, results
from core.model import LM, hash_folder, load
from core.registry import pick
from core.run import limited, score_model
from core.sources import default_model, find_data, find_model
from core.types import Task


class Session:
    """The common part of both scripts. Making one reads all data and settles which model is meant."""

    def __init__(self, args: argparse.Namespace, tasks: Mapping[str, Task]) -> None:
        self.args = args
        chosen = list(tasks.values()) if args.task == "all" else [pick("task", args.task, {**tasks})]
        self.sources = {task.name: find_data(f"task-data/{task.file}", args.data) for task in chosen}
        self.samples = {t.name: limited(list(t.samples(self.sources[t.name].path)), args.limit) for t in chosen}
        self.tasks = chosen
        self.seconds: dict[str, float] = {}
        self.model_name, self.folder = find_model(args.model)
        self.model_sha256 = hash_folder(self.folder)
        self.root = args.results / ("" if self.model_name == default_model() else self.model_name)
        results.writable(self.root)
        torch.manual_seed(args.seed)

    def load(self) -> LM:
        with self.timed("load"):
            return load(self.folder, self.model_name, self.args.device, self.args.dtype)

    def timed(self, stage: str) -> "Stopwatch":
        return Stopwatch(self.seconds, stage)

    def settings(self, task: Task, edit: dict[str, Any] | None) -> dict[str, Any]:
        """What decides a result's numbers; two runs with equal settings give the same result."""
        return {
            "task": task.name,
            "model": {"name": self.model_name, "sha256": self.model_sha256, "dtype": self.args.dtype},
            "data": self.sources[task.name].describe(),
            "limit": self.args.limit,
            "seed": self.args.seed,
            "edit": edit,
        }

    def todo(self, plan: results.EditPlan | None, edit: dict[str, Any] | None) -> list[Task]:
        """The tasks whose results do not exist yet; those that do are shown."""
        missing = []
        for task in self.tasks:
            path = results.stem(self.root, task.name, plan)
            found = results.existing(path, self.settings(task, edit), self.args.overwrite)
            if found is None:
                missing.append(task)
            else:
                print(f"\n{task.name}: already there, made with the same settings")
                show(path, found)
        return missing

    def score(self, lm: LM, task: Task, plan: results.EditPlan | None, edit: Any, extra: dict[str, Any]) -> None:
        """Score one task and write its result."""
        with self.timed("score") as watch:
            scored = score_model(lm, task, self.samples[task.name], self.args.batch_tokens)
        metrics = task.summarize(scored)
        result = {
            "task": task.name,
            "headline": next(iter(metrics)),
            "metrics": {name: asdict(measure) for name, measure in metrics.items()},
            "n": len({sample.id.rsplit("/", 1)[0] for sample, _, _ in scored}),
            "completions": len(scored),
            "truncated": sum(completion.truncated for _, completion, _ in scored),
            "published": published.beside(self.settings(task, edit)),
            **extra,
            "settings": self.settings(task, edit),
            "environment": results.environment(str(lm.device)),
            "seconds": {**self.seconds, "score": watch.seconds},
        }
        path = results.stem(self.root, task.name, plan)
        results.write(path, result, scored)
        print(f"\n{task.name}: {result['n']} records from {self.sources[task.name].path}")
        show(path, result)


class Stopwatch:
    """`with Stopwatch(seconds, "stage")` notes how long the block took."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.into, self.stage, self.seconds = seconds, stage, 0.0

    def __enter__(self) -> "Stopwatch":
        self.start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = self.into[self.stage] = round(time.perf_counter() - self.start, 3)


def show(path: Path, result: dict[str, Any]) -> None:
    print(results.table(result["metrics"], result["n"]))
    if result.get("published"):
        print(published.line(result["published"]))
    print(f"-> {path}.json\n-> {path}.jsonl", flush=True)
