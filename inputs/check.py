"""`prepare.py check-data`: parse every file of a data folder, record by record."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from core.types import Edit, EditSet, Task


def check(folder: Path, tasks: Iterable[Task], edit_sets: Iterable[EditSet]) -> Iterator[str]:
    """Parse every file under a data folder; one line per file that is well formed, UserError at the first that is not.

    A record of NER is a sentence.
    """
    for edit_set in edit_sets:
        path = folder / edit_set.file
        yield f"{path.name}: {len(edit_set.edits(path, 0, len(edit_set.records(path)), 1))} records ok"
        for path in (folder / name for name in edit_set.training_files):
            usable, total = len(edit_set.training(path)), len(edit_set.records(path))
            skipped = f", {total - usable} without a target skipped" if total > usable else ""
            yield f"{path.name}: {usable} records ok{skipped}"
    for task in tasks:
        yield f"{task.file}: {count(task, folder / 'task-data' / task.file)} records ok"


def count(task: Task, path: Path) -> int:
    """The records of a task's file."""
    return len({sample.record for sample in task.samples(path)})


def counters(tasks: Iterable[Task], edit_sets: Iterable[EditSet]) -> dict[str, Callable[[Path], int]]:
    """File below a data folder -> what counts its records. UserError for a malformed one."""

    def length(read: Callable[[Path], list[Edit]], path: Path) -> int:
        return len(read(path))

    result: dict[str, Callable[[Path], int]] = {}
    for edit_set in edit_sets:
        result[edit_set.file] = partial(length, edit_set.records)
        result |= {file: partial(length, edit_set.training) for file in edit_set.training_files}
    return result | {f"task-data/{task.file}": partial(count, task) for task in tasks}
