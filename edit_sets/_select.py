"""What edit sets share: from the records of a file to edits, and which of them are taken.

Differs from the released code: edits past the end of the file are refused, where it starts again at the first record.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from core.errors import UserError
from core.messages import short
from core.registry import spelled
from core.subject import place, whole
from core.types import Edit, EditSet
from edit_sets._fields import at, json_records, label, text, texts

logger = logging.getLogger(__name__)


class Selecting(EditSet):
    """An edit set whose records are objects of JSON, in a list or one a line; `keys` says where a field stands in one.

    A format with another kind of file has `records` of its own, one with other records `edit`.
    """

    training_files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ("old", "rephrase", "locality", "locality_answer", "case", "relation")
    """Fields of an Edit that a record may lack."""
    several: tuple[str, ...] = ()
    """Fields that may be lists in a record."""
    targets: Mapping[str, str] = {}
    """Word of --target -> key of the new answer, where a record has more than one."""
    others: tuple[str, ...] = ()
    """More keys that tell records of this format."""

    def words(self, record: Mapping[str, Any]) -> Mapping[str, str]:
        """`keys` as this record spells them."""
        return self.keys

    def knows(self, record: Mapping[str, Any]) -> int:
        keys = self.words(record)
        if any(at(record, key) is None for name, key in keys.items() if name not in self.optional):
            return 0
        return len({*(key.split(".")[0] for key in keys.values()), *self.others} & record.keys())

    def reading(self, target: str | None) -> EditSet:
        if target is None:
            return self
        if not self.targets:
            raise UserError(f"--target {target}: a record of {self.name} has one new answer, '{self.keys['target']}'")
        other = copy(self)
        other.keys = {**self.keys, "target": self.targets[spelled("target", target, self.targets)]}
        return other

    def records(self, path: Path) -> list[Edit]:
        return [self.edit(record, index, where) for index, (where, record) in enumerate(json_records(path))]

    def edit(self, record: Mapping[str, Any], index: int, where: str) -> Edit:
        """The record as an Edit. UserError for a value that is missing or of another type."""
        keys = self.words(record)
        given = {n: k for n, k in keys.items() if n not in self.optional or at(record, k) is not None}
        read: dict[str, Any] = {name: self._read(record, name, key, where) for name, key in given.items()}
        rephrases, questions = (read.pop(name, (None,)) for name in ("rephrase", "locality"))
        answers = read.pop("locality_answer", (None,))
        if len(answers) == 1:  # that of every question
            answers *= len(questions)
        if len(answers) != len(questions):
            there = f"'{keys['locality']}' and '{keys['locality_answer']}'"
            raise UserError(f"{where}: expected as many in {there}, got {len(questions)} and {len(answers)}")
        return furnished(Edit(**read, index=index), rephrases, list(zip(questions, answers, strict=True)))

    def _read(self, record: Mapping[str, Any], name: str, key: str, where: str) -> Any:
        """A field's value: strings for one that an Edit can have several of."""
        if name in ("case", "relation"):
            return label(record, key, where)
        values = texts(record, key, where) if name in self.several else (text(record, key, where),)
        return values if name in ("rephrase", "locality", "locality_answer") else next(iter(values), "")

    def edits(self, path: Path, begin: int, end: int, step: int, draw: int | None = None) -> list[Edit]:
        """`chosen`, clean, with a notice in the log of the records in which something is not as one would write it."""
        return _noticed(path, self.chosen(path, begin, end, step, draw))

    def chosen(self, path: Path, begin: int, end: int, step: int, draw: int | None = None) -> list[Edit]:
        """The records range(begin, end, step). Each needs a target, and its subject in its prompt.

        With `draw`, a seed, as many edits drawn from the usable records from `begin` on. A smaller number of edits from
        the same seed is the beginning of a larger one.
        """
        if step < 1:
            raise UserError(f"SAMPLE_STEP: expected 1 or more, got {step}")
        if begin < 0:
            raise UserError(f"SAMPLE_BEGIN: expected 0 or more, got {begin}")
        if begin >= end:
            raise UserError(f"swapped or empty range: SAMPLE_BEGIN {begin} is not below SAMPLE_END {end} (exclusive)")
        records, count = self.records(path), len(range(begin, end, step))
        if end > len(records):
            raise UserError(f"{path}: has {len(records)} records, SAMPLE_END can be {len(records)} at most, got {end}")
        if draw is not None:
            usable = [edit for edit in records[begin:] if not self._fault(clean(edit))]
            if len(usable) < count:
                raise UserError(f"{path}: has {len(usable)} usable records from {begin} on, too few to draw from")
            return random.Random(draw).sample(usable, len(usable))[:count]
        for edit in records[begin:end:step]:
            if fault := self._fault(clean(edit)):
                raise UserError(f"{path}: record {edit.index}: {fault}")
        return records[begin:end:step]

    def training(self, path: Path) -> list[Edit]:
        """The records with a target; a subject need not occur in its prompt."""
        records = [clean(edit) for edit in self.records(path) if edit.target.strip()]
        if not records:
            raise UserError(f"{path}: expected records with a new answer in '{self.keys['target']}', found none")
        return records

    def _fault(self, edit: Edit) -> str:
        """What is wrong with a record as an edit; empty if nothing is."""
        if not edit.target.strip():
            return f"expected a new answer in '{self.keys['target']}', it is empty"
        if not edit.subject or edit.subject not in edit.prompt:
            alike = edit.subject and normalize("NFKC", edit.subject) in normalize("NFKC", edit.prompt)
            hint = ": it is there in another Unicode form, write both in one (NFC)" if alike else ""
            return f"expected the subject {short(edit.subject)} in '{self.keys['prompt']}' {short(edit.prompt)}{hint}"
        return ""


