"""The model on its way through a schedule's edits: edited on, kept on the disk, described for result files."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from tqdm import tqdm

from core.results import EditRecord
from experiment import quality
from experiment.editing import Editing, Rules
from experiment.export import export
from experiment.models import Bench
from experiment.plan import Plan, Schedule
from experiment.quality import Probe
from experiment.stopped.checkpoint import Checkpoint


class Course:
    """Edits accumulate: the model is edited on from one number of edits to the next, never again from the start."""

    def __init__(self, plan: Plan, bench: Bench, checkpoint: Checkpoint, seconds: dict[str, float]) -> None:
        assert plan.schedule is not None
        self.plan, self.bench, self.checkpoint, self.seconds = plan, bench, checkpoint, seconds
        self.schedule: Schedule = plan.schedule
        request, seed = self.schedule.request, plan.experiment.effective_seed
        with timed(seconds, "prepare"):
            editor = bench.editor(self.schedule.editor, self.schedule.hp, seed, self.schedule.settings["files"])
        with timed(seconds, "probe before"):
            self.before: list[Probe] = bench.answers(self.schedule.updates)
        rules = Rules(self.schedule.regularizer, seed, request.max_update, request.on_error == "skip")
        self.editing = Editing(bench.lm, editor, rules)

    def go_on(self, count: int) -> None:
        """Take up those of the first `count` edits that a stopped run has left."""
        self.checkpoint.read(self.editing, self.schedule.updates_until(count))

    def advance(self, count: int) -> None:
        """Edit on until `count` edits are in, keeping them now and then."""
        editing, start, last = self.editing, self.editing.position, time.monotonic()
        todo = self.schedule.updates_until(count)[start:]
        if not todo:
            return
        try:
            for batch in tqdm(todo, desc=f"editing with {self.schedule.editor.name}", unit="update"):
                editing.step(batch)
                if time.monotonic() - last > self.schedule.request.save_every:
                    self.checkpoint.write(editing)
                    last = time.monotonic()
        finally:
            if editing.whole and editing.position > start:
                self.checkpoint.write(editing)

    def record(self, count: int) -> EditRecord:
        """What a result says about the first `count` edits, all of them in."""
        editing, edits = self.editing, self.schedule.edits[:count]
        self.seconds["edit"] = round(editing.seconds, 3)
        with timed(self.seconds, "probe after"):
            after = quality.probe(editing.lm, edits)
        stages = {"before": self.before[:count], "own": editing.own, "after": after}
        return EditRecord(
            quality=quality.summarize(*stages.values()),
            change=editing.change(),
            refused=list(editing.refused),
            updates=[asdict(update) for update in editing.updates],
            edits=quality.records(edits, stages),
        )

    def save(self) -> None:
        """The edited model as a Hugging Face folder."""
        folder = self.schedule.request.save_model
        assert folder is not None
        note = {"settings": self.plan.edited, "refused": self.editing.refused, "environment": self.bench.environment}
        export(self.editing.lm, folder, note)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long the block took, under its name."""
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 3)
