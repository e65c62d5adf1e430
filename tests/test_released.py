"""`as_released` against the released rules restated (tests/reference/released.py): every record's count is the same.

Once for every text of one token of a vocabulary, and for 5,000 drawn completions a task.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from conftest import EMBEDDED, ROOT, tiny
from reference import released
from transformers import AutoTokenizer

from core.registry import discover
from core.types import Completion, Sample, Scored, Task

TASKS = discover("tasks", "TASK")
SAMPLES = {
    name: list(islice(TASKS[name].samples(ROOT / "data/sample/task-data" / TASKS[name].file), 24))
    for name in ("reasoning", "NLI", "ClosedDomainQA", "dialogue", "summarization", "NER", "SentimentAnalysis")
}
QUESTIONS = [
    ("Lyon is in France.", ["Lyon", "City of Lyon"]),
    ("Ada was the first", ["Ada Lovelace", "Lovelace"]),
    ("It rained.", [")", "the rain", "rained"]),
    ("No Answer: here", ["here", "Answer"]),
]
"""Short, as the rule restated goes through all spans of words of prompt and completion."""
SAMPLES["OpenDomainQA"] = [
    Sample(str(i), f"Refer to it. Passage: {passage} Question: what", answers)
    for i, (passage, answers) in enumerate(QUESTIONS)
]
PAD, END = "<|pad|>", "<|endoftext|>"


def simple(rule: Callable[..., list[released.Count]], gold: Callable[[Any], Any], **options: bool) -> Any:
    """A rule that wants (gold, text) of a record."""
    return lambda scored: rule([(gold(sample.reference), whole(sample, said)) for sample, said, _ in scored], **options)


def whole(sample: Sample, said: Completion) -> str:
    return 3 * PAD + sample.prompt + said.seen


def entities(scored: Scored) -> list[released.Count]:
    """Of every sentence, (found, out of) of the four types."""
    rows = []
    for start in range(0, len(scored), 4):
        group, reference = scored[start : start + 4], scored[start][0].reference
        texts = {sample.reference["type"]: whole(sample, said) for sample, said, _ in group}
        counts = released.ner([(reference["tokens"], reference["tags"], texts)])
        rows.append(tuple(np.array([counts[kind][0] for kind in counts]).T))
    return rows


RULES: dict[tuple[str, str], Callable[[Scored], list[released.Count]]] = {
    ("ClosedDomainQA", "as_released_before_edit"): simple(released.closed_domain_qa, "yes".__eq__, edited=False),
    ("ClosedDomainQA", "as_released_after_edit"): simple(released.closed_domain_qa, "yes".__eq__, edited=True),
    ("dialogue", "as_released_before_edit"): simple(released.dialogue, str, edited=False),
    ("dialogue", "as_released_after_edit"): simple(released.dialogue, str, edited=True),
    ("NLI", "as_released"): simple(released.nli, "True".__eq__),
    ("SentimentAnalysis", "as_released"): simple(released.sentiment_analysis, "positive".__eq__),
    ("reasoning", "as_released"): simple(released.reasoning, lambda reference: f"#### {reference['answer']}"),
    ("OpenDomainQA", "as_released"): simple(released.open_domain_qa, list),
    ("summarization", "as_released"): simple(released.summarization, str),
    ("NER", "as_released"): entities,
}


def answered(task: Task, said: Sequence[Completion]) -> Scored:
    """The task's samples in turns, each under an id of its own, with these completions."""
    scored, samples = [], SAMPLES[task.name]
    for i, completion in enumerate(said[: len(said) // 4 * 4]):
        old = samples[i % len(samples)]
        sample = Sample(f"{i // 4}/{i % 4}" if task.name == "NER" else str(i), old.prompt, old.reference)
        scored.append((sample, completion, task.score(sample, completion)))
    return scored


def check(said: Sequence[Completion], name: str) -> None:
    scored = answered(TASKS[name], said)
    ratios = TASKS[name].ratios(scored)
    for task, metric in RULES:
        if task == name:
            top, bottom = np.array(RULES[task, metric](scored)).transpose(1, 0, *([2] if name == "NER" else []))
            np.testing.assert_array_equal(ratios[metric].bottom, bottom, err_msg=metric)
            np.testing.assert_allclose(ratios[metric].top, top, rtol=0, atol=1e-12, err_msg=metric)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("vocabulary", ["tiny", pytest.param("embedded", marks=pytest.mark.slow)])
def test_every_text_of_one_token(vocabulary: str, name: str) -> None:
    if vocabulary == "embedded" and not (EMBEDDED / "tokenizer.json").is_file():
        pytest.skip("the embedded model is not there: python prepare.py model smollm2-135m")
    tokenizer = tiny("gpt2").tokenizer if vocabulary == "tiny" else AutoTokenizer.from_pretrained(EMBEDDED)
    ids = range(len(tokenizer))
    texts = tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=True)
    seen = tokenizer.batch_decode([[i] for i in ids])
    assert not any("true" in text.lower() and "false" in text.lower() for text in seen)
    check([Completion(text, full=full) for text, full in zip(texts, seen, strict=True)], name)


PIECES = (
    *(
        " yes",
        "Yes",
        " no",
        "know",
        " True",
        "true",
        "False",
        "untrue",
        " positive",
        "negative",
        " A",
        " (B)",
        "C",
        "D",
    ),
    *("Chi", " Chi", "Chioces", "Answer:", "Entity:", "DR:", "answer:", " Question:", END, "</s>", "\n", ".", ",", " "),
    *(" 18", "180", " $5", " Lyon", " Ada", " Lovelace", " here", " rain", " the", " of", " City", "\u00e9", "'s"),
)


def drawn(name: str, count: int) -> Iterator[Completion]:
    """Pieces of everything, words of the prompt (an echo) and of the reference, with and without an end token."""
    rng = random.Random(name)
    for i in range(count):
        sample = SAMPLES[name][i % len(SAMPLES[name])]
        near = f"{sample.prompt} {sample.reference}".split()
        words = [rng.choice(PIECES) if rng.random() < 0.5 else f" {rng.choice(near)}" for _ in range(rng.randint(0, 8))]
        text = "".join(words)
        if name == "NLI" and "true" in text.lower() and "false" in text.lower():
            text = ""  # the one case that is counted in another way: see tasks/nli.py
        yield Completion(text, full=rng.choice([None, f"{text}{END}", f"{text}<|im_start|>"]))


@pytest.mark.parametrize("name", SAMPLES)
def test_drawn_completions(name: str) -> None:
    check(list(drawn(name, 5000)), name)


# --- the rules restated, by hand -----------------------------------------------------------------------------------


def test_the_rules_restated() -> None:
    """One record each, so that a slip in both would have to be the same one."""
    assert released.open_domain_qa([(["Lyon"], f"Refer to Lyonnais. Question: x Lyon{END}")]) == [(0, 1)]
    assert released.dialogue([("C", "the answer is Chi")], edited=True) == [(0, 1)]
    assert released.dialogue([("C", "the answer is Chi")], edited=False) == [(1, 1)]
    assert released.nli([(True, "answer: true, not false")]) == [(1, 2)]
    assert released.closed_domain_qa([(False, "answer: yes or no")], edited=True) == [(1, 1)]
    found = released.ner([(["x"], ["O"], {kind: f"Entity:{END}" for kind in ("PER", "LOC", "ORG", "MISC")})])
    assert found == {"PER": [(0, 0)], "LOC": [(0, 0)], "ORG": [(0, 0)], "MISC": [(0, 1)]}
    # "a b" and "a c. b": both words, one pair of neighbours of two ("a b") and one ("b c" is none): f 0.8, 0, 0.8
    ((score, _),) = released.summarization([("a b", f"DR:a c. b{END}")])
    assert score == pytest.approx((2 * (2 / 3) / (2 / 3 + 1) + 0 + 2 * (2 / 3) / (2 / 3 + 1)) / 3, abs=1e-7)
