"""NER: named entities, asked for one type at a time (CoNLL-2003; the released file is testa). Four samples a sentence.

Source: Tjong Kim Sang and De Meulder 2003; scored by seqeval, strict, IOB2. How a completion is read: tasks/_entities.

`Score.value` is the F1 of one prompt alone, before overlaps are settled (1 if there was nothing to find and nothing was
named). The metrics are over sentences. `f1_answered` leaves out the types of a sentence whose completion has no first
line; `trivial` is an answer that names nothing: 0.

Differs from the released code: -DOCSTART- lines are no sentences; a sentence keeps the "." or "," it starts with; what
was named is scored as spans. as_released: see `released_spans` and `released_counts`, the mean of the four types. It
leaves out the 216 -DOCSTART- lines of testa, which the released code asks about too: a completion to one adds 1 to what
MISC is out of, so that the released score is lower, by at most 0.004 on testa.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import readers as files
from core.metrics import between, first_line
from core.types import Completion, Ratio, Sample, Score, Scored
from tasks._entities import KINDS, Span, claims, iob2, released_counts, released_spans, sentence

WORDS = {"PER": "Person", "LOC": "Location", "ORG": "Organization", "MISC": "Miscellaneous"}

Group = dict[str, tuple[Sample, Completion, Score]]
"""What was scored of one sentence, by entity type."""
Counts = NDArray[np.float64]


class NER:
    name = "NER"
    file = "test-NER.txt"
    max_new_tokens = 10
    choices: tuple[str, ...] = ()

    def samples(self, data: Path) -> Iterator[Sample]:
        for index, (_, tokens, tags) in enumerate(files.conll(data, KINDS)):
            for kind, word in WORDS.items():
                prompt = f"Please identify {word} Entity from the given text. Text: {sentence(tokens)} Entity:"
                reference = {"tokens": tokens, "tags": tags, "type": kind, "sentence": index}
                named = [sentence(tokens[first : last + 1]) for of, first, last in _spans(tags) if of == kind]
                yield Sample(f"{index}/{kind}", prompt, reference, (", ".join(named),) if named else ())

    def score(self, sample: Sample, completion: Completion) -> Score:
        tokens, tags, kind = (sample.reference[key] for key in ("tokens", "tags", "type"))
        gold = {span for span in _spans(tags) if span[0] == kind}
        named = claims(completion.text, kind, tokens)
        value = 2 * len(gold & named) / (len(gold) + len(named)) if gold or named else 1.0
        text = between(sample.prompt + completion.seen, "Entity:")
        found, of = released_counts(kind, released_spans(kind, tokens, tags), text)
        answer = first_line(completion.text)
        return Score(value if answer else None, answer, {"released_found": found, "released_of": of})

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        groups: dict[str, Group] = {}
        for item in scored:
            groups.setdefault(item[0].record, {})[item[0].reference["type"]] = item
        gold, named = zip(*map(_tags, groups.values()), strict=True)
        rows = [_counts(*row) for row in zip(groups.values(), gold, named, strict=True)]
        tp, fp, fn, prompts, answered, found, of = np.array(rows, dtype=np.float64).transpose(2, 0, 1)  # (sentences, 4)
        ratio = partial(Ratio, tuple(groups))

        def rates(tp: Counts, fp: Counts, fn: Counts) -> dict[str, Ratio]:
            return {
                "f1": ratio(2 * tp, 2 * tp + fp + fn),
                "precision": ratio(tp, tp + fp),
                "recall": ratio(tp, tp + fn),
            }

        whole = _by_seqeval(rates(tp.sum(1), fp.sum(1), fn.sum(1)), gold, named)
        by_type = [rates(tp[:, i], fp[:, i], fn[:, i]) for i in range(len(KINDS))]
        return {
            "f1": whole["f1"],
            "answered": ratio(answered.sum(1), prompts.sum(1)),
            "f1_answered": rates(*((count * answered).sum(1) for count in (tp, fp, fn)))["f1"],
            "trivial": ratio(np.zeros(len(groups)), np.ones(len(groups))),
            "precision": whole["precision"],
            "recall": whole["recall"],
            **{f"{rate}_{kind}": by_type[i][rate] for i, kind in enumerate(KINDS) for rate in whole},
            "as_released": ratio(found, of),
        }


def _tags(group: Group) -> tuple[list[str], list[str]]:
    """A sentence's gold tags, and those of what its completions name; older results are read as they were then."""
    reference = next(iter(group.values()))[0].reference
    named = [
        span
        for kind, (_, said, _) in group.items()
        for span in claims(said.text, kind, reference["tokens"], whole=said.ended is not None)
    ]
    return list(reference["tags"]), iob2(named, len(reference["tokens"]))


def _counts(group: Group, gold: list[str], named: list[str]) -> list[list[float]]:
    """Of a sentence, per type: tp, fp, fn, prompts, answered prompts, found and out of as released. (4, 7)"""
    right, said, rows = {*_spans(gold)}, {*_spans(named)}, []
    for kind in KINDS:
        sizes = [sum(span[0] == kind for span in spans) for spans in (right & said, said - right, right - said)]
        score = group[kind][2] if kind in group else Score(None, "", {})
        released = [score.parts.get("released_found", 0.0), score.parts.get("released_of", 0.0)]
        rows.append([*sizes, float(kind in group), float(score.value is not None), *released])
    return rows


def _by_seqeval(rates: dict[str, Ratio], gold: Sequence[Any], named: Sequence[Any]) -> dict[str, Ratio]:
    """The same with seqeval's values, from which ours may differ by rounding only."""
    # 1 s to import: only when NER is scored.
    from seqeval.metrics.v1 import precision_recall_fscore_support  # type: ignore[import-untyped]
    from seqeval.scheme import IOB2  # type: ignore[import-untyped]

    precision, recall, f1, _ = precision_recall_fscore_support(
        list(gold), list(named), average="micro", scheme=IOB2, zero_division=0
    )
    theirs = {"f1": float(f1), "precision": float(precision), "recall": float(recall)}
    return {name: replace(ratio, by_reference=theirs[name]) for name, ratio in rates.items()}


def _spans(tags: list[str]) -> list[Span]:
    """The entities in the order of the sentence."""
    from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

    spans: list[Span] = get_entities(tags)
    return spans


TASK = NER()
