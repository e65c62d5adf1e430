"""NLI: recognising textual entailment (GLUE RTE), two-way.

Source: Wang et al. 2019 (GLUE). The released file is the train split without one row. Labels: entailment -> True,
not_entailment -> False.

Differs from the released code: the file is read as unquoted TSV, so that a quotation mark opens nothing (69 prompts of
the official file are others there); the answer is the completion's first word. as_released: the lower-cased completion
contains the right word ("untrue" is true), correct answers / all pairs. A completion with both words, which no single
token spells, is counted twice there, once right and once wrong, and once here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from core import readers as files
from core.types import Sample
from tasks._label import LabelTask


class NLI(LabelTask):
    name = "NLI"
    file = "test-NLI.tsv"
    choices = ("True", "False")

    def samples(self, data: Path) -> Iterator[Sample]:
        labels = {"entailment": "True", "not_entailment": "False"}
        seen: set[str] = set()
        for where, row in files.tsv(data, ("index", "sentence1", "sentence2", "label")):
            prompt = f"{row['sentence1']} entails the {row['sentence2']}. True or False? answer:"
            label = files.label(row["label"], labels, where)
            yield Sample(files.sample_id(row["index"], seen, where), prompt, label, (label,))

    def released(self, sample: Sample, seen: str) -> Mapping[str, float]:
        text = (sample.prompt + seen).split("answer:")[-1]
        return {"as_released": float(sample.reference.lower() in text.lower())}


TASK = NLI()
