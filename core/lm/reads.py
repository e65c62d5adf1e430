"""Prompts with their answers as one rectangle, and log p of the answers there or behind prompts that went before.

Teacher-forced: a row is a prompt and its answer but for the answer's last token, which is no input. Each token of the
answer is read one position before its own. The search for v*, fine-tuning, MEND and causal tracing read the rectangle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.lm.batches import in_batches
from core.lm.begun import Begun
from core.lm.likelihood import logp_behind, of_tokens
from core.lm.model import LM
from core.lm.pieces import begin
from core.lm.tokens import Padded, Row, pad, placed


def joined(prompt: Row, answer: Row) -> Row:
    """The input from which all of `answer` is read after `prompt`."""
    return prompt + answer[:-1]


@dataclass(frozen=True)
class Reads:
    """R rows of `joined` prompts and answers, and the N places where the tokens of their answers are read.

    Read n: at `row[n]`, `column[n]` of the final hidden states the model should say `token[n]`, each (N,). A row's
    reads stand together, in the order of its answer; rows are in order.
    """

    tokens: Padded
    row: Tensor
    column: Tensor
    token: Tensor

    @classmethod
    def of(cls, lm: LM, rows: Sequence[Row], answers: Sequence[Row], align: Sequence[int] | None = None) -> "Reads":
        """`rows` are joined with their `answers` (an empty answer: a row that is only run); `align` as for `pad`."""
        marks = [len(row) for row in rows] if align is None else align
        ends = [max(marks) - mark + len(row) for row, mark in zip(rows, marks, strict=True)]
        reads = [
            (r, end - len(answer) + i, token)
            for r, (end, answer) in enumerate(zip(ends, answers, strict=True))
            for i, token in enumerate(answer)
        ]
        row, column, token = placed(lm, torch.tensor(reads, dtype=torch.long).view(-1, 3)).T
        return cls(pad(lm, rows, align), row, column, token)

    def rows(self, index: Tensor) -> "Reads":
        """The same for some of the rows, or for one row several times: `index` (R',) names them."""
        index = index.to(self.row.device)
        row, read = (index.unsqueeze(1) == self.row).nonzero().T
        return Reads(self.tokens.rows(index), row, self.column[read], self.token[read])

    def logp(self, lm: LM, final: Tensor, start: int = 0) -> Tensor:
        """Log-probabilities over the vocabulary at the reads, (N, vocabulary) float32.

        `final` are the rows' final hidden states from column `start` on: (R, columns - start, d).
        """
        return lm.logits(self.states(final, start)).to(self.token.device, torch.float32).log_softmax(-1)

    def states(self, final: Tensor, start: int = 0) -> Tensor:
        """The final hidden states at the reads, (N, d), of those from column `start` on: (R, columns - start, d)."""
        return final[self.row.to(final.device), self.column.to(final.device) - start]

    def wanted(self, logp: Tensor) -> Tensor:
        """Log p of the answers' tokens: (N, vocabulary) -> (N,)."""
        return logp.gather(1, self.token.unsqueeze(1)).squeeze(1)

    def sums(self, values: Tensor) -> Tensor:
        """Sum over each row's reads: (N,) -> (R,)."""
        return values.new_zeros(len(self.tokens.ids)).index_add(0, self.row, values)


@torch.inference_mode()
def log_probabilities(lm: LM, rows: Sequence[Row], answers: Sequence[Sequence[Row]]) -> list[list[Tensor]]:
    """Log p of each token of each of a row's answers behind it: one pass over the row for all of them.

    (tokens of the answer,) float32, in the answers' order. Their sum is log p of the answer, their mean that of a
    token. Answers hold at least one token and, with their rows, fit the model's context.
    """

    def work(batch: list[tuple[Row, Sequence[Row]]]) -> list[list[Tensor]]:
        return weighed(begin(lm, [row for row, _ in batch]), [several for _, several in batch])

    def held(pair: tuple[Row, Sequence[Row]]) -> int:
        row, several = pair
        return len(row) + sum(len(row) + len(answer) for answer in several if len(answer) > 1)

    return in_batches(list(zip(rows, answers, strict=True)), work, lm, held, what="probabilities")


def weighed(begun: Begun, answers: Sequence[Sequence[Row]]) -> list[list[Tensor]]:
    """As `log_probabilities`, of rows that have begun."""
    asked = dict(enumerate((row, answer) for row, several in enumerate(answers) for answer in several))
    found: list[Tensor] = []
    for at, logp in logp_behind(begun, {i: (row, answer[:-1]) for i, (row, answer) in asked.items()}):
        found += of_tokens(logp, at, {i: asked[i][1] for i in at})
        del logp  # before the next are made
    each = iter(found)
    return [[next(each) for _ in several] for several in answers]
