"""How likely a model finds texts, read off the passes in which it completes a prompt.

All values are of one sample, log p in nats. One that is not finite, as a broken model's are, is left out.

    text_logprob            mean log p of a token of the prompt, given those before it
    reference_logprob       mean log p of a token of the reference answer behind the prompt
    reference_logprob_best  the same of the likeliest of several reference answers
    choice_probability      p(right label word) / sum of p(label word), by the words' first tokens
    drift                   mean KL(unedited || edited) of the next token, at the prompt's last token and the answer's
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from core.lm.begun import Begun
from core.lm.model import LM
from core.lm.tokens import Row

TOP = 64
"""How many of the likeliest tokens an `Expected` tells apart."""
AT_ONCE = 1 << 25
"""Logits that are made at a time, 128 MiB of float32; of one text at least."""


@dataclass(frozen=True, eq=False)
class Expected:
    """What a model expects next at P positions: its `TOP` likeliest tokens, and all others as one outcome.

    `ids` (P, TOP) and `logp` (P, TOP + 1) float32, whose last column is that of the others.
    """

    ids: Tensor
    logp: Tensor

    @classmethod
    def of(cls, logp: Tensor) -> "Expected":
        """From log-probabilities (P, vocabulary)."""
        ids = logp.topk(min(TOP, logp.shape[1]), dim=1).indices
        return cls(ids, grouped(logp, ids))

    @classmethod
    def joined(cls, each: Iterable["Expected"]) -> "Expected":
        """At the positions of all of them."""
        parts = [(one.ids, one.logp) for one in each]
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def split(self, sizes: Sequence[int]) -> list["Expected"]:
        """At the first so many positions, at the next ...: on the host."""
        parts = zip(self.ids.cpu().split(sizes), self.logp.cpu().split(sizes), strict=True)
        return [Expected(*part) for part in parts]

    def drift(self, logp: Tensor) -> Tensor:
        """KL(these || others) in nats at each position, of the others' log-probabilities (P, vocabulary): (P,).

        A lower bound of the KL over all tokens: grouping outcomes never makes two distributions easier to tell apart
        (data processing; Cover and Thomas 2006, section 2.8). NaN where either is.
        """
        p, q = self.logp.to(logp.device), grouped(logp, self.ids.to(logp.device))
        terms = torch.where(p == -math.inf, 0.0, p.exp() * (p - q))
        return terms.sum(1).clamp(min=0)  # it is 0 or more, but for rounding


def grouped(logp: Tensor, ids: Tensor) -> Tensor:
    """Log p of the tokens `ids` (P, k), and of all others as one outcome: (P, vocabulary) -> (P, k + 1)."""
    others = logp.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)
    return torch.cat([logp.gather(1, ids), others], 1)


@dataclass(frozen=True, eq=False)
class Asked:
    """What is measured of one sample.

    The likelihood of its prompt if `text`; that of its `references`, the first of them above all, and if `best` of the
    likeliest; that of the label word that is `right`; the drift from what was expected `unedited`. What is `known`
    already is reported with it. `expect` is given what the model expects now.
    """

    text: bool = False
    references: tuple[Row, ...] = ()
    best: bool = False
    right: int | None = None
    unedited: Expected | None = None
    known: Mapping[str, float] = field(default_factory=dict)
    expect: Callable[[Expected], None] | None = None


Places = Mapping[int, Sequence[int]]
"""Of each that was asked its positions, among those that were read together."""


class Reading:
    """The measures of a batch of rows, read as they go through the model."""

    def __init__(self, lm: LM, asked: Sequence[Asked]) -> None:
        self.lm, self.asked = lm, asked
        self._values: list[dict[str, float]] = [dict(each.known) for each in asked]
        self._text = [(0.0, 0)] * len(asked)
        """Of what was read of each prompt, log p and how many tokens."""
        self._found: list[list[float]] = [[] for _ in asked]
        """Mean log p of a token, of each reference."""
        self._texts = [self._asked(k) for k in range(max((len(each.references) for each in asked), default=0) or 1)]
        """The k-th references of the rows."""

    @property
    def measures(self) -> list[dict[str, float]]:
        """Of each row, by their names."""
        return [{name: x for name, x in values.items() if math.isfinite(x)} for values in self._values]

    def prompts(
        self, each: Sequence[Sequence[int]], texts: Sequence[Row], states: Sequence[Tensor], last: Tensor | None
    ) -> None:
        """Off the final hidden states of texts, as `core.lm.pieces.Look` says."""
        asked = [j for j, rows in enumerate(each) if any(self.asked[i].text for i in rows)]
        if not asked:
            return
        # Each token is read off the state before it; the first of all has none.
        read = [states[j][:-1] if last is None else torch.cat([last[j : j + 1], states[j][:-1]]) for j in asked]
        ids = [texts[j][last is None :] for j in asked]
        logps = token_logp(self.lm, torch.cat(read), [*chain(*ids)]).split([*map(len, ids)])
        sums = torch.stack([logp.sum() for logp in logps]).tolist()
        for j, total, tokens in zip(asked, sums, map(len, ids), strict=True):
            for i in each[j]:
                self._text[i] = (self._text[i][0] + total, self._text[i][1] + tokens)
                if self.asked[i].text and self._text[i][1]:
                    self._values[i]["text_logprob"] = self._text[i][0] / self._text[i][1]

    def answers(self, begun: Begun) -> None:
        """Off the references put behind the rows: the first of each, then the second of those that have one, ..."""
        for k, texts in enumerate(self._texts):
            for at, logp in logp_behind(begun, {i: (i, text) for i, text in texts.items()}):
                self._answered(k, at, logp)
                del logp  # before the next are made

    def tails(self, numbers: Sequence[int], states: Sequence[Tensor]) -> None:
        """Off the first reference behind each row, run with it, as `core.lm.pieces.Read` says."""
        asked = {i: each for i, each in zip(numbers, states, strict=True) if i in self._texts[0]}
        own = {i: (i, each[:1], each[1:]) for i, each in asked.items()}
        for at, logp in _logp(self.lm, own):
            self._answered(0, at, logp)
            del logp  # before the next are made

    def _asked(self, k: int) -> dict[int, Row]:
        """The k-th reference of the rows that have one, and nothing for those of which only the next token is asked."""
        texts = {i: asked.references[k] for i, asked in enumerate(self.asked) if k < len(asked.references)}
        whole = [i for i, asked in enumerate(self.asked) if asked.unedited or asked.expect] if k == 0 else []
        return {i: texts.get(i, []) for i in sorted({*whole, *texts})}

    def _answered(self, k: int, at: Places, logp: Tensor) -> None:
        """What is asked of the k-th references, at these positions of some rows."""
        if k == 0:
            self._expectations(at, logp)
        own = {i: text for i in at if (text := self._texts[k][i])}
        for i, each in zip(own, of_tokens(logp, at, own), strict=True):
            found, values = self._found[i], self._values[i]
            found.append(float(each.mean()))
            values["reference_logprob"] = found[0]
            if self.asked[i].best:
                values["reference_logprob_best"] = max(found)

    def _expectations(self, at: Places, logp: Tensor) -> None:
        """What is asked of all that is expected next, at these positions of some rows.

        ValueError for an `unedited` of another answer's length.
        """
        before = {i: unedited for i in at if (unedited := self.asked[i].unedited)}
        if any(len(unedited.ids) != len(at[i]) for i, unedited in before.items()):
            raise ValueError("unedited: what is expected of other prompts and answers than these")
        if before:
            drift = Expected.joined(before.values()).drift(_of(logp, at, before)).cpu()
            for i, part in zip(before, drift.split([len(at[i]) for i in before]), strict=True):
                self._values[i]["drift"] = float(part.mean())
        told = {i: expect for i in at if (expect := self.asked[i].expect)}
        if told:
            now = Expected.of(_of(logp, at, told))
            for expect, part in zip(told.values(), now.split([len(at[i]) for i in told]), strict=True):
                expect(part)

    def choices(self, words: Row, logits: Tensor) -> list[int]:
        """The likeliest of the label words, by their first tokens in the next token's logits (rows, vocabulary)."""
        logits = logits[:, words]  # (rows, words)
        for values, asked, p in zip(self._values, self.asked, logits.softmax(-1).tolist(), strict=True):
            if asked.right is not None:
                values["choice_probability"] = p[asked.right]
        best: list[int] = logits.argmax(-1).tolist()
        return best


