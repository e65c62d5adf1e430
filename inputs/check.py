"""`prepare.py check-data`: parse every file of a data folder, record by record."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from core.errors import UserError
from core.types import Edit, EditSet, Task


def check(folder: Path, tasks: Iterable[Task], edit_sets: Iterable[EditSet]) -> Iterator[str]:
    """Parse every file under a data folder; a line per file that is well formed or absent.

    UserError at the first that is neither, or if no file is there. A record of NER is a sentence.
    """
    checks = dict(_checks(tasks, edit_sets))
    if not any((folder / file).exists() for file in checks):
        raise UserError(f"{folder}: expected a data folder, found none of its files, such as {next(iter(checks))}")
    for file, counted in checks.items():
        path = folder / file
        yield f"{path.name}: {counted(path) if path.exists() else 'absent'}"


def _checks(tasks: Iterable[Task], edit_sets: Iterable[EditSet]) -> Iterator[tuple[str, Callable[[Path], str]]]:
    """File below a data folder -> what parses it and says how many records are well formed."""

    def edits(edit_set: EditSet, path: Path) -> str:
        return f"{len(edit_set.edits(path, 0, len(edit_set.records(path)), 1))} records ok"

    def training(edit_set: EditSet, path: Path) -> str:
        usable, total = len(edit_set.training(path)), len(edit_set.records(path))
        return f"{usable} records ok" + (f", {total - usable} without a target skipped" if total > usable else "")

    def samples(task: Task, path: Path) -> str:
        return f"{count(task, path)} records ok"

    for edit_set in edit_sets:
        yield edit_set.file, partial(edits, edit_set)
        yield from ((file, partial(training, edit_set)) for file in edit_set.training_files)
    yield from ((f"task-data/{task.file}", partial(samples, task)) for task in tasks)


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
