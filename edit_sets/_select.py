"""What edit sets share: records of flat objects, and which of the records are edits.

Differs from the released code: edits past the end of the file are refused, where it starts again at the first record.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.messages import short
from core.readers import field
from core.types import Edit, EditSet


class Selecting(EditSet):
    """An edit set that has `records`. Where a record is a flat object, `edit` makes an Edit of it."""

    training_files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    """Fields of an Edit that a record may lack."""

    def edit(self, record: Mapping[str, Any], index: int, where: str) -> Edit:
        """The record as an Edit, by `keys`; all values are strings. UserError for one that is missing or is not."""
        given = {n: k for n, k in self.keys.items() if n not in self.optional or record.get(k) is not None}
        return Edit(**{name: field(record, key, str, where) for name, key in given.items()}, index=index)

    def edits(self, path: Path, begin: int, end: int, step: int, draw: int | None = None) -> list[Edit]:
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
            usable = [edit for edit in records[begin:] if not self._fault(edit)]
            if len(usable) < count:
                raise UserError(f"{path}: has {len(usable)} usable records from {begin} on, too few to draw from")
            return random.Random(draw).sample(usable, len(usable))[:count]
        for edit in records[begin:end:step]:
            if fault := self._fault(edit):
                raise UserError(f"{path}: record {edit.index}: {fault}")
        return records[begin:end:step]

    def training(self, path: Path) -> list[Edit]:
        """The records with a target; a subject need not occur in its prompt."""
        records = [edit for edit in self.records(path) if edit.target.strip()]
        if not records:
            raise UserError(f"{path}: expected records with a new answer in '{self.keys['target']}', found none")
        return records

    def _fault(self, edit: Edit) -> str:
        """What is wrong with a record as an edit; empty if nothing is."""
        if not edit.target.strip():
            return f"expected a new answer in '{self.keys['target']}', it is empty"
        if not edit.subject.strip() or edit.subject not in edit.prompt:
            return f"expected the subject {short(edit.subject)} in '{self.keys['prompt']}' {short(edit.prompt)}"
        return ""
