"""QAEdit: questions of question-answering sets that models get wrong, and five unrelated ones for each.

Yang et al. 2025 (The Mirage of Model Editing), section 3. The subject may be any phrase of the question; the answer
before is not in the file.
"""

from collections.abc import Mapping
from typing import Any

from core.types import Edit
from edit_sets._fields import objects, text
from edit_sets._select import Selecting, furnished


class QAEdit(Selecting):
    name = "qaedit"
    file = "edited-data/qaedit.json"
    keys: Mapping[str, str] = {
        **{"prompt": "prompt", "subject": "subject", "target": "target", "rephrase": "rephrase"},
        **{"case": "id", "relation": "source"},
    }
    others = ("locality",)

    def edit(self, record: Mapping[str, Any], index: int, where: str) -> Edit:
        edit = super().edit(record, index, where)
        asked = objects(record.get("locality") or [], f"{where}: locality")
        localities = [(text(question, "loc", place), text(question, "loc_ans", place)) for place, question in asked]
        return furnished(edit, edit.rephrases, localities)


EDIT_SET = QAEdit()