def furnished(edit: Edit, rephrases: Sequence[str | None], localities: Sequence[tuple[str | None, str | None]]) -> Edit:
    """The edit with these rephrasings and these unrelated questions, each with its answer."""
    question, answer = next(iter(localities), (None, None))
    old = edit.old.strip()
    return replace(
        edit,
        rephrase=next(iter(rephrases), None),
        more_rephrases=tuple(text for text in rephrases[1:] if text),
        locality=question,
        locality_answer=answer,
        more_localities=tuple((text, answer) for text, answer in localities[1:] if text),
        neighbours=bool(old and question) and all((answer or "").strip() == old for _, answer in localities),
    )


def clean(edit: Edit) -> Edit:
    """The edit without white space around its subject and behind its answers, and the subject as its prompt spells it.

    Of what is in front of an answer one blank stays if there is one: some methods take it as part of the answer.
    """
    bare = edit.subject.strip()
    forms = (bare, normalize("NFC", bare), normalize("NFD", bare))
    subject = next((form for form in forms if form in edit.prompt), bare)
    return replace(edit, subject=subject, target=_answer(edit.target), old=_answer(edit.old))


def _answer(text: str) -> str:
    return " " * (text.startswith(" ") and bool(text.strip())) + text.strip()


def _noticed(path: Path, edits: list[Edit]) -> list[Edit]:
    """The edits, clean, with a notice of the records in which something is not as one would write it."""
    cleaned = [clean(edit) for edit in edits]
    changed = [edit.index for edit, now in zip(edits, cleaned, strict=True) if edit != now]
    inside = [e.index for e in cleaned if not whole(e.prompt, place(e.prompt, e.subject), len(e.subject))]
    for records, what in (
        (
            changed,
            "white space around subject or answer is left out, or the subject spelled as in its prompt",
        ),
        (inside, "the subject is only a part of a word of its prompt"),
    ):
        if records:
            more = f" and {len(records) - 5} more" if len(records) > 5 else ""
            logger.warning("%s: record %s%s: %s", path, ", ".join(map(str, records[:5])), more, what)
    return cleaned
