"""From text to token ids and padded tensors: prompts, continuations, the place of a subject."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UserError
from core.lm.model import LM
from core.messages import short
from core.subject import place
from core.types import Edit

Row = list[int]
"""Token ids of one text."""


def encode(lm: LM, text: str) -> Row:
    """Ids of a prompt, with the BOS the tokenizer adds if it adds one. Special-token names in `text` are just text.

    An EOS that the tokenizer puts behind every text is left out: a prompt goes on.
    """
    ids = _ids(lm, text)
    return ids[: len(ids) - lm.tokens_behind]


def encode_all(lm: LM, texts: Sequence[str]) -> list[Row]:
    """`encode` of each text. Together, because a tokenizer has threads of its own for many."""
    rows: list[Row] = lm.tokenizer([*texts], split_special_tokens=True)["input_ids"] if texts else []
    for text, ids in zip(texts, rows, strict=True):
        _checked(lm, text, ids)
    return [ids[: len(ids) - lm.tokens_behind] for ids in rows]


def continuation(lm: LM, text: str, most: int | None = None) -> Row:
    """Ids of `text` as it continues a prompt; with `most`, no more than so many, else UserError for a text too long.

    Tokenised behind a newline, whose ids are then dropped: a sentencepiece tokenizer would else add (or swallow) a
    blank at the start. For byte-level BPE this is plain tokenisation.
    """
    anchor, joined = (_ids(lm, t, add_special_tokens=False) for t in ("\n", "\n" + text))
    if joined[: len(anchor)] != anchor:
        raise UserError(
            f"the tokenizer of '{lm.name}' joins a line break with {short(text)}: cannot tokenise it on its own"
        )
    ids: Row = joined[len(anchor) :][:most]
    if most is None and len(ids) >= lm.context:
        raise UserError(f"{short(text)} is {len(ids)} tokens long, all of the {lm.context} that '{lm.name}' takes")
    return ids


def _ids(lm: LM, text: str, **options: bool) -> Row:
    """What the tokenizer makes of `text`. UserError for a token that the model has no embedding for."""
    return _checked(lm, text, lm.tokenizer(text, split_special_tokens=True, **options)["input_ids"])


def _checked(lm: LM, text: str, ids: Row) -> Row:
    if max(ids, default=0) >= lm.vocabulary:
        raise UserError(
            f"{short(text.strip())} has token {max(ids)}, but '{lm.name}' has {lm.vocabulary} embeddings: "
            "put the model's own tokenizer files into its folder"
        )
    return ids


def decode(lm: LM, rows: Sequence[Row], special: bool = False) -> list[str]:
    """The texts of `rows` as they continue a prompt, with or without their special tokens.

    Decoded behind a letter, which is then cut off: a sentencepiece tokenizer would else swallow a blank at the start.
    For byte-level BPE this is plain decoding.
    """
    anchor = _ids(lm, "a", add_special_tokens=False)
    first, *texts = lm.tokenizer.batch_decode(
        [anchor, *(anchor + row for row in rows)], skip_special_tokens=not special
    )
    return [text[len(first) :] for text in texts]


def target_ids(lm: LM, target: str) -> Row:
    """Ids of an edit's target; exactly one blank is put in front unless it starts with one.

    UserError for one behind which no prompt fits.
    """
    ids = continuation(lm, target if target.startswith(" ") else f" {target}")
    if len(ids) > lm.context - 2:  # a BOS and a token of the prompt
        raise UserError(f"{short(target)} is {len(ids)} tokens long, too long for a prompt and it in {lm.context}")
    return ids


@contextmanager
def of_edit(edit: Edit) -> Iterator[None]:
    """A UserError about one of its texts names the edit."""
    try:
        yield
    except UserError as error:
        raise UserError(f"edit {edit.index}: {error}") from error


def split_prompt(edit: Edit) -> tuple[str, str]:
    """The prompt before and after its subject (if it is there more than once, where `core.subject.place` says)."""
    at = place(edit.prompt, edit.subject)
    if at < 0:
        raise UserError(f"edit {edit.index}: the subject {edit.subject!r} is not in its prompt {edit.prompt!r}")
    return edit.prompt[:at], edit.prompt[at + len(edit.subject) :]


def in_template(lm: LM, template: str, edit: Edit) -> tuple[Row, int]:
    """Ids of the edit's prompt in a context template, and the index of its subject's last token there.

    The index is that of the last token of the text up to and including the subject, tokenised up to there.
    """
    before, after = split_prompt(edit)
    opening, closing = template.split("{}")
    head = opening + before + edit.subject
    ids = encode(lm, head + after + closing)
    return ids, min(len(encode(lm, head)), len(ids)) - 1


@dataclass(frozen=True, slots=True)
class Padded:
    """Rows of tokens as one rectangle: `ids`, `mask` and `positions`, each (rows, width); `full`: none is padding.

    Where that is not known it is false.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    full: bool = False

    def columns(self, start: int) -> "Padded":
        """The columns from `start` on, with the mask still over all columns (what a cached prefix needs)."""
        return Padded(self.ids[:, start:], self.mask, self.positions[:, start:])

    def rows(self, index: Tensor) -> "Padded":
        index = index.to(self.ids.device)
        return Padded(self.ids[index], self.mask[index], self.positions[index])


def pad(lm: LM, rows: Sequence[Row], align: Sequence[int] | None = None) -> Padded:
    """Left-pad `rows` to one width; with `align`, so that token `align[j]` of each row j stands in the same column."""
    marks = [len(row) for row in rows] if align is None else align
    column = max(marks)
    width = column + max(len(row) - mark for row, mark in zip(rows, marks, strict=True))
    ids = torch.full((len(rows), width), lm.pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for j, (row, mark) in enumerate(zip(rows, marks, strict=True)):
        start = column - mark
        ids[j, start : start + len(row)] = torch.tensor(row)
        mask[j, start : start + len(row)] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Padded(placed(lm, ids), placed(lm, mask), placed(lm, positions), bool(mask.all()))


def placed(lm: LM, numbers: Tensor | Sequence[int]) -> Tensor:
    """Numbers from the host where the model's inputs go. Nobody waits for a GPU to have come so far."""
    return torch.as_tensor(numbers).to(lm.device, non_blocking=True)
