"""Rows of the public data sets to the text of the released files: pure functions, one per format.

And AlphaEdit's pickled data as JSON, without running what a pickle may ask to be run.

A row is a dict with the columns of the hub's data set, label names in place of label numbers where the table of
inputs/official.py asks for them. Where the rows are those of the released file, so are the bytes; CoNLL excepted, which
has lost its -DOCSTART- lines on the hub (readers skip them).
"""

import io
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from core.messages import short

Row = Mapping[str, Any]
Converter = Callable[[Iterable[Row]], str]

MISSING_RTE = 2164
"""The one row of RTE's train split that the released file lacks."""


def reasoning(rows: Iterable[Row]) -> str:
    """GSM8K: one JSON object a line, ASCII."""
    return "".join(json.dumps({"question": r["question"], "answer": r["answer"]}) + "\n" for r in rows)


def closed_domain_qa(rows: Iterable[Row]) -> str:
    """BoolQ: one JSON object a line, UTF-8; the title only where the source has it."""
    keys = ("question", "title", "answer", "passage")
    return "".join(json.dumps({k: r[k] for k in keys if k in r}, ensure_ascii=False) + "\n" for r in rows)


def nli(rows: Iterable[Row]) -> str:
    """RTE: unquoted TSV, without the row that the released file lacks."""
    kept = ([str(r["idx"]), r["sentence1"], r["sentence2"], r["label"]] for r in rows if r["idx"] != MISSING_RTE)
    return _tsv(["index", "sentence1", "sentence2", "label"], kept)


def sentiment(rows: Iterable[Row]) -> str:
    """SST-2: unquoted TSV, the label a digit."""
    return _tsv(["sentence", "label"], ([r["sentence"], str(r["label"])] for r in rows))


def summarization(rows: Iterable[Row]) -> str:
    """SAMSum: a JSON list."""
    records = [{"id": str(r["id"]), "summary": r["summary"], "dialogue": r["dialogue"]} for r in rows]
    return json.dumps(records, indent=2, ensure_ascii=False)


def ner(rows: Iterable[Row]) -> str:
    """CoNLL-2003: token, part of speech, chunk, IOB2 entity tag; a blank line after each sentence."""
    parts = []
    for index, row in enumerate(rows):
        columns = [row[name] for name in ("tokens", "pos_tags", "chunk_tags", "ner_tags")]
        if len({len(column) for column in columns}) != 1:
            raise UserError(f"sentence {index}: expected as many tags as tokens")
        parts += [" ".join(cells) + "\n" for cells in zip(*columns, strict=True)] + ["\n"]
    return "".join(parts)


def _tsv(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["\t".join(header)]
    for index, cells in enumerate(rows):
        if any(mark in cell for cell in cells for mark in "\t\n\r"):
            raise UserError(f"row {index}: a tab or line break inside a cell, which an unquoted TSV cannot hold")
        lines.append("\t".join(cells))
    return "\n".join(lines) + "\n"


EXAMPLES, TESTS = 10, 100
"""Rows that are kept for examples there, and those behind them that are asked about."""


class Plain(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; refuses every name of a class or function, so that nothing is called."""

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(
            f"expected a pickle of lists, dicts, texts and numbers, it asks for {short(f'{module}.{name}')}"
        )


def plain(content: bytes) -> Any:
    """What is pickled. UserError if that is damaged or anything else than plain data."""
    try:
        return Plain(io.BytesIO(content)).load()
    except UserError:
        raise
    except Exception as error:  # of a damaged pickle it may be almost any
        raise UserError(
            f"expected a pickle, it cannot be read ({short(f'{type(error).__name__}: {error}')})"
        ) from error


@dataclass(frozen=True, slots=True)
class GluePickle:
    """Of a pickled list of records the `TESTS` behind the first `EXAMPLES`, these keys of each: one JSON object a line.

    UserError for what is none; the values are the task's own reader's business.
    """

    keys: tuple[str, ...]

    def __call__(self, content: bytes) -> str:
        records = plain(content)
        if not isinstance(records, list) or len(records) < EXAMPLES + TESTS:
            size = f"one of {len(records)}" if isinstance(records, list) else short(records)
            raise UserError(f"expected a pickled list of at least {EXAMPLES + TESTS} records, got {size}")
        return "".join(self._line(i, records[i]) for i in range(EXAMPLES, EXAMPLES + TESTS))

    def _line(self, index: int, record: Any) -> str:
        if not isinstance(record, dict):
            raise UserError(f"record {index}: expected an object with keys, got {short(record)}")
        if missing := [key for key in self.keys if key not in record]:
            raise UserError(f"record {index}: expected the key {missing[0]!r}")
        values = {key: record[key] for key in self.keys}
        if bad := [key for key, value in values.items() if not _plain(value)]:
            raise UserError(f"record {index}: expected a text, a number or a list of texts in {bad[0]!r}")
        return json.dumps(values) + "\n"


def _plain(value: Any) -> bool:
    """As JSON holds it, and not something that holds itself or grows without end."""
    number = isinstance(value, int) and abs(value) < 1 << 63
    return (
        number
        or isinstance(value, str)
        or (isinstance(value, list) and len(value) <= 100 and all(isinstance(one, str) for one in value))
    )