def token_logp(lm: LM, states: Tensor, ids: Row) -> Tensor:
    """Log p of token ids[j] read off states[j]: (N, d), N ids -> (N,) float32. Some of the logits at a time."""
    parts = []
    size = max(1, AT_ONCE // lm.vocabulary)
    for some, tokens in zip(
        states.split(size), torch.tensor(ids, dtype=torch.long, device=lm.device).split(size), strict=True
    ):
        logits = lm.logits(some).float()
        wanted = logits.gather(1, tokens.to(logits.device).unsqueeze(1)).squeeze(1)
        parts.append(wanted - logits.logsumexp(1))
    return torch.cat(parts)


def logp_behind(begun: Begun, asked: Mapping[int, tuple[int, Row]]) -> Iterator[tuple[Places, Tensor]]:
    """Log-probabilities of the next token at the last one of a row of `begun`, and at each of a text behind it.

    `asked` are numbers and of each which row, and the text. Yields some of them at a time: the positions of each, 1 +
    tokens of the text, and the log-probabilities at all positions, (positions, vocabulary) float32. Texts of one row
    that follow one another share the first.
    """
    texts = {i: pair for i, pair in asked.items() if pair[1]}
    found = begun.behind(*zip(*texts.values(), strict=True)) if texts else ()
    states = dict(zip(texts, found, strict=True))
    ends = {i: begun.last[row : row + 1] for i, (row, _) in asked.items()}
    return _logp(begun.lm, {i: (row, ends[i], states.get(i, ends[i])[: len(text)]) for i, (row, text) in asked.items()})


def _logp(lm: LM, asked: Mapping[int, tuple[int, Tensor, Tensor]]) -> Iterator[tuple[Places, Tensor]]:
    """Of each which row, the state of the row's last token, (1, d), and those of the text behind it, (tokens, d)."""
    size = max(1, AT_ONCE // lm.vocabulary)
    at: dict[int, list[int]] = {}
    read: list[Tensor] = []  # states
    count, latest = 0, -1  # positions so far, and the row of the last
    for i, (row, last, text) in asked.items():
        if at and count + 1 + len(text) > size:
            yield at, _next(lm, read)
            at, read, count, latest = {}, [], 0, -1
        if row != latest:
            read.append(last)
            first, latest, count = count, row, count + 1
        read.append(text)
        at[i] = [first, *range(count, count + len(text))]
        count += len(text)
    if at:
        yield at, _next(lm, read)


def _next(lm: LM, states: Sequence[Tensor]) -> Tensor:
    """Log-probabilities of the next token, (positions, vocabulary) float32."""
    return lm.logits(torch.cat([*states])).float().log_softmax(-1)


def _of(logp: Tensor, at: Places, some: Iterable[int]) -> Tensor:
    """At the positions of some rows, none of which shares one."""
    read = [position for i in some for position in at[i]]
    return logp if len(read) == len(logp) else logp[read]


def of_tokens(logp: Tensor, at: Places, texts: Mapping[int, Row]) -> Sequence[Tensor]:
    """Of the log-probabilities that `logp_behind` yields those of each text's tokens: (tokens,) each, on the host."""
    read = [position for i, text in texts.items() for position in at[i][: len(text)]]
    found: Sequence[Tensor] = logp[read, [*chain(*texts.values())]].cpu().split([*map(len, texts.values())])
    return found
