"""How long a grid will take: its first records and its first updates are timed, and the rest is multiplied out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from tqdm import tqdm

from core.types import Task
from experiment.asked import Experiment
from experiment.course import timed
from experiment.editing import Editing, Rules
from experiment.measures.asked import questions
from experiment.models import Bench, Models
from experiment.plan import Plan, Schedule, resolve
from experiment.quality import probe
from experiment.run import existing
from experiment.scoring import score_model

RECORDS = 4
"""Of each task that are timed."""


@dataclass
class Paces:
    """Seconds of what has been timed once."""

    models: Models
    samples: dict[tuple[Any, ...], float] = field(default_factory=dict)
    """(Task, measures, model, placement) -> completing, judging and measuring one sample."""
    edits: dict[tuple[Any, ...], float] = field(default_factory=dict)
    """(Method, edits of an update, settings, model, placement) -> one edit's share of an update, and its probes."""

    def sample(self, plan: Plan, bench: Bench, task: Task) -> float:
        key = (task.name, plan.measured(task), plan.model, plan.experiment.placement)
        if key not in self.samples:
            some, took = plan.samples[task.name][:RECORDS], dict[str, float]()
            asked = questions(bench.lm, task, some, plan.measured(task))
            with timed(took, "score"):
                score_model(bench.lm, task, some, plan.experiment.batch_tokens, asked=asked)
            self.samples[key] = took["score"] / len(some)
        return self.samples[key]

    def edit(self, plan: Plan, bench: Bench, schedule: Schedule) -> float:
        batch, seed = schedule.updates[0], plan.experiment.effective_seed
        key = (schedule.editor.name, len(batch), schedule.hp, plan.model, plan.experiment.placement)
        if key not in self.edits:
            took: dict[str, float] = {}
            editor = bench.editor(schedule.editor, schedule.hp, seed, schedule.settings["files"])
            editing = Editing(bench.lm, editor, Rules(schedule.regularizer, seed, skip=True))
            try:
                with timed(took, "probe"):
                    probe(bench.lm, batch)  # before the edits; as often again at the end
                with timed(took, "update"):
                    editing.step(batch)
            finally:
                editing.undo()
            self.edits[key] = (took["update"] + 2 * took["probe"]) / len(batch)
        return self.edits[key]


def estimate(cells: Sequence[Experiment]) -> Iterator[str]:
    """Lines on what the cells would take one after the other: what is there already takes nothing.

    Models are loaded, and second moments and the like are collected, which the cells find then. Raises UserError for a
    cell that cannot be run.
    """
    models, total, updates, results = Models(), 0.0, 0, 0
    paces = Paces(models)
    for cell in tqdm(cells, desc="timing", unit="cell"):
        plan = resolve(cell, models)
        there = existing(plan)
        absent = [wanted for wanted in plan.wanted if str(wanted.stem) not in there]
        if not absent:
            continue
        bench = models.bench(plan.model, plan.experiment.placement)
        results += len(absent)
        total += sum(len(plan.samples[w.task.name]) * paces.sample(plan, bench, w.task) for w in absent)
        if plan.schedule:
            count = absent[-1].edits
            updates += len(plan.schedule.updates_until(count))
            total += count * paces.edit(plan, bench, plan.schedule)
    yield f"{results} results to make, {updates} updates: about {spoken(total)} here, one cell after the other"
    for (task, *_), pace in paces.samples.items():
        yield f"{pace:9.2f} s a sample of {task}"
    for (method, size, *_), pace in paces.edits.items():
        yield f"{pace:9.2f} s an edit of {method}, {size} an update"


def spoken(seconds: float) -> str:
    """As one says it: "40 minutes", "3.5 hours"."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} hours"
    minutes = ceil(seconds / 60)
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
