"""Rows of the public data sets to the text of the released files: pure functions, one per format.

A row is a dict with the columns of the hub's data set, label names in place of label numbers where the table of
inputs/official.py asks for them. Where the rows are those of the released file, so are the bytes; CoNLL excepted, which
has lost its -DOCSTART- lines on the hub (readers skip them).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from core.errors import UserError

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
