"""The model on its way through a schedule's edits: edited on, kept on the disk, described for result files."""

import logging
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

logger = logging.getLogger(__name__)


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
            self.before: list[Probe] = bench.answers(self.schedule.updates, checkpoint.before)
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

    @contextmanager
    def scored(self, count: int) -> Iterator[EditRecord]:
        """Inside the block the model is as it is to be scored after the first `count` edits, all of them in.

        Yields what a result says about them. Editing goes on from the weights as they were before the block.
        """
        edited = self.editing.change()
        with self.editing.scored() as restrained:
            record = self._record(count)
            for name in restrained:
                record.change[name]["unrestrained"] = edited[name]["norm"]
            if restrained and not any(restrained.values()):
                rule = self.schedule.settings["regularizer"]["name"]
                logger.info("%s changes nothing after %d edits: their change is within its bounds", rule, count)
            yield record

    def _record(self, count: int) -> EditRecord:
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
        with self.editing.scored():
            export(self.editing.lm, folder, note)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long the block took, under its name."""
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 3)
