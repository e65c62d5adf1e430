"""Values and errors from outside as they go into a one-line message."""

import reprlib

MERGE = "merge it into its base model first (peft: merge_and_unload, then save_pretrained), and name that folder"
"""What to do with an adapter."""


class _Short(reprlib.Repr):
    """A repr whose cost is bounded, whatever the value: shared lists inside lists, numbers of thousands of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 200
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 20

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < 4096 else "a number of thousands of digits"


def short(value: object, limit: int = 60) -> str:
    """`value` as Python writes it, on one line and cut to `limit` characters."""
    text = _Short().repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def first_line(error: BaseException, limit: int = 300) -> str:
    """What an error says in its first line that is not blank, cut to `limit` characters; its class if it says nothing.

    Libraries put what they were given into their errors, however long it is.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
