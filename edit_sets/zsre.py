"""zsRE: questions about one relation of a subject, a JSON list of objects.

Levy et al. 2017, as MEND's authors use it: `src` is the question, `alt` the new answer, `pred` what the model they took
it from answered, `answers` the true ones, `rephrase` the question in other words, `loc` and `loc_ans` an unrelated
question and its answer. Edits are to `alt`, as in the paper, or to the first of `answers`, as MEMIT's authors read the
same file: numbers of the two cannot be compared.
"""

from collections.abc import Mapping
from pathlib import Path

from core import readers
from core.types import Edit
from edit_sets._select import Selecting


class ZsRE(Selecting):
    name = "zsre"
    file = "edited-data/zsre.json"
    training_files = ("training-data/zsre_mend_train.json", "training-data/zsre_mend_eval.json")
    keys: Mapping[str, str] = {
        **{"prompt": "src", "subject": "subject", "target": "alt", "old": "pred"},
        **{"rephrase": "rephrase", "locality": "loc", "locality_answer": "loc_ans"},
    }
    targets: Mapping[str, str] = {"alt": "alt", "answers": "answers.0"}

    def records(self, path: Path) -> list[Edit]:
        return [self.edit(record, index, where) for index, (where, record) in enumerate(readers.json_list(path))]


EDIT_SET = ZsRE()
