"""Which edit set a file of facts is for: told by the keys of its first record."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core import readers
from core.errors import UserError
from core.types import Edit, EditSet


def recognised(path: Path, sets: Sequence[EditSet]) -> EditSet:
    """The edit set that knows the most keys of the file's first record; several that do have to read the same edits.

    A file that none of them knows so is for the first that can read it, those that share keys with it or whose own
    file ends alike before the others. UserError if none can (what the first of them says), or if nothing decides.
    """
    record = first_record(path)
    best = max(edit_set.knows(record) for edit_set in sets)
    if best:
        return _agreeing(path, [edit_set for edit_set in sets if edit_set.knows(record) == best])
    likely = sorted(sets, key=lambda one: (-_shared(one, record), Path(one.file).suffix != path.suffix))
    return next(iter(_readings(path, likely, enough=1)))


def first_record(path: Path) -> dict[str, Any]:
    """The first object of a JSON list, or of a file with one object a line; {} of any other file."""
    text = readers.read_text(path).lstrip().removeprefix("[").lstrip()
    try:
        record = json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _agreeing(path: Path, alike: Sequence[EditSet]) -> EditSet:
    """The first of those that can read the file, if all of them read the same."""
    if len(alike) == 1:
        return alike[0]  # what is wrong with a record is said where it is read
    readings = _readings(path, alike, enough=len(alike))
    chosen, *others = readings
    if any(readings[other] != readings[chosen] for other in others):
        found = " or ".join(edit_set.name for edit_set in readings)
        raise UserError(f"{path}: its records can be read as {found}: --edit-format NAME says as which")
    return chosen


def _readings(path: Path, sets: Sequence[EditSet], enough: int) -> dict[EditSet, list[Edit]]:
    """What the first `enough` edit sets that can read the file make of it. UserError, the first one's, if none can."""
    readings: dict[EditSet, list[Edit]] = {}
    errors = []
    for edit_set in sets:
        if len(readings) < enough:
            try:
                readings[edit_set] = edit_set.records(path)
            except UserError as error:
                errors.append(error)
    if not readings:
        raise errors[0]
    return readings


def _shared(edit_set: EditSet, record: Mapping[str, Any]) -> int:
    """How many of a format's keys a record has."""
    return sum(key.split(".")[0] in record for key in edit_set.keys.values())
