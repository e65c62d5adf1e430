"""OpenDomainQA: a short answer to a question, given one (model-written) passage (NQ-open test).

Source: Kwiatkowski et al. 2019, Lee et al. 2019 (NQ-open). `exact_match`: a span of words of the normalised completion
equals a normalised reference; where a reference normalises to nothing (")"), so has the completion. A blank one is no
answer. `strict_exact_match`: the whole first line equals one. `trivial`: the reference that answers most of these
questions, given to all of them.

Differs from the released code: the completion alone is scanned and a question counts once. as_released scans prompt
and completion with its special tokens (an answer in the passage counts, "Lyon<|endoftext|>" ends in "lyonendoftext"),
may count one question several times, and has a flag that stays set from the first answer of several words on; see
`released_hits`. The padding, which there is part of the prompt's first word, "Refer", is left out.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from core import readers as files
from core.metrics import first_line, headline, mean, normalise, part
from core.types import Completion, Ratio, Sample, Score, Scored


def contains(text: str, references: Collection[str]) -> bool:
    """Whether a span of words of the text is one of the references; all of them normalised, an empty one never."""
    return any(reference and f" {reference} " in f" {text} " for reference in references)


def released_hits(text: str, references: Collection[str], flag: bool) -> tuple[int, bool]:
    """The released count for one question, and the flag to be handed to the next one.

    The first or last word matches: 1. Else every start i but the last counts one if its word alone matches; or else
    one, and sets the flag, if a longer span from i does. Once the flag is set, no further start is tried after one
    that did not match alone.
    """
    words = text.split(" ")
    if words[0] in references or words[-1] in references:
        return 1, flag
    hits, lengths = 0, {len(reference.split(" ")) for reference in references} - {1}
    for i in range(len(words) - 1):
        if words[i] in references:
            hits += 1
            continue
        if any(" ".join(words[i : i + length]) in references for length in lengths):
            hits, flag = hits + 1, True
        if flag:
            break
    return hits, flag


class OpenDomainQA:
    name = "OpenDomainQA"
    file = "test-OpenDomainQA.jsonl"
    max_new_tokens = 20
    choices: tuple[str, ...] = ()

    def samples(self, data: Path) -> Iterator[Sample]:
        for index, (where, record) in enumerate(files.jsonl(data)):
            question = files.field(record, "question", str, where)
            passage = files.strings(record, "output", where)[0]
            prompt = (
                f"Refer to the passage below and answer the following question. Passage: {passage} Question: {question}"
            )
            answers = files.strings(record, "answer", where)
            yield Sample(str(index), prompt, answers, tuple(answers))

    def score(self, sample: Sample, completion: Completion) -> Score:
        references = {normalise(reference) for reference in sample.reference}
        line, answer = first_line(completion.text), normalise(completion.text)
        nothing = not answer and bool(completion.text.strip()) and "" in references
        value = 1.0 if nothing else float(contains(answer, references)) if answer else None
        strict = float(bool(line) and normalise(line) in references)
        return Score(value, completion.text.strip() if nothing else answer, {"strict_exact_match": strict})

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        references = [{normalise(reference) for reference in sample.reference} for sample, _, _ in scored]
        counts = Counter(reference for group in references for reference in group if reference)
        constant = min(counts, key=lambda reference: (-counts[reference], reference), default="")
        hits, flag = [], False
        for (sample, completion, _), group in zip(scored, references, strict=True):
            text = normalise((sample.prompt + completion.seen).rpartition("Answer:")[2])
            count, flag = released_hits(text, group, flag)
            hits.append(count)
        return {
            **headline("exact_match", scored),
            "trivial": mean(scored, (contains(constant, group) for group in references)),
            "strict_exact_match": part(scored, "strict_exact_match"),
            "as_released": mean(scored, hits),
        }


TASK = OpenDomainQA()
