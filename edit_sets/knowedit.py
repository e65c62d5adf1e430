"""KnowEdit: facts with questions by kind, what has to change with the fact (portability) and what must not (locality).

Zhang et al. 2024 (arXiv 2401.01286), section 4. Its files WikiData recent, WikiData counterfact, ZsRE and WikiBio
differ in their words and in how deep the answers are nested. Every answer to a portability question is an alias that
counts as right; to an unrelated question the first is taken. A question without any answer is left out of portability,
where it could not be judged.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from core import readers
from core.messages import short
from core.types import Edit, Question
from edit_sets._fields import objects, text, texts
from edit_sets._select import Selecting, furnished

WIKIBIO: Mapping[str, str] = {"prompt": "text", "subject": "concept", "target": "labels"}


class KnowEdit(Selecting):
    name = "knowedit"
    file = "edited-data/knowedit.json"
    keys: Mapping[str, str] = {
        **{"prompt": "prompt", "subject": "subject", "target": "target_new", "old": "ground_truth"},
        **{"rephrase": "rephrase_prompt", "case": "case_id"},
    }
    several = ("old", "rephrase")
    others = ("portability", "locality")

    def words(self, record: Mapping[str, Any]) -> Mapping[str, str]:
        own = WIKIBIO if "concept" in record else {}
        return {**self.keys, **own, **({"rephrase": "rephrase"} if "rephrase" in record else {})}

    def edit(self, record: Mapping[str, Any], index: int, where: str) -> Edit:
        edit = super().edit(record, index, where)
        unrelated = [(one.prompt, next(iter(one.answers), None)) for one in questions(record, "locality", where)]
        ported = tuple(one for one in questions(record, "portability", where) if one.answers)
        # Questions of "Forgetfulness" have the old answer too, but are about the same subject.
        return replace(furnished(edit, edit.rephrases, unrelated), neighbours=False, portability=ported)


def questions(record: Mapping[str, Any], key: str, where: str) -> Iterator[Question]:
    """The questions of every kind below a key, in their order; one that is blank is left out."""
    kinds = {} if record.get(key) is None else readers.field(record, key, dict, where)
    for kind, asked in kinds.items():
        readers.field({key: kind}, key, str, where)  # its characters whole: it names a metric
        for place, question in objects([] if asked is None else asked, f"{where}: {key} {short(kind)}"):
            answers = tuple(answer for answer in texts(question, "ground_truth", place) if answer.strip())
            prompts = texts(question, "prompt", place) or (text(question, "prompt", place),)
            yield from (Question(kind, prompt, answers) for prompt in prompts if prompt.strip())


EDIT_SET = KnowEdit()
