"""ROUGE as the released code has it, from the package `rouge` (1.0.1): not the numbers of ROUGE-1.5.5 or rouge-score.

Words are what blanks separate, case and commas included; sentences end at any full stop. Everything is counted as a
set, so that a word said twice counts once, and ROUGE-L asks how many words the longest common subsequences of all pairs
of sentences have together. Of several longest ones that of `_common` counts.
"""

from collections.abc import Iterable, Sequence

CUT = 13
"""Characters that the released code drops from the end of every summary: as many as "<|endoftext|>" has."""


def released_score(reference: str, text: str) -> float:
    """Mean F1 of ROUGE-1, -2 and -L of `text`, the completion with special tokens behind its last "DR:".

    One that has a character at most without its last 13 scores 0, and so does one of full stops alone, at which the
    released code stops with an error.
    """
    summary = text[:-CUT]
    if len(summary) <= 1 or not _sentences(summary) or not _sentences(reference):
        return 0.0
    said, wanted = _sentences(summary), _sentences(reference)
    words, pairs = ((_grams(said, n), _grams(wanted, n)) for n in (1, 2))
    common = {word for line in wanted for other in said for word in _common(line.split(" "), other.split(" "))}
    shared = (len(words[0] & words[1]), len(pairs[0] & pairs[1]), len(common))
    return sum(_f1(n, *map(len, sets)) for n, sets in zip(shared, (words, pairs, words), strict=True)) / 3


def _sentences(text: str) -> list[str]:
    """A sentence of blanks alone counts, as one empty word."""
    return [" ".join(sentence.split()) for sentence in text.split(".") if sentence]


def _grams(sentences: Iterable[str], n: int) -> set[tuple[str, ...]]:
    words = [word for sentence in sentences for word in sentence.split(" ")]
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _f1(shared: int, said: int, wanted: int) -> float:
    precision, recall = (shared / size if size else 0.0 for size in (said, wanted))
    return 2 * precision * recall / (precision + recall + 1e-8)


def _common(wanted: Sequence[str], said: Sequence[str]) -> list[str]:
    """A longest common subsequence, read off from the ends: where the last words differ, the last one said goes first.

    Except if more can be shared without the last one wanted.
    """
    length = [[0] * (len(said) + 1) for _ in range(len(wanted) + 1)]  # of the first i wanted and the first j said
    for i, word in enumerate(wanted, start=1):
        for j, other in enumerate(said, start=1):
            longer = max(length[i - 1][j], length[i][j - 1])
            length[i][j] = length[i - 1][j - 1] + 1 if word == other else longer
    i, j, common = len(wanted), len(said), []
    while i and j:
        if wanted[i - 1] == said[j - 1]:
            i, j = i - 1, j - 1
            common.append(wanted[i])
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return common
