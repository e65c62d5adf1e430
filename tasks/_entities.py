"""From text to entities and back, for NER.

Reading a completion: its first line is split at commas and semicolons. A piece claims every span of whole tokens that
spells it, case and all but blanks: "St. Louis" matches however it was tokenised. What one pair of quotes or brackets
encloses is tried first, then the piece as it is ("Union ( K )"), then without any around it. Only where all of that
finds nothing it is split at the word "and": "Order and Law Party" is one entity (10 of testa hold an "and"), and so is
"Ada and Bo" if the sentence has these words, too (81 pairs of neighbours of one type there). Full stops at its end
belong to a piece only if it is not found without them ("Rome." is Rome, "U.S." is U.S.) or a blank is before them.
Where claims overlap, the longer one stays, then PER before LOC before ORG before MISC, then the first.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from core.metrics import first_line

KINDS = ("PER", "LOC", "ORG", "MISC")

Span = tuple[str, int, int]
"""Type, first token, last token: as in seqeval."""

_SEPARATOR = re.compile(r"[,;]")
_AND = re.compile(r"\band\b", re.IGNORECASE)
_BULLETS = " \t\r*•:-"
_PARTNER = dict(zip("\"'`“”\u2018\u2019()[]{}<>", "\"'`”“\u2019\u2018)(][}{><", strict=True))
"""Of a quotation mark or a bracket."""
_AROUND = _BULLETS + "".join(_PARTNER)


def sentence(tokens: Sequence[str]) -> str:
    """Tokens joined by blanks, none before "," and "."."""
    return "".join(token if token in (",", ".") else f" {token}" for token in tokens).removeprefix(" ")


def claims(text: str, kind: str, tokens: Sequence[str], whole: bool = True) -> set[Span]:
    """The spans of the sentence that a completion names.

    `whole` False: as older versions read it, no piece with an "and", quotes or brackets around it.
    """
    named = _named if whole else _named_without
    return {
        (kind, first, last)
        for piece in _SEPARATOR.split(first_line(text))
        for part in ([piece] if whole and named(piece, tokens) else _AND.split(piece))
        for first, last in named(part, tokens)
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

    `text`: the completion with special tokens, up to where it repeats "Entity:". The end token alone is not empty.
    """
    if spans:
        return sum(span in text for span in spans), len(spans)
    return int(not text), int(not text or kind == "MISC")


def _named(piece: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """First and last token of what a piece names: of its readings the first that is in the sentence."""
    for reading in _readings(piece.strip(_BULLETS)):
        text = reading.strip()
        bare = text.rstrip(".").strip()
        for spelling in (text if text.endswith(" .") else bare, bare, f"{bare}."):
            if bare and (spans := _spelled(spelling, tokens)):
                return spans
    return []


def _named_without(piece: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """The same of a piece without anything around it."""
    text = piece.strip(_AROUND).rstrip(".")
    return (_spelled(text, tokens) or _spelled(f"{text}.", tokens)) if text.strip() else []


def _readings(piece: str) -> Iterator[str]:
    """What one pair encloses; the piece, unless it begins or ends with half a pair; the piece without any around it, at
    last also behind a full stop: '"Rome".'."""
    first, inner, last = piece[:1], piece[1:-1], piece[-1:]
    if _PARTNER.get(first) == last and not {first, last} & {*inner}:
        yield inner
    if all(_PARTNER.get(edge, "") in rest for edge, rest in ((first, piece[1:]), (last, piece[:-1]))):
        yield piece
    yield piece.strip(_AROUND)
    yield piece.rstrip(". ").strip(_AROUND)


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
