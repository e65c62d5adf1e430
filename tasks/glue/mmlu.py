r"""glue_mmlu: a question with four answers from many subjects (MMLU), as AlphaEdit's authors ask for it.

Source: Hendrycks et al. 2021 (MMLU). Answers 0 to 3 -> A to D: capital letters, with or without brackets.

Differs from the released code: see tasks/glue. as_released wants a letter, whatever its case, right before a line
break in what follows the prompt, "a\n" first: " B" alone is none, and "\nBerlin is a\n" is A.
"""

from core import readers as files
from tasks.glue import INVALID, GlueTask


class MMLU(GlueTask):
    name = "glue_mmlu"
    file = "test-glue_mmlu.jsonl"
    choices = ("A", "B", "C", "D")
    labels = ("A", "B", "C", "D")
    match_case = True
    label_key = "answer"
    keys = ("question",)
    template = "Question: {question}\n(A) {A}\n(B) {B}\n(C) {C}\n(D) {D}\nAnswer:"
    heard = (("a\n", "A"), ("b\n", "B"), ("c\n", "C"), ("d\n", "D"))

    def texts(self, record: files.Record, where: str) -> dict[str, str]:
        four = files.strings(record, "choices", where, count=4)
        return {**super().texts(record, where), **dict(zip(self.labels, four, strict=True))}

    def as_released(self, prompt: str, text: str) -> str:
        return next((label for mark, label in self.heard if mark in text.lower()), INVALID)


TASK = MMLU()
