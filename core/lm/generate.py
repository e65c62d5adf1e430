"""The only place that asks the model for text."""

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from core.errors import UserError
from core.lm.batches import in_batches
from core.lm.begun import Begun
from core.lm.likelihood import Asked, Expected, Reading
from core.lm.model import LM
from core.lm.pieces import Prefix, begin, passed, shared_prefix
from core.lm.reads import weighed
from core.lm.tokens import Row, continuation, decode, encode_all
from core.types import Completion

REFERENCE = 64
"""Tokens of a reference answer that are read."""


@torch.inference_mode()
def complete(
    lm: LM,
    prompts: Sequence[str],
    max_new_tokens: int,
    choices: tuple[str, ...] = (),
    batch_tokens: int | None = None,
    done: MutableMapping[int, Completion] | None = None,
    asked: Sequence[Asked] | None = None,
) -> list[Completion]:
    """Greedy completions of `prompts`, in their order.

    Prompts are batched under a budget of `batch_tokens`, which never changes a completion; what all of them start with
    is run once, what some of them start with once in a batch. One that does not fit the model's context loses tokens on
    its left (a BOS stays). With `choices`, the word whose first token, behind a blank, is the likeliest next one is
    reported too. `done` is as for `in_batches`. What is `asked` of each prompt is measured on the way and changes no
    completion.
    """
    if not prompts:
        return []
    rows, cut, asked = _fitted(lm, prompts, max_new_tokens, asked or [Asked()] * len(prompts))
    words, ends = first_tokens(lm, choices), _ends(lm)
    prefix = shared_prefix(lm, rows, max(max_new_tokens, REFERENCE))

    def work(batch: list[tuple[Row, bool, Asked]]) -> list[Completion]:
        own, _, questions = zip(*batch, strict=True)
        reading, begun = _read(lm, own, questions, prefix, max_new_tokens)
        if isinstance(begun, Begun):
            best = reading.choices(words, begun.logits) if choices else []
            new = _continued(lm, begun, max_new_tokens, ends)
        else:
            logits = lm.logits(begun).float()
            best, new = reading.choices(words, logits) if choices else [], _likeliest(logits)
        chosen = [choices[i] for i in best] if choices else [None] * len(batch)
        texts = decode(lm, [_until(ids, ends) for ids, _ in new])
        full = decode(lm, [ids for ids, _ in new], special=True)
        return [
            Completion(text, choice, cut, finite, ids[-1] in ends, None if seen == text else seen, measures)
            for text, seen, choice, (_, cut, _), (ids, finite), measures in zip(
                texts, full, chosen, batch, new, reading.measures, strict=True
            )
        ]

    each, order = list(zip(rows, cut, asked, strict=True)), prefix.order(rows)
    return in_batches(
        each, work, lm, lambda row: len(row[0]) + max_new_tokens, batch_tokens, done, "completions", order
    )


@torch.inference_mode()
def expected(lm: LM, prompts: Sequence[str], max_new_tokens: int, references: Sequence[Row]) -> list[Expected]:
    """What the model expects next at the end of each prompt and at each token of its reference (none: []) behind it.

    `complete` of the same prompts, with as many new tokens, reads a drift from it at the same positions.
    """
    if not prompts:
        return []
    rows, _, asked = _fitted(lm, prompts, max_new_tokens, [Asked(references=(text,)) for text in references])
    prefix = shared_prefix(lm, rows, max(max_new_tokens, REFERENCE))

    def work(batch: list[tuple[Row, Asked]]) -> list[Expected]:
        found: dict[int, Expected] = {}
        questions = [replace(each, expect=partial(found.__setitem__, i)) for i, (_, each) in enumerate(batch)]
        _read(lm, [row for row, _ in batch], questions, prefix, max_new_tokens)
        return [found[i] for i in range(len(batch))]

    pairs, order = list(zip(rows, asked, strict=True)), prefix.order(rows)
    return in_batches(pairs, work, lm, lambda pair: len(pair[0]) + max_new_tokens, what="unedited", order=order)


