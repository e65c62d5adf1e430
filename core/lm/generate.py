"""The only place that asks the model for text."""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from core.errors import UserError
from core.lm.forward import Prefix, last_states, shared_prefix
from core.lm.model import LM
from core.lm.tokens import Row, continuation, decode, encode, pad
from core.types import Completion

BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Default token budget of a batch: rows x (longest prompt + new tokens)."""

T = TypeVar("T")
R = TypeVar("R")


@torch.inference_mode()
def complete(
    lm: LM,
    prompts: Sequence[str],
    max_new_tokens: int,
    choices: tuple[str, ...] = (),
    batch_tokens: int | None = None,
    done: MutableMapping[int, Completion] | None = None,
) -> list[Completion]:
    """Greedy completions of `prompts`, in their order.

    Prompts are batched by length under a budget of `batch_tokens`, which never changes a completion. One that does not
    fit the model's context loses tokens on its left (a BOS stays). With `choices`, the word whose first token, behind a
    blank, is the likeliest next one is reported too. Where one token is wanted, that and the completion come from a
    single forward pass with logits at the last position alone, behind the prefix that all prompts share. `done` is as
    for `in_batches`.
    """
    if not prompts:
        return []
    fitted = [fit(lm, encode(lm, prompt), max_new_tokens) for prompt in prompts]
    words = first_tokens(lm, choices)
    one = max_new_tokens == 1
    prefix = shared_prefix(lm, [row for row, _ in fitted]) if one or choices else None

    def work(batch: list[tuple[Row, bool]]) -> list[Completion]:
        rows = [row for row, _ in batch]
        first = [] if prefix is None else _next_token(lm, rows, words, prefix)
        new = [([token], finite) for token, _, finite in first] if one else _generated(lm, rows, max_new_tokens)
        ends = _ends(lm)
        texts = decode(lm, [_until(ids, ends) for ids, _ in new])
        full = decode(lm, [ids for ids, _ in new], special=True)
        chosen = [choices[best] for _, best, _ in first] if choices else [None] * len(rows)
        return [
            Completion(text, choice, cut, finite, ids[-1] in ends, None if seen == text else seen)
            for text, seen, choice, (_, cut), (ids, finite) in zip(texts, full, chosen, batch, new, strict=True)
        ]

    new_tokens = 0 if one else max_new_tokens
    return in_batches(fitted, work, lm, lambda row: len(row[0]) + new_tokens, batch_tokens, done, "completions")


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
    """The prompt ids with room left for `new_tokens`, and whether tokens had to go. UserError if none is left."""
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


@contextmanager
def _own_settings_aside(lm: LM) -> Iterator[None]:
    """Without the folder's generation_config.json: with a repetition penalty, say, decoding would not be greedy."""
    own = lm.model.generation_config
    lm.model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        lm.model.generation_config = own


@torch.inference_mode()
def greedy(
    lm: LM, rows: Sequence[Row], max_new_tokens: int, batch_tokens: int | None = None, past_end: bool = False
) -> list[Row]:
    """The ids each row is continued by, up to and without an end-of-sequence token (or `past_end`, at full length)."""

    def work(batch: list[Row]) -> list[Row]:
        new = [ids for ids, _ in _generated(lm, batch, max_new_tokens, past_end)]
        return new if past_end else [_until(ids, _ends(lm)) for ids in new]

    return in_batches(rows, work, lm, lambda row: len(row) + max_new_tokens, batch_tokens, what="answers")


class _Finite(LogitsProcessor):
    """Watches the logits that `generate` chooses from: `rows[i]` turns False where NaN or infinity leads."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = torch.ones(rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.rows &= scores.amax(-1).isfinite()
        return scores


def _generated(lm: LM, rows: list[Row], max_new_tokens: int, past_end: bool = False) -> list[tuple[Row, bool]]:
    """What one batch is continued by, its end token last if one came; and whether all logits on the way were finite."""
    never = lm.model.config.vocab_size  # one past the last id
    stop = {never} if past_end else _ends(lm)
    tokens = pad(lm, rows)
    watch = _Finite(len(rows), lm.device)
    with _own_settings_aside(lm):
        ids = lm.model.generate(
            tokens.ids,
            attention_mask=tokens.mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=lm.pad_id,
            eos_token_id=sorted(stop) or None,
            logits_processor=LogitsProcessorList([watch]),
        )
    new = (row[: len(_until(row, stop)) + 1] for row in ids[:, tokens.ids.shape[1] :].tolist())
    return list(zip(new, watch.rows.tolist(), strict=True))


def in_batches(
    rows: Sequence[R],
    work: Callable[[list[R]], list[T]],
    lm: LM,
    size: Callable[[R], int],
    budget: int | None = None,
    done: MutableMapping[int, T] | None = None,
    what: str = "reading",
) -> list[T]:
    """`work` done on length-sorted batches of at most `budget` tokens (at least one row), results in the rows' order.

    `size` is the length of a row in tokens, new ones included. When the device runs out of memory the budget halves and
    the batch is tried again. `done` maps rows to results an earlier run has left, and receives those of this one; the
    batches are the same with and without it, so that the rest comes out to the bit as it would have. `what` is the
    name of the progress bar.
    """
    budget = budget or BATCH_TOKENS.get(lm.device.type, BATCH_TOKENS["cuda"])
    order = sorted(range(len(rows)), key=lambda i: -size(rows[i]))
    results: MutableMapping[int, T] = {} if done is None else done
    position = 0
    with tqdm(total=len(rows), desc=what, unit="row", leave=False, disable=len(rows) < 2) as bar:
        while position < len(rows):
            width = size(rows[order[position]])
            batch = order[position : position + max(1, budget // width)]
            if not all(i in results for i in batch):
                try:
                    new = work([rows[i] for i in batch])
                except torch.OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                    budget = len(batch) * width // 2
                    torch.cuda.empty_cache()
                    continue
                results.update(zip(batch, new, strict=True))
            position += len(batch)
            bar.update(len(batch))
    return [results[i] for i in range(len(rows))]


def _next_token(lm: LM, rows: list[Row], words: list[int], prefix: Prefix) -> list[tuple[int, int, bool]]:
    """Per row the likeliest next token, which of `words` is likeliest (0 if there are none), are all logits finite."""
    logits = lm.logits(last_states(lm, [row[prefix.length :] for row in rows], prefix))  # (rows, vocabulary)
    best = logits[:, words].argmax(-1) if words else torch.zeros(len(rows))
    finite = logits.amax(-1).isfinite()
    return list(zip(logits.argmax(-1).tolist(), best.long().tolist(), finite.tolist(), strict=True))


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
    tokens = pad(lm, rows)
    ids, mask, positions, cache = tokens.ids, tokens.mask, tokens.positions, DynamicCache()
    drawn = []
    for _ in range(new_tokens):
        logits = lm.model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        ids = choose(logits.float()).to(lm.device)
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        positions = positions[:, -1:] + 1
        drawn.append(ids)
    return torch.cat(drawn, 1)
