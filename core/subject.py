"""Where a prompt's subject stands."""

import re
import unicodedata


def place(prompt: str, subject: str) -> int:
    """Where the subject begins: its last occurrence as a whole word, else its last one; -1 if there is none."""
    if not subject:
        return -1
    starts = [found.start() for found in re.finditer(f"(?={re.escape(subject)})", prompt)]
    return max(starts, key=lambda at: (whole(prompt, at, len(subject)), at), default=-1)


def whole(prompt: str, at: int, length: int) -> bool:
    """Whether the stretch begins and ends at word borders: "Niger" does not in "Nigeria".

    Only letters of scripts with upper and lower case, digits and accents continue a word: others may stand side by side
    without a blank, word by word.
    """
    end = at + length
    ends = (prompt[at - 1 : at + 1] if at else "", prompt[end - 1 : end + 1] if end < len(prompt) else "")
    return not any(len(pair) == 2 and _inside(*pair) for pair in ends)


def _inside(left: str, right: str) -> bool:
    """Whether there is no border between two characters that stand side by side."""
    return unicodedata.combining(right) > 0 or (_in_word(left) and _in_word(right))


def _in_word(character: str) -> bool:
    return character.isdecimal() or character.lower() != character.upper() or unicodedata.combining(character) > 0
