"""Values of a record, one or several, under dotted keys such as "requested_rewrite.target_new.str" or "answers.0".

Whatever is malformed is a UserError of one line: file, record, field.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core import readers
from core.errors import UserError
from core.messages import short
from core.readers import Record, field


def json_records(path: Path) -> Iterator[tuple[str, Record]]:
    """(where, record) of a JSON list of objects, or of one object a line."""
    return readers.json_list(path) if readers.read_text(path).lstrip().startswith("[") else readers.jsonl(path)


def at(record: Mapping[str, Any], key: str) -> Any:
    """What stands there; None if nothing does."""
    value: Any = record
    for part in [key] if key in record else key.split("."):
        if isinstance(value, list) and part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return value


def text(record: Mapping[str, Any], key: str, where: str) -> str:
    """The string there."""
    value = at(record, key)
    return field({} if value is None and key not in record else {key: value}, key, str, where)


def texts(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The string there, or the strings of a list (or of lists in a list); () if nothing is there."""
    return tuple(_flat(at(record, key), key, where))


def _flat(value: Any, key: str, where: str, depth: int = 2) -> Iterator[str]:
    if isinstance(value, list) and depth:
        for index, part in enumerate(value):
            yield from _flat(part, f"{key}.{index}", where, depth - 1)
    elif value is not None:
        yield field({key: value}, key, str, where)


def label(record: Mapping[str, Any], key: str, where: str) -> str:
    """A name or a number that the file gives a record."""
    value = at(record, key)
    return str(value) if type(value) is int and abs(value) < 10**18 else field({key: value}, key, str, where)


def objects(values: Any, where: str) -> Iterator[tuple[str, Record]]:
    """(where, object) of each of a list."""
    if not isinstance(values, list):
        raise UserError(f"{where}: expected a list of objects, got {short(values)}")
    for index, value in enumerate(values):
        place = f"{where}.{index}"
        if not isinstance(value, dict):
            raise UserError(f"{place}: expected an object with keys, got {short(value)}")
        yield place, value
