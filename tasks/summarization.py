"""summarization: a chat in one or two sentences (SAMSum test; the released file lacks one record).

Source: Gliwa et al. 2019 (SAMSum). `rouge_mean` is the mean of ROUGE-1, -2 and -L F1 (rouge-score, no stemming) of the
whole completion; a blank one is no answer. `trivial`: one reference summary given for every chat, the one that shares
most words with the others (see `typical`). Line breaks inside a chat are kept as they are, "\\r\\n" in the data.

Differs from the released code: that uses the package `rouge`, another ROUGE, and drops the last 13 characters of every
decoded text, "<|endoftext|>" or not. as_released does the same; see tasks/_rouge.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from core import readers as files
from core.metrics import headline, mean, part, rouge
from core.types import Completion, Ratio, Sample, Score, Scored
from tasks._rouge import released_score


def typical(summaries: Sequence[str]) -> str:
    """The summary with the highest expected Dice overlap of words with a random one of them; of equals the first in
    the alphabet.

    Linear in the words: stands in for the best constant answer, which would take n^2 ROUGE scores to find.
    """
    words = [set(re.findall(r"\w+", summary.lower())) for summary in summaries]
    frequency = Counter(word for group in words for word in group)
    mean_size = sum(map(len, words)) / len(words)
    # n E|A & B| is the sum of the document frequencies of the words in A
    overlap = [sum(frequency[word] for word in group) / (len(group) + mean_size or 1) for group in words]
    return min(zip(overlap, summaries, strict=True), key=lambda pair: (-pair[0], pair[1]))[1]


@lru_cache(maxsize=4096)  # the report needs the same ones for every result
def constant_score(reference: str, constant: str) -> float:
    return mean_rouge(rouge(reference, constant))


def mean_rouge(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores)


class Summarization:
    name = "summarization"
    file = "test-summarization.json"
    max_new_tokens = 25
    choices: tuple[str, ...] = ()

    def samples(self, data: Path) -> Iterator[Sample]:
        seen: set[str] = set()
        for where, record in files.json_list(data):
            name = files.sample_id(files.field(record, "id", str, where), seen, where)
            prompt = f"{files.field(record, 'dialogue', str, where)}\nTL;DR:"
            summary = files.field(record, "summary", str, where)
            yield Sample(name, prompt, summary, (summary,))

    def score(self, sample: Sample, completion: Completion) -> Score:
        scores = rouge(sample.reference, completion.text)
        answer = completion.text.strip()
        released = released_score(sample.reference, completion.seen.split("DR:")[-1])
        return Score(mean_rouge(scores) if answer else None, answer, {**scores, "as_released": released})

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        references = [sample.reference for sample, _, _ in scored]
        constant = typical(references)
        return {
            **headline("rouge_mean", scored),
            "trivial": mean(scored, (constant_score(reference, constant) for reference in references)),
            **{name: part(scored, name) for name in scored[0][2].parts},
        }


TASK = Summarization()