def _read(
    lm: LM, rows: Sequence[Row], asked: Sequence[Asked], prefix: Prefix, max_new_tokens: int
) -> tuple[Reading, Begun | Tensor]:
    """Run whole `rows`, measuring what is `asked` of each: the measures, and the rows, to go on behind them.

    Where one token is all that comes, and no row has more than one reference, that is run with the row, and instead of
    the rows the final hidden states of their last tokens are returned, (R, d).
    """
    reading, own = Reading(lm, asked), [row[prefix.length :] for row in rows]
    if max_new_tokens == 1 and all(len(each.references) < 2 for each in asked):
        tails = [each.references[0] if each.references else [] for each in asked]
        return reading, passed(lm, own, prefix, reading.prompts, tails, reading.tails)
    begun = begin(lm, own, prefix, reading.prompts)
    reading.answers(begun)
    return reading, begun


def _fitted(
    lm: LM, prompts: Sequence[str], max_new_tokens: int, asked: Sequence[Asked]
) -> tuple[list[Row], list[bool], list[Asked]]:
    """Prompts with room for the new tokens, which of them had to be cut, and as much of the references as is read."""
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens: expected 1 or more, got {max_new_tokens}")
    fitted = [fit(lm, row, max_new_tokens) for row in encode_all(lm, prompts)]
    short = [
        replace(each, references=tuple(text[: min(REFERENCE, lm.context - len(row))] for text in each.references))
        for each, (row, _) in zip(asked, fitted, strict=True)
    ]
    return [row for row, _ in fitted], [cut for _, cut in fitted], short


def first_tokens(lm: LM, words: Sequence[str]) -> Row:
    """The first token of each word behind a blank. UserError if two words start with the same one."""
    first = [continuation(lm, f" {word}")[0] for word in words]
    if len({*first}) < len(first):
        raise UserError(
            f"the tokenizer of '{lm.name}' starts two of the label words {', '.join(words)} with the same token: one "
            "token cannot tell them apart; choose a model whose tokens hold the blank and the word behind it"
        )
    return first


def fit(lm: LM, row: Row, new_tokens: int) -> tuple[Row, bool]:
    """The prompt ids with room left for `new_tokens`, and whether tokens had to go.

    UserError for a prompt without tokens, and where the context has no room for one.
    """
    if not row:
        raise UserError(f"a prompt is empty: '{lm.name}' has nothing to go on from; put text into it")
    room = lm.context - new_tokens
    if room < 2:  # a BOS and a token of the prompt
        raise UserError(
            f"'{lm.name}' takes {lm.context} tokens in all, too few for {new_tokens} new ones behind a prompt: "
            "choose a model with a longer context (max_position_embeddings of its config.json)"
        )
    if len(row) <= room:
        return row, False
    keep = [row[0]] if row[0] == lm.tokenizer.bos_token_id else []
    return keep + row[len(row) - room + len(keep) :], True


@torch.inference_mode()
def greedy(
    lm: LM, rows: Sequence[Row], max_new_tokens: int, batch_tokens: int | None = None, past_end: bool = False
) -> list[Row]:
    """The ids each row is continued by, up to and without an end-of-sequence token (or `past_end`, at full length)."""
    ends = set() if past_end else _ends(lm)

    def work(batch: list[Row]) -> list[Row]:
        return [_until(ids, ends) for ids, _ in _continued(lm, begin(lm, batch), max_new_tokens, ends)]

    return in_batches(rows, work, lm, lambda row: len(row) + max_new_tokens, batch_tokens, what="answers")


@torch.inference_mode()
def answered(lm: LM, rows: Sequence[Row], answers: Sequence[Row]) -> list[tuple[Row, Tensor]]:
    """What greedy decoding says behind each row, and log p of each token of its answer: one pass over the row for both.

    As many ids as the answer has tokens, at least one, up to and without an end-of-sequence token; (tokens of the
    answer,) float32 in the answers' order.
    """
    ends = _ends(lm)

    def work(batch: list[tuple[Row, Row]]) -> list[tuple[Row, Tensor]]:
        begun = begin(lm, [row for row, _ in batch])
        logps = [logp for (logp,) in weighed(begun, [[answer] for _, answer in batch])]
        new = _continued(lm, begun, [len(answer) for _, answer in batch], ends)
        return [(_until(ids, ends), logp) for (ids, _), logp in zip(new, logps, strict=True)]

    pairs = list(zip(rows, answers, strict=True))
    return in_batches(pairs, work, lm, lambda pair: len(pair[0]) + len(pair[1]), what="answers")


