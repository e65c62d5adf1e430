"""The released scorers restated: what each script of the paper's authors counts, from their whole decoded text.

That text is padding, prompt and completion with special tokens. A function takes all records of a run in their order
and gives a pair per record: what is counted as right, and out of how many. Written from what the scripts do, apart from
the tasks: no code of either. A script ends with "error", or by a division by zero, where nothing could be read; here
that is a score of 0.
"""

import re
import string
from collections.abc import Sequence

Count = tuple[float, float]


def closed_domain_qa(records: Sequence[tuple[bool, str]], edited: bool) -> list[Count]:
    """(Is the answer yes, text). `total_accuracy`."""
    counts = []
    for yes, text in records:
        said, word = text.split("answer:")[1].lower(), "yes" if yes else "no"
        counts.append((float(word in said if edited else said == f" {word}"), 1.0))
    return counts


def dialogue(records: Sequence[tuple[str, str]], edited: bool) -> list[Count]:
    """(Right letter, text)."""
    counts = []
    for letter, text in records:
        said = text.split("the answer is")[-1]
        unanswered = edited and "Chi" in said
        counts.append((float(not unanswered and letter in said), 1.0))
    return counts


def nli(records: Sequence[tuple[bool, str]]) -> list[Count]:
    """(Is it entailed, text). `total_accuracy`: one with both words is counted twice."""
    counts = []
    for entailed, text in records:
        said = text.split("answer:")[-1].lower()
        true, false = "true" in said, "false" in said
        counts.append((float(true if entailed else false), float(true + false) or 1.0))
    return counts


def sentiment_analysis(records: Sequence[tuple[bool, str]]) -> list[Count]:
    """(Is it positive, text). `total_accuracy`."""
    said = [text.split("answer:")[-1].lower() for _, text in records]
    words = ["positive" if positive else "negative" for positive, _ in records]
    return [(float(word in text), 1.0) for word, text in zip(words, said, strict=True)]


def reasoning(records: Sequence[tuple[str, str]]) -> list[Count]:
    """(Solution with the answer behind "#### ", text)."""
    mark = "Therefore, the answer (arabic numerals) is:"
    return [(float(solution.split("#### ")[1] in text.split(mark)[1]), 1.0) for solution, text in records]


def open_domain_qa(records: Sequence[tuple[Sequence[str], str]]) -> list[Count]:
    """(Answers, text). The flag outlives the question that sets it."""
    counts, flag = [], False
    for answers, text in records:
        accepted = [_normal(answer) for answer in answers]
        words = _normal(text.split("Answer:")[-1].replace("\n", " ")).split(" ")
        hits = 0
        if words[0] in accepted or words[-1] in accepted:
            hits = 1
        else:
            for start in range(len(words) - 1):
                if words[start] in accepted:
                    hits += 1
                    continue
                if any(" ".join(words[start:end]) in accepted for end in range(start + 2, len(words) + 1)):
                    hits, flag = hits + 1, True
                if flag:
                    break
        counts.append((float(hits), 1.0))
    return counts


def ner(sentences: Sequence[tuple[Sequence[str], Sequence[str], dict[str, str]]]) -> dict[str, list[Count]]:
    """(Tokens, tags, type -> text). By type; the score is the mean of the four."""
    counts: dict[str, list[Count]] = {"PER": [], "LOC": [], "ORG": [], "MISC": []}
    for tokens, tags, texts in sentences:
        for kind, text in texts.items():
            said = text.split("Entity:")[1]
            gold = _gold(tokens, tags, f"B-{kind}")
            found = sum(entity in said for entity in gold)
            if gold:
                counts[kind].append((float(found), float(len(gold))))
            elif said == "":
                counts[kind].append((1.0, 1.0))
            else:
                counts[kind].append((0.0, float(kind == "MISC")))
    return counts


def summarization(records: Sequence[tuple[str, str]]) -> list[Count]:
    """(Reference, text). Where the package `rouge` raises an error, 0."""
    counts = []
    for reference, text in records:
        said = text.split("DR:")[-1]
        said = said[: max(0, len(said) - 13)]
        counts.append((_rouge(said, reference) if len(said) >= 2 else 0.0, 1.0))
    return counts


def _normal(text: str) -> str:
    kept = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _gold(tokens: Sequence[str], tags: Sequence[str], begin: str) -> list[str]:
    """Spans from a tag `begin` on to before an "O" or, if there is none, before the last token."""
    spans, at = [], 0
    while begin in tags[at:]:
        start = at + list(tags[at:]).index(begin)
        outside = [i for i in range(start, len(tags)) if tags[i] == "O"]
        at = outside[0] if outside else len(tags) - 1
        spans.append(" ".join(tokens[start:at]))
        at += 1
    return spans


def _rouge(said: str, wanted: str) -> float:
    ours, theirs = ([" ".join(part.split()) for part in text.split(".") if part != ""] for text in (said, wanted))
    if not ours or not theirs:
        return 0.0
    our_words, their_words = (" ".join(part).split(" ") for part in (ours, theirs))
    scores = []
    for size in (1, 2):
        mine, other = ({tuple(w[i:][:size]) for i in range(len(w) - size + 1)} for w in (our_words, their_words))
        scores.append(_f1(len(mine & other), len(mine), len(other)))
    union: set[str] = set()
    for sentence in theirs:
        for part in ours:
            union |= set(_subsequence(sentence.split(" "), part.split(" ")))
    scores.append(_f1(len(union), len(set(our_words)), len(set(their_words))))
    return sum(scores) / 3


def _f1(shared: int, said: int, wanted: int) -> float:
    precision, recall = (shared / size if size else 0.0 for size in (said, wanted))
    return 2.0 * (precision * recall) / (precision + recall + 1e-8)


def _subsequence(wanted: list[str], said: list[str]) -> list[str]:
    """By recursion from the ends; of ways that are equally long the one without the last word said."""
    known: dict[tuple[int, int], int] = {}

    def length(i: int, j: int) -> int:
        if min(i, j) == 0:
            return 0
        if (i, j) not in known:
            same = wanted[i - 1] == said[j - 1]
            known[i, j] = length(i - 1, j - 1) + 1 if same else max(length(i - 1, j), length(i, j - 1))
        return known[i, j]

    def words(i: int, j: int) -> list[str]:
        if min(i, j) == 0:
            return []
        if wanted[i - 1] == said[j - 1]:
            return [*words(i - 1, j - 1), wanted[i - 1]]
        return words(i - 1, j) if length(i - 1, j) > length(i, j - 1) else words(i, j - 1)

    return words(len(wanted), len(said))
