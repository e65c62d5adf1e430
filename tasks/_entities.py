"""From text to entities and back, for NER.

Reading a completion: its first line is split at commas, semicolons and the word "and" (in testa 81 pairs of neighbours
of one type are joined by "and", 10 entities hold one). A piece, without quotes and brackets around it, claims every
span of whole tokens that spells it, case and all but blanks: "St. Louis" matches however it was tokenised. Full stops
at its end belong to it only if it is not found without them ("Rome." is Rome, "U.S." is U.S.). Where claims overlap,
the longer one stays, then PER before LOC before ORG before MISC, then the first.
"""

import re
from collections.abc import Iterable, Sequence

from core.metrics import first_line

KINDS = ("PER", "LOC", "ORG", "MISC")

Span = tuple[str, int, int]
"""Type, first token, last token: as in seqeval."""

_SEPARATOR = re.compile(r"[,;]|\band\b", re.IGNORECASE)
_AROUND = " \t\r\"'`“”\u2018\u2019()[]{}<>*•:-"


def sentence(tokens: Sequence[str]) -> str:
    """Tokens joined by blanks, none before "," and "."."""
    return "".join(token if token in (",", ".") else f" {token}" for token in tokens).removeprefix(" ")


def claims(text: str, kind: str, tokens: Sequence[str]) -> set[Span]:
    """The spans of the sentence that a completion names."""
    pieces = [piece.strip(_AROUND).rstrip(".") for piece in _SEPARATOR.split(first_line(text))]
    return {
        (kind, first, last)
        for piece in pieces
        if piece.strip()
        for first, last in _spelled(piece, tokens) or _spelled(f"{piece}.", tokens)
    }


def iob2(spans: Iterable[Span], length: int) -> list[str]:
    """Tags of a sentence of `length` tokens, overlaps settled."""
    tags = ["O"] * length
    for kind, first, last in sorted(spans, key=lambda span: (span[1] - span[2], KINDS.index(span[0]), span[1])):
        if all(tag == "O" for tag in tags[first : last + 1]):
            tags[first : last + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
    return tags


def released_spans(kind: str, tokens: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The released gold spans: from a B-tag of the type to before the next "O", whatever is tagged between.

    If no "O" follows, to before the sentence's last token: an entity that starts there is the empty string.
    """
    spans, k = [], 0
    while k < len(tags):
        if tags[k] == f"B-{kind}":
            end = next((m for m in range(k, len(tags)) if tags[m] == "O"), len(tags) - 1)
            spans.append(" ".join(tokens[k:end]))
            k = end
        k += 1
    return spans


def released_counts(kind: str, spans: Sequence[str], text: str) -> tuple[int, int]:
    """(found, out of) of one prompt. Without gold spans an empty completion is found; any other counts for MISC only.

    The completion ends where it repeats "Entity:", the word the released code cuts the prompt off at.
    """
    text = text.partition("Entity:")[0]
    if spans:
        return sum(span in text for span in spans), len(spans)
    return int(not text), int(not text or kind == "MISC")


def _spelled(piece: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """First and last token of every span that reads like the piece, blanks apart."""
    target, spans = "".join(piece.split()), []
    for first in range(len(tokens)):
        text = ""
        for last in range(first, len(tokens)):
            text += tokens[last]
            if not target.startswith(text):
                break
            if text == target:
                spans.append((first, last))
    return spans
