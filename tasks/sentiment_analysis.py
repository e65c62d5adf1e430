"""SentimentAnalysis: the sentiment of a snippet of a film review (GLUE SST-2 dev), two-way.

Source: Socher et al. 2013, by way of GLUE. Labels: 1 -> positive, 0 -> negative. The sentences keep the blank that
many of them end with, so that a prompt may have two blanks before "answer:", as in the released code.

Differs from the released code: unquoted TSV; the answer is the completion's first word. as_released: the lower-cased
completion contains the right word ("unpositive" is positive), correct answers / all snippets.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from core import readers as files
from core.types import Sample
from tasks._label import LabelTask


class SentimentAnalysis(LabelTask):
    name = "SentimentAnalysis"
    file = "test-SentimentAnalysis.tsv"
    choices = ("positive", "negative")

    def samples(self, data: Path) -> Iterator[Sample]:
        labels = {"1": "positive", "0": "negative"}
        for index, (where, row) in enumerate(files.tsv(data, ("sentence", "label"))):
            prompt = (
                "For each snippet of text,label the sentiment of the text as positive or negative."
                f"The answer should be exact 'positive' or 'negative'. text: {row['sentence']} answer:"
            )
            label = files.label(row["label"], labels, where)
            yield Sample(str(index), prompt, label, (label,))

    def released(self, sample: Sample, seen: str) -> Mapping[str, float]:
        text = (sample.prompt + seen).split("answer:")[-1]
        return {"as_released": float(sample.reference in text.lower())}


TASK = SentimentAnalysis()
