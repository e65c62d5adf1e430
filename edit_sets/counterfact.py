"""CounterFact and MultiCounterFact as their authors publish them: nested records, a prompt with {} for the subject.

Meng et al. 2022 (ROME), section 3.4, and 2023 (MEMIT). Paraphrase prompts begin with an unrelated sentence;
neighbourhood prompts ask about other subjects with the same true object, which is therefore the answer to all of them.
Attribute and generation prompts are not read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.errors import UserError
from core.messages import short
from core.subject import place
from core.types import Edit
from edit_sets._select import Selecting

TEMPLATE, TRUE = "requested_rewrite.prompt", "requested_rewrite.target_true.str"


class CounterFact(Selecting):
    name = "counterfact"
    file = "edited-data/counterfact.json"
    keys: Mapping[str, str] = {
        **{"prompt": TEMPLATE, "subject": "requested_rewrite.subject", "target": "requested_rewrite.target_new.str"},
        **{"old": TRUE, "rephrase": "paraphrase_prompts", "locality": "neighborhood_prompts", "locality_answer": TRUE},
        **{"case": "case_id", "relation": "requested_rewrite.relation_id"},
    }
    several = ("rephrase", "locality")

    def edit(self, record: Mapping[str, Any], index: int, where: str) -> Edit:
        edit = super().edit(record, index, where)
        return replace(edit, prompt=filled(edit.prompt, edit.subject, where))


def filled(template: str, subject: str, where: str) -> str:
    """The prompt. UserError for one in which the subject would later be found somewhere else than at the {}."""
    if template.count("{}") != 1:
        raise UserError(f"{where}: expected {{}} once in {TEMPLATE!r}, got {short(template)}")
    before, after = template.split("{}")
    prompt = before + subject + after
    if subject and prompt.rfind(subject) != prompt.find(subject) and place(prompt, subject) != len(before):
        raise UserError(f"{where}: expected the subject {short(subject)} at the {{}} of {TEMPLATE!r} alone")
    return prompt


EDIT_SET = CounterFact()
