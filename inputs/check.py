"""`prepare.py check-data`: parse every file of a data folder, record by record."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from core import readers
from core.types import Task

ZSRE = "edited-data/zsre.json"
TRAINING = ("training-data/zsre_mend_train.json", "training-data/zsre_mend_eval.json")


def check(folder: Path, tasks: Iterable[Task]) -> Iterator[str]:
    """Parse every file under a data folder; one line per file that is well formed, UserError at the first that is not.

    A record of NER is a sentence (its samples share what stands before "/" in their ids).
    """
    zsre = folder / ZSRE
    yield f"{zsre.name}: {len(readers.edits(zsre, 0, len(readers.edit_records(zsre)), 1))} records ok"
    for path in (folder / name for name in TRAINING):
        used, total = len(readers.training(path)), len(readers.edit_records(path))
        yield f"{path.name}: {used} records ok" + (f", {total - used} without a target skipped" if total > used else "")
    for task in tasks:
        yield f"{task.file}: {count(task, folder / 'task-data' / task.file)} records ok"


def count(task: Task, path: Path) -> int:
    """The records of a task's file."""
    return len({sample.id.rsplit("/", 1)[0] for sample in task.samples(path)})
