"""How likely a model finds texts, read off the passes in which it completes a prompt.

All values are of one sample, log p in nats. One that is not finite, as a broken model's are, is left out.

    text_logprob            mean log p of a token of the prompt, given those before it
    reference_logprob       mean log p of a token of the reference answer behind the prompt
    reference_logprob_best  the same of the likeliest of several reference answers
    choice_probability      p(right label word) / sum of p(label word), by the words' first tokens
    drift                   mean KL(unedited || edited) of the next token, at the prompt's last token and the answer's
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from core.lm.begun import Begun, Prefix
from core.lm.model import LM
from core.lm.tokens import Row

TOP = 64
"""How many of the likeliest tokens an `Expected` tells apart."""
AT_ONCE = 1 << 25
"""Logits that are made at a time, 128 MiB of float32."""


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


class Reading:
    """The measures of a batch of `rows` behind `prefix`, read as they go through the model."""

    def __init__(self, lm: LM, prefix: Prefix, rows: Sequence[Row], asked: Sequence[Asked]) -> None:
        self.lm, self.prefix, self.rows, self.asked = lm, prefix, rows, asked
        self._values: list[dict[str, float]] = [dict(each.known) for each in asked]

    @property
    def measures(self) -> list[dict[str, float]]:
        """Of each row, by their names."""
        return [{name: x for name, x in values.items() if math.isfinite(x)} for values in self._values]

    def prompts(self, piece: range, states: Tensor) -> None:
        """Off the final hidden states of some rows, (rows, columns, d), padded on the left."""
        asked = [(i, row[-len(self.rows[i]) :]) for i, row in zip(piece, states, strict=True) if self.asked[i].text]
        if not asked:
            return
        start = states.new_empty(0, states.shape[-1]) if self.prefix.states is None else self.prefix.states
        # Each token is read off the state before it; the first of all has none.
        read = [start[:-1], *(torch.cat([start[-1:], row[:-1]]) for _, row in asked)]
        ids = [self.prefix.ids[1:], *(self.rows[i][not self.prefix.ids :] for i, _ in asked)]
        common, *own = token_logp(self.lm, torch.cat(read), [*chain(*ids)]).split([len(row) for row in ids])
        for (i, _), logp in zip(asked, own, strict=True):
            if tokens := len(common) + len(logp):
                self._values[i]["text_logprob"] = float(common.sum() + logp.sum()) / tokens

    def answers(self, begun: Begun) -> None:
        """Off the references put behind the rows: the first of each, then the second of those that have one, ..."""
        found: list[list[float]] = [[] for _ in self.rows]
        for k in range(max(len(asked.references) for asked in self.asked) or 1):
            texts = {i: asked.references[k] for i, asked in enumerate(self.asked) if k < len(asked.references)}
            whole = [i for i, asked in enumerate(self.asked) if asked.unedited or asked.expect] if k == 0 else []
            for i, logp in logp_behind(begun, {i: [] for i in whole} | texts):
                asked = self.asked[i]
                if i in whole and asked.unedited:
                    self._values[i]["drift"] = float(asked.unedited.drift(logp).mean())
                if i in whole and asked.expect:
                    asked.expect(Expected.of(logp.cpu()))
                if text := texts.get(i):
                    found[i].append(float(logp[range(len(text)), text].mean()))
        for values, asked, logps in zip(self._values, self.asked, found, strict=True):
            if logps:
                values |= {"reference_logprob": logps[0]} | (
                    {"reference_logprob_best": max(logps)} if asked.best else {}
                )

    def choices(self, words: Row, begun: Begun) -> list[int]:
        """Off the next-token logits of the label words' first tokens; returns which word is the likeliest."""
        logits = begun.logits[:, words]  # (rows, words)
        for values, asked, p in zip(self._values, self.asked, logits.softmax(-1).tolist(), strict=True):
            if asked.right is not None:
                values["choice_probability"] = p[asked.right]
        best: list[int] = logits.argmax(-1).tolist()
        return best


def token_logp(lm: LM, states: Tensor, ids: Row) -> Tensor:
    """Log p of token ids[j] read off states[j]: (N, d), N ids -> (N,) float32. Some of the logits at a time."""
    parts = []
    size = max(1, AT_ONCE // lm.vocabulary)
    for some, tokens in zip(states.split(size), torch.tensor(ids, device=lm.device).split(size), strict=True):
        logits = lm.logits(some).float()
        wanted = logits.gather(1, tokens.to(logits.device).unsqueeze(1)).squeeze(1)
        parts.append(wanted - logits.logsumexp(1))
    return torch.cat(parts)


def logp_behind(begun: Begun, texts: Mapping[int, Row]) -> Iterator[tuple[int, Tensor]]:
    """Per row of `begun` named, log-probabilities of the next token at its last one and at each of the text behind it.

    (1 + tokens of the text, vocabulary) float32 each.
    """
    some = [i for i, text in texts.items() if text]
    states = dict(zip(some, begun.behind(some, [texts[i] for i in some]), strict=True)) if some else {}
    for i, text in texts.items():
        last = begun.last[i : i + 1]
        read = torch.cat([last, states[i][: len(text)]]) if text else last
        yield i, begun.lm.logits(read).float().log_softmax(-1)
