"""ClosedDomainQA: a yes/no question about a passage (BoolQ dev; the released file lacks three records).

Source: Clark et al. 2019 (BoolQ).

Differs from the released code: one rule reads the answer before and after an edit, the completion's first word. The
released scripts use two, both kept here: before an edit the lower-cased completion has to equal " yes" or " no"
(as_released_before_edit); after one it has to contain the right word, whatever else it contains, so that " yes or no"
is right for both (as_released_after_edit). Both are correct answers / all questions, which the released code prints as
`total_accuracy`, and both read what stands between the first and the second "answer:" of prompt and completion.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from core import readers as files
from core.metrics import between
from core.types import Sample
from tasks._label import LabelTask


class ClosedDomainQA(LabelTask):
    name = "ClosedDomainQA"
    file = "test-ClosedDomainQA.jsonl"
    choices = ("yes", "no")
    headline = "exact_match"

    def samples(self, data: Path) -> Iterator[Sample]:
        for index, (where, record) in enumerate(files.jsonl(data)):
            passage = files.field(record, "passage", str, where)
            question = files.field(record, "question", str, where)
            prompt = (
                "Please answer the given question based on the passage. The answer should be exact 'yes' or 'no'. "
                f"passage: {passage} question: {question}. answer:"
            )
            label = "yes" if files.field(record, "answer", bool, where) else "no"
            yield Sample(str(index), prompt, label, (label,))

    def released(self, sample: Sample, seen: str) -> Mapping[str, float]:
        text = between(sample.prompt + seen, "answer:").lower()
        return {
            "as_released_before_edit": float(text == f" {sample.reference}"),
            "as_released_after_edit": float(sample.reference in text),
        }


TASK = ClosedDomainQA()
