"""One run: edit on from number of edits to number of edits (0: as it is), score at each, write the results."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from core import results
from core.disk import lock
from core.disk.whole import clear
from core.errors import Interrupted, UserError
from core.lm.batches import default_budget
from core.lm.likelihood import Asked, Expected
from core.lm.model import LM
from core.provenance import code
from core.results import EditRecord, Result
from core.types import Task
from experiment.course import Course, timed
from experiment.export import exported
from experiment.harness.installed import KIND
from experiment.measures import collapse, unedited
from experiment.measures.asked import questions
from experiment.models import Bench, Models
from experiment.plan import Plan, Wanted
from experiment.scoring import result_of, score_model
from experiment.stopped.checkpoint import Checkpoint
from experiment.stopped.journal import Journal
from experiment.stopped.note import FOLDER, Note


@dataclass(frozen=True)
class Made:
    """A result on the disk, made by this run or (`new` is False) by an earlier one with the same settings."""

    wanted: Wanted
    result: Result
    new: bool


@dataclass(frozen=True)
class Edited:
    """So many edits are in."""

    edits: int
    record: EditRecord


def run(plan: Plan, models: Models | None = None) -> Iterator[Made | Edited]:
    """Make the results that are missing; yields every result as soon as it is on the disk, and when edits are in.

    The model's weights are afterwards, however the run ends, what they were before. Raises UserError, before anything
    slow, if a result is there that was made with other settings or if nothing can be written.
    """
    return _Run(plan, models or Models()).results()


def existing(plan: Plan) -> dict[str, Result]:
    """The results that are there, by their stem. UserError for one that was made with other settings."""
    overwrite = plan.experiment.overwrite
    found = {w.stem: results.existing(w.stem, w.settings, overwrite) for w in plan.wanted}
    return {str(stem): result for stem, result in found.items() if result is not None}


@dataclass
class _Run:
    plan: Plan
    models: Models
    seconds: dict[str, float] = field(default_factory=dict)
    expected: dict[str, list[Expected]] = field(default_factory=dict)
    """By task, what the unedited model expects: drifts are measured from it."""
    collapsed: set[tuple[str, int]] = field(default_factory=set)
    """Task and number of edits of the results that show a broken model."""
    kept: dict[str, str] = field(default_factory=dict)
    """What a signal from now on would leave, in words."""
    done: int = 0
    """How many results are on the disk."""

    def results(self) -> Iterator[Made | Edited]:
        plan, note = self.plan, Note(self.plan)
        results.writable(plan.root)
        unsaved = self._unsaved()  # a folder in the model's place is refused here, before hours of editing
        there = existing(plan)
        earlier = note.file.exists()  # of a run that was stopped
        begun = [
            wanted
            for wanted in plan.wanted
            if str(wanted.stem) not in there or any(wanted.beside(end).exists() for end in ("lock", "journal"))
        ]
        with lock.held(wanted.beside("lock") for wanted in begun):
            try:
                there = existing(plan)  # another run may have made some since
                self._count(len(there))
                for wanted in plan.wanted:
                    if result := there.get(str(wanted.stem)):
                        yield self._made(wanted, result, new=False)
                        if wanted in begun:  # by a run that was killed when it had just written the result
                            wanted.beside("journal").unlink(missing_ok=True)
                            for ending in (".json", ".jsonl"):
                                clear(wanted.stem.with_name(wanted.stem.name + ending))
                absent = [w for w in plan.wanted if str(w.stem) not in there and not self._over(w.edits)]
                if absent or (unsaved and not self._over(plan.wanted[-1].edits)):
                    note.write()
                    yield from self._make(absent, unsaved)
                if plan.schedule:
                    self._checkpoint({}).remove()
                note.remove()
            except UserError:
                if not self.kept and not earlier:  # nothing was begun, so nothing can go on
                    note.remove()
                raise
            except KeyboardInterrupt as signal:
                if not self.kept:
                    raise Interrupted("nothing is done yet; the same command starts again") from signal
                kept = ", ".join(self.kept.values())
                raise Interrupted(f"kept: {kept}; the same command goes on from there") from signal

    def _unsaved(self) -> bool:
        """Whether the edited model is still to be saved."""
        folder = self.plan.schedule.request.save_model if self.plan.schedule else None
        return folder is not None and not exported(folder, self.plan.edited)

    def _make(self, absent: Sequence[Wanted], unsaved: bool) -> Iterator[Made | Edited]:
        plan = self.plan
        with timed(self.seconds, "load"):
            bench = self.models.bench(plan.model, plan.experiment.placement)
        course = Course(plan, bench, self._checkpoint(self._place(bench)), self.seconds) if plan.schedule else None
        try:
            if course:
                self._expect(bench.lm, {wanted.task.name: wanted.task for wanted in absent})
                course.go_on(absent[0].edits if absent else len(course.schedule.edits))
                self._keep(course)
            for count, group in itertools.groupby(absent, key=lambda wanted: wanted.edits):
                if self._over(count):
                    break
                if course:
                    self._advance(course, count)
                with course.scored(count) if course else nullcontext() as record:
                    if record:
                        yield Edited(count, record)
                    for wanted in group:
                        yield self._score(bench, wanted, record)
            if course and unsaved and not self._over(len(course.schedule.edits)):
                self._advance(course, len(course.schedule.edits))
                course.save()
        finally:
            if course:
                course.editing.undo()

    def _expect(self, lm: LM, tasks: Mapping[str, Task]) -> None:
        """Measure what drifts are measured from, before any edit."""
        if "drift" in self.plan.measures:
            with timed(self.seconds, "expect"):
                folder = self.plan.unedited / "expected"
                for name, task in tasks.items():
                    if "drift" not in self.plan.measured(task):
                        continue
                    self.expected[name] = unedited.kept(lm, task, self.plan.samples[name], folder)

    def _advance(self, course: Course, count: int) -> None:
        try:
            course.advance(count)
        finally:
            self._keep(course)

    def _keep(self, course: Course) -> None:
        if course.checkpoint.count:
            self.kept["updates"] = f"{course.checkpoint.count} of {len(course.schedule.updates)} updates"

    def _score(self, bench: Bench, wanted: Wanted, record: EditRecord | None) -> Made:
        """Score one task and write its result; completions are kept on the way."""
        task, samples = wanted.task, self.plan.samples[wanted.task.name]
        budget = self.plan.experiment.batch_tokens
        # Completions of this very result alone: same settings, same code, same batches.
        made_by = [results.without_paths(wanted.settings), self._place(bench), budget, self.plan.measures]
        key = json.dumps(made_by, sort_keys=True)
        journal = Journal(wanted.beside("journal"), hashlib.sha256(key.encode()).hexdigest())
        try:
            with timed(self.seconds, "score"), self._asked(bench.lm, task) as asked:
                scored = score_model(bench.lm, task, samples, budget, journal, asked)
        finally:
            self.kept["completions"] = f"{len(journal)} of {len(samples)} completions of {task.name}"
        environment = {**bench.environment, "batch_tokens": budget or default_budget(bench.lm)}
        result = result_of(task, scored, wanted.settings, environment, dict(self.seconds))
        why = collapse.reason(task, result, bench.lm.vocabulary) if wanted.edits else None
        result = replace(result, edited=record, collapsed=why)
        results.write(wanted.stem, result, scored)
        self._count(self.done + 1)
        del self.kept["completions"]
        journal.remove()
        return self._made(wanted, result, new=True)

    @contextmanager
    def _asked(self, lm: LM, task: Task) -> Iterator[Sequence[Asked]]:
        """What is measured of each sample; what the unedited model expects is kept for those that follow."""
        samples, measures = self.plan.samples[task.name], self.plan.measured(task)
        asked = questions(lm, task, samples, measures, self.expected.get(task.name))
        if "drift" not in measures or task.name in self.expected or self.plan.experiment.batch_tokens:
            yield asked
        else:
            with unedited.noted(lm, task, samples, self.plan.unedited / "expected", asked) as noted:
                yield noted

    def _made(self, wanted: Wanted, result: Result, new: bool) -> Made:
        if result.collapsed:
            self.collapsed.add((wanted.task.name, wanted.edits))
        return Made(wanted, result, new)

    def _over(self, count: int) -> bool:
        """Whether the model is to be edited no further than a smaller number of edits, where no task was left whole.

        A yardstick may have no text to collapse, and has no say.
        """
        by_count: dict[int, list[bool]] = {}
        for wanted in self.plan.wanted:
            if self.plan.sources[wanted.task.name].kind == KIND:
                continue
            by_count.setdefault(wanted.edits, []).append((wanted.task.name, wanted.edits) not in self.collapsed)
        return self.plan.experiment.stop_when_collapsed and any(n < count and not any(by_count[n]) for n in by_count)

    def _place(self, bench: Bench) -> dict[str, Any]:
        """What last digits depend on beside the settings."""
        placement = self.plan.experiment.placement
        return {**bench.environment, "code": code(), "attn": placement.attn, "device_map": placement.device_map}

    def _checkpoint(self, environment: Mapping[str, Any]) -> Checkpoint:
        plan, schedule = self.plan, self.plan.schedule
        assert schedule is not None
        begin, end, step = schedule.settings["range"]
        # Edits of a sequence are those of any longer one, so only what a single batch is made of knows its end.
        ends = [begin, end, step] if schedule.settings["mode"] == "Batch-Single" else [begin, step]
        key = results.without_paths({**plan.edited, "edit": {**schedule.settings, "range": ends}})
        stems = [str(wanted.stem.relative_to(plan.root)) for wanted in plan.wanted]
        return Checkpoint(plan.root / FOLDER, key, environment, stems)

    def _count(self, done: int) -> None:
        self.done = done
        if done:
            self.kept["results"] = f"{done} of {len(self.plan.wanted)} results"
