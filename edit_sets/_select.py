"""What edit sets share: records of flat objects, and which of the records are edits.

Differs from the released code: edits past the end of the file are refused, where it starts again at the first record.
"""

import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from core.errors import UserError
from core.messages import short
from core.readers import field
from core.subject import place, whole
from core.types import Edit, EditSet

logger = logging.getLogger(__name__)


class Selecting(EditSet):
    """An edit set that has `records`. Where a record is a flat object, `edit` makes an Edit of it."""

    training_files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ("old", "rephrase", "locality", "locality_answer")
    """Fields of an Edit that a record may lack."""

    def edit(self, record: Mapping[str, Any], index: int, where: str) -> Edit:
        """The record as an Edit, by `keys`; all values are strings. UserError for one that is missing or is not."""
        given = {n: k for n, k in self.keys.items() if n not in self.optional or record.get(k) is not None}
        return Edit(**{name: field(record, key, str, where) for name, key in given.items()}, index=index)

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
