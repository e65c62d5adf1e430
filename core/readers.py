"""Readers of the data files. Whatever is malformed is a UserError of one line: where it is and what was expected.

A reader yields `(where, record)`; `where` ("path:line" or "path: record 3", counted from 0) goes into the messages of
`field` and `strings`, so that a task can check a record's keys without knowing which file it came from.

Differs from the released code: dialogue files are parsed as literals, never `eval`ed; NLI and SST-2 are unquoted TSV;
"-DOCSTART-" is no sentence.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from core.disk.digest import natural
from core.errors import UserError
from core.messages import short

T = TypeVar("T")
Record = dict[str, Any]

LITERAL_LIMIT = 100_000
"""Characters of a dialogue file at most: parsing a longer literal could exhaust memory or the stack."""

_JSON_NAMES: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def read_text(path: Path) -> str:
    """The file's text, a byte order mark dropped. UserError if it is missing, no file, empty or not UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: expected UTF-8 text") from None
    if not text.strip():
        raise UserError(f"{path}: expected records, the file is empty")
    return text


def lines(path: Path) -> Iterator[tuple[str, str]]:
    r"""(where, line) of every line. Ends at "\n" or "\r\n" only: splitlines would also cut at U+2028 inside a text."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        yield f"{path}:{number}", line.removesuffix("\r")


def jsonl(path: Path) -> Iterator[tuple[str, Record]]:
    """One JSON object a line; blank lines are skipped."""
    for where, line in lines(path):
        if line.strip():
            yield where, _object(_json(line, path, int(where.rpartition(":")[2])), where)


def json_list(path: Path) -> Iterator[tuple[str, Record]]:
    """A JSON list of objects."""
    records = _json(read_text(path), path)
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: expected a list of records, got {short(records)}")
    for index, record in enumerate(records):
        where = f"{path}: record {index}"
        yield where, _object(record, where)


def tsv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Unquoted tab-separated values below a header that names at least `columns`; blank lines are skipped."""
    rows = lines(path)
    where, line = next(rows)
    header = line.split("\t")
    if missing := [column for column in columns if column not in header]:
        raise UserError(f"{where}: expected a header with column {missing[0]!r}, got {short(line)}")
    body = [(where, line.split("\t")) for where, line in rows if line.strip()]
    if not body:
        raise UserError(f"{path}: expected records below the header")
    for where, cells in body:
        if len(cells) != len(header):
            raise UserError(f"{where}: expected {len(header)} tab-separated columns, got {len(cells)}")
        yield where, dict(zip(header, cells, strict=True))


def conll(path: Path, types: Sequence[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """(where, tokens, IOB2 tags) of every sentence: 4 columns, a blank line between sentences, no -DOCSTART- lines."""
    rows = [(where, [] if line.startswith("-DOCSTART-") else line.split()) for where, line in lines(path)]
    if not any(columns for _, columns in rows):
        raise UserError(f"{path}: expected sentences, found none")
    start = ""
    tokens: list[str] = []
    tags = ["O"]  # with the one before the sentence, so that every tag has one before it
    for where, columns in [*rows, ("", [])]:
        if columns:
            start = start if tokens else where
            tags.append(_iob2(columns, tags[-1], types, where))
            tokens.append(columns[0])
        elif tokens:
            yield start, tokens, tags[1:]
            tokens, tags = [], ["O"]


def dialogues(folder: Path) -> Iterator[tuple[Path, Record]]:
    """The dict in each dev_<i>.txt of the folder, in the order of i: JSON or a Python literal, never evaluated."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths = [path for path in folder.iterdir() if re.fullmatch(r"dev_[0-9]+\.txt", path.name)]
    if not paths:
        raise UserError(f"{folder}: expected files dev_<i>.txt, found none")
    for path in sorted(paths, key=natural):
        text = read_text(path)
        if len(text) > LITERAL_LIMIT:
            raise UserError(f"{path}: expected at most {LITERAL_LIMIT} characters, got {len(text)}")
        yield path, _object(_literal(text, path), str(path))


def field(record: Mapping[str, Any], key: str, kind: type[T], where: str) -> T:
    """record[key], a `kind`. UserError if the key is missing or its value is of another type."""
    if key not in record:
        raise UserError(f"{where}: expected the key {key!r}")
    value = record[key]
    if not isinstance(value, kind):
        raise UserError(f"{where}: expected {_JSON_NAMES.get(kind, kind.__name__)} in {key!r}, got {short(value)}")
    if isinstance(value, str):
        _whole(value, key, where)
    return value


def strings(record: Mapping[str, Any], key: str, where: str, count: int | None = None) -> list[str]:
    """record[key], a list of `count` strings (None: of at least one)."""
    values = field(record, key, list, where)
    enough = len(values) == count if count else len(values) > 0
    if not enough or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: expected a list of {count or 'one or more'} strings in {key!r}, got {short(values)}")
    for value in values:
        _whole(value, key, where)
    return values


def label(value: str, labels: Mapping[str, str], where: str) -> str:
    """labels[value]. UserError if the value is none of the labels."""
    if value not in labels:
        raise UserError(f"{where}: expected a label among {', '.join(labels)}, got {short(value)}")
    return labels[value]


def sample_id(value: str, seen: set[str], where: str) -> str:
    """The data's own id as a sample's id (without "/", which is kept for groups). Adds it to `seen`; no doubles."""
    name = value.replace("/", "_")
    if not name or name in seen:
        raise UserError(f"{where}: expected an id of its own, got {short(value)}")
    seen.add(name)
    return name


def _iob2(columns: list[str], before: str, types: Sequence[str], where: str) -> str:
    """The entity tag of a CoNLL line, checked against the tag before it."""
    if len(columns) != 4:
        raise UserError(f"{where}: expected 4 columns (token, part of speech, chunk, entity), got {len(columns)}")
    tag = columns[3]
    prefix, _, kind = tag.partition("-")
    if tag != "O" and (prefix not in ("B", "I") or kind not in types):
        raise UserError(
            f"{where}: expected the entity tag O, B-X or I-X with X in {', '.join(types)}, got {short(tag)}"
        )
    if prefix == "I" and before not in (f"B-{kind}", tag):
        raise UserError(f"{where}: expected IOB2, where {tag} follows B-{kind} or {tag}, got it after {before}")
    return tag


def _json(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}:{line}: expected JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists nested too deep
        raise UserError(f"{path}:{first_line}: expected JSON ({error})") from None


def _literal(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # single quotes: a Python literal
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's opinion of "\d" inside a string
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{path}: expected one dict as JSON or as a Python literal") from None


def _whole(text: str, key: str, where: str) -> None:
    r"""UserError for half of a surrogate pair ("\ud83d" without its "\ude00"): no file could hold it later."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise UserError(f"{where}: expected whole characters in {key!r}, got half of one, {half}") from None


def _object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object with keys, got {short(value)}")
    return value