@torch.inference_mode()
def until(begun: Begun, new_tokens: int, over: Callable[[Row], bool]) -> list[tuple[Row, bool]]:
    """The ids each row is continued by, as `greedy`, and whether all logits were finite.

    A row ends too with the token at which `over` says so of its new ids.
    """
    ends = _ends(begun.lm)
    return [(_until(ids, ends), finite) for ids, finite in _continued(begun.lm, begun, new_tokens, ends, over)]


def _continued(
    lm: LM,
    begun: Begun,
    new_tokens: int | Sequence[int],
    ends: set[int],
    over: Callable[[Row], bool] | None = None,
) -> list[tuple[Row, bool]]:
    """What greedy decoding puts behind each row, its end token last if one came.

    And whether all logits up to there were finite. `new_tokens` are at most put there, behind all rows or behind each.
    """
    most = [new_tokens] * len(begun.last) if isinstance(new_tokens, int) else new_tokens
    room = torch.tensor(most, device=lm.device)
    stop = torch.tensor(sorted(ends), dtype=torch.long, device=lm.device)
    rows = torch.arange(len(begun.last), device=lm.device)  # those still in the batch
    going = torch.ones_like(rows, dtype=torch.bool)
    finite, columns = going.clone(), []
    begun = begun.going_on(max(most) - 1)
    while True:
        best = begun.logits.max(-1)
        chosen = best.indices.to(lm.device)
        finite[rows] &= best.values.isfinite().to(lm.device) | ~going
        columns.append(torch.zeros_like(finite, dtype=torch.long).index_put((rows,), chosen))
        going &= ~torch.isin(chosen, stop) & (room[rows] > len(columns))
        if over is not None:
            said = torch.stack(columns, 1)[rows].tolist()
            ended = [on and over(ids) for on, ids in zip(going.tolist(), said, strict=True)]
            room[rows[ended]], going[ended] = len(columns), False
        left = int(going.sum())
        if not left:
            break
        # at most twice as many rows go through as are needed, and few copies are made
        if 2 * left <= len(rows) and max(most) - len(columns) >= begun.PAYS:
            rows, chosen = rows[going], chosen[going]
            begun.keep(going.nonzero().squeeze(1))
            going = going[going]
        begun.step(chosen.unsqueeze(1))
    said = [row[:n] for row, n in zip(torch.stack(columns, 1).tolist(), room.tolist(), strict=True)]
    ids = [row[: len(_until(row, ends)) + 1] for row in said]
    return list(zip(ids, finite.tolist(), strict=True))


def _likeliest(logits: Tensor) -> list[tuple[Row, bool]]:
    """What `_continued` says of one new token, by its logits (rows, vocabulary)."""
    best = logits.max(-1)
    return list(zip(best.indices.unsqueeze(1).tolist(), best.values.isfinite().tolist(), strict=True))


def _ends(lm: LM) -> set[int]:
    """The ids that end a text."""
    ends = lm.model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())


def _until(row: Row, stop: set[int]) -> Row:
    return row[: next((i for i, token in enumerate(row) if token in stop), len(row))]


@torch.inference_mode()
def sample(lm: LM, rows: Sequence[Row], new_tokens: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
    """Continuations (rows, new_tokens): `choose` makes the next token's ids (rows, 1) from logits (rows, vocabulary).

    The logits are float32 on the model's device.
    """
    begun, drawn = begin(lm, rows).going_on(new_tokens - 1), []
    while True:
        drawn.append(choose(begun.logits).to(lm.device))
        if len(drawn) == new_tokens:
            return torch.cat(drawn, 1)
        begun.step(drawn[-1])
