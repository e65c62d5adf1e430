"""The prompts of an edit as tokens, and those of several edits as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from core.errors import UserError
from core.lm.model import LM
from core.lm.reads import Reads, joined
from core.lm.tokens import Row, encode, in_template, of_edit, target_ids
from core.types import Edit


@dataclass(frozen=True)
class Prompts:
    """One edit as token rows: N templates with all but the last target token, then the KL prompt "{subject} is a".

    `at` is the index of the subject's last token in each row, `target` the n target ids.
    """

    rows: list[Row]
    at: list[int]
    target: Row

    @property
    def columns(self) -> int:
        """How many columns a step of the search runs: those from the subject's last token on."""
        return max(len(row) - at for row, at in zip(self.rows, self.at, strict=True))


def prompts_of(lm: LM, edit: Edit, templates: Sequence[str]) -> Prompts:
    with of_edit(edit):
        target = target_ids(lm, edit.target)
    placed = [in_template(lm, template, edit) for template in templates]
    rows = [joined(ids, target) for ids, _ in placed] + [encode(lm, f"{edit.subject} is a")]
    longest = max(map(len, rows))
    if longest > lm.context:
        raise UserError(
            f"edit {edit.index}: {longest} tokens long with its template and target, but '{lm.name}' takes {lm.context}"
        )
    return Prompts(rows, [at for _, at in placed] + [len(encode(lm, edit.subject)) - 1], target)


@dataclass(frozen=True)
class Batch:
    """The rows of several edits in one rectangle, every subject's last token in the same column.

    Rows are those of the first edit, then of the second, ...; N templates and one KL row each.
    """

    lm: LM
    edits: list[Prompts]

    @cached_property
    def column(self) -> int:
        return max(at for edit in self.edits for at in edit.at)

    @cached_property
    def reads(self) -> Reads:
        """The target after each template; nothing is read after the KL prompts."""
        rows, answers, at = zip(
            *(
                (row, edit.target if j < self.rows_each - 1 else [], at)
                for edit in self.edits
                for j, (row, at) in enumerate(zip(edit.rows, edit.at, strict=True))
            ),
            strict=True,
        )
        return Reads.of(self.lm, rows, answers, at)

    @property
    def rows_each(self) -> int:
        return len(self.edits[0].rows)

    @cached_property
    def of(self) -> Tensor:
        """Each read's edit, (N,)."""
        return self.reads.row // self.rows_each

    @cached_property
    def mean(self) -> Tensor:
        """What takes the mean of each edit's reads, (E, N): a GPU does products in one order, `index_add` in any."""
        own = (torch.arange(len(self.edits), device=self.of.device).unsqueeze(1) == self.of).float()
        return own / own.sum(1, keepdim=True)

    def nll(self, logp: Tensor) -> Tensor:
        """-log p of each edit's target, the mean over templates and tokens: (N, vocabulary) at the reads -> (E,)."""
        return -self.mean @ self.reads.wanted(logp)

    def likeliest(self, logp: Tensor) -> Tensor:
        """Whether each token of an edit's target is the likeliest in all templates: as for `nll`, -> (E,)."""
        missed = (logp.argmax(1) != self.reads.token).long()
        return missed.new_zeros(len(self.edits)).index_add(0, self.of, missed) == 0

    def prepare(self) -> None:
        """Make what its losses are read with. That copies from the host, which no recorded step may."""
        _ = self.reads, self.mean

    def some(self, kept: Sequence[int]) -> tuple["Batch", Tensor]:
        """The batch of some of the edits, and the rows that stay."""
        rows = torch.arange(len(self.edits) * self.rows_each, device=self.lm.device).view(len(self.edits), -1)
        return Batch(self.lm, [self.edits[e] for e in kept]), rows[kept].flatten()
