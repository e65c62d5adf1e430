"""The only place that asks the model for text, and the only place that decodes it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig

from core.model import LM
from core.resume import Prefix, shared_prefix
from core.tokens import Row, continuation, encode, pad
from core.types import Completion

BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Default token budget of a batch: rows x (longest prompt + new tokens)."""

T = TypeVar("T")
R = TypeVar("R")


@torch.inference_mode()
def complete(
    lm: LM, prompts: Sequence[str], max_new_tokens: int, choices: tuple[str, ...] = (), batch_tokens: int | None = None
) -> list[Completion]:
    """Greedy completions of `prompts`, in their order.

    Prompts are batched by length under a budget of `batch_tokens`, which never changes a completion. One that does not
    fit the model's context loses tokens on its left (a BOS stays). With `choices`, the word whose first token, behind a
    blank, is the likeliest next one is reported too. Where one token is wanted, that and the completion come from a
    single forward pass with logits at the last position alone, behind the prefix that all prompts share.
    """
    if not prompts:
        return []
    fitted = [fit(lm, encode(lm, prompt), max_new_tokens) for prompt in prompts]
    rows = [row for row, _ in fitted]
    words = [continuation(lm, f" {word}")[0] for word in choices]
    assert len(set(words)) == len(words), f"two label words start with the same token: {choices}"
    likeliest: list[tuple[int, int]] = []
    if choices or max_new_tokens == 1:
        prefix = shared_prefix(lm, rows)
        likeliest = in_batches(rows, lambda batch: _next_token(lm, batch, words, prefix), lm, len, batch_tokens)
    new = [[token] for token, _ in likeliest] if max_new_tokens == 1 else greedy(lm, rows, max_new_tokens, batch_tokens)
    texts = lm.tokenizer.batch_decode(new, skip_special_tokens=True)
    chosen = [choices[best] for _, best in likeliest] if choices else [None] * len(rows)
    return [Completion(text, choice, cut) for text, choice, (_, cut) in zip(texts, chosen, fitted, strict=True)]


def fit(lm: LM, row: Row, new_tokens: int) -> tuple[Row, bool]:
    """The prompt ids with room left for `new_tokens`, and whether tokens had to go."""
    room = lm.context - new_tokens
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
    never = lm.model.config.vocab_size  # one past the last id
    ends = never if past_end else lm.model.generation_config.eos_token_id
    stop = {ends} if isinstance(ends, int) else set(ends or ())

    def work(batch: list[Row]) -> list[Row]:
        tokens = pad(lm, batch)
        with _own_settings_aside(lm):
            ids = lm.model.generate(
                tokens.ids,
                attention_mask=tokens.mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=lm.pad_id,
                eos_token_id=ends,
            )
        return [_until(row, stop) for row in ids[:, tokens.ids.shape[1] :].tolist()]

    return in_batches(rows, work, lm, lambda row: len(row) + max_new_tokens, batch_tokens)


def in_batches(
    rows: Sequence[R], work: Callable[[list[R]], list[T]], lm: LM, size: Callable[[R], int], budget: int | None = None
) -> list[T]:
    """`work` done on length-sorted batches of at most `budget` tokens (at least one row), results in the rows' order.

    `size` is the length of a row in tokens, new ones included. When the device runs out of memory the budget halves and
    the batch is tried again.
    """
    budget = budget or BATCH_TOKENS.get(lm.device.type, BATCH_TOKENS["cuda"])
    order = sorted(range(len(rows)), key=lambda i: -size(rows[i]))
    results: dict[int, T] = {}
    with tqdm(total=len(rows), unit="ex", leave=False, disable=len(rows) < 2) as bar:
        while len(results) < len(rows):
            width = size(rows[order[len(results)]])
            batch = order[len(results) : len(results) + max(1, budget // width)]
            try:
                done = work([rows[i] for i in batch])
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                budget = len(batch) * width // 2
                torch.cuda.empty_cache()
                continue
            results.update(zip(batch, done, strict=True))
            bar.update(len(batch))
    return [results[i] for i in range(len(rows))]


def _next_token(lm: LM, rows: list[Row], words: list[int], prefix: Prefix) -> list[tuple[int, int]]:
    """Per row the likeliest next token, and which of `words` is likeliest (0 if there are none)."""
    tokens = pad(lm, [row[prefix.length :] for row in rows])
    logits = lm.model(
        tokens.ids,
        attention_mask=torch.nn.functional.pad(tokens.mask, (prefix.length, 0), value=1),
        position_ids=tokens.positions + prefix.length,
        past_key_values=prefix.cache(len(rows)),
        use_cache=prefix.length > 0,
        logits_to_keep=1,
    ).logits[:, -1]  # (rows, vocabulary)
    best = logits[:, words].argmax(-1) if words else torch.zeros(len(rows))
    return list(zip(logits.argmax(-1).tolist(), best.long().tolist(), strict=True))


def _until(row: Row, stop: set[int]) -> Row:
    return row[: next((i for i, token in enumerate(row) if token in stop), len(row))]


@torch.inference_mode()
def sample(
    lm: LM, rows: Sequence[Row], new_tokens: int, generator: torch.Generator, top_k: int | None = None
) -> Tensor:
    """Continuations (rows, new_tokens) drawn at temperature 1, from the `top_k` likeliest tokens if given.

    Drawn on the CPU, so that a seed gives the same text whatever the device (up to its rounding).
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
        chances = logits.float().softmax(-1).cpu()  # (rows, vocabulary)
        if top_k is not None:
            chances = chances * (chances >= chances.topk(top_k).values[:, -1:])
        ids = torch.multinomial(chances, 1, generator=generator).to(lm.device)
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        positions = positions[:, -1:] + 1
        drawn.append(ids)
    return torch.cat(drawn, 1)
