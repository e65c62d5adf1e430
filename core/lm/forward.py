"""The only place that runs the model for hidden states: whole, behind a cache, or from a block on.

A pass can be taken up again in the middle, at one block and on the last columns only. With causal attention nothing to
the left of a column depends on it, so the keys and values there are constants of any computation that changes something
at that column in block `layer` or above. ROME and MEMIT (which optimise a vector added at the subject's last token) and
KN (which scales activations at the last token) run the part that changes and nothing else. Exact: tests/test_forward.py
compares with the whole model.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Cache

from core.lm.cached import Frozen, KeysValues, empty, stored
from core.lm.hooks import Seen, trace
from core.lm.kernels.attention import of_few_tokens
from core.lm.model import LM
from core.lm.tokens import Padded


def final_states(lm: LM, tokens: Padded) -> Tensor:
    """Final hidden states of a whole pass, behind the model's last norm: (rows, columns, d). Differentiable."""
    return states_behind(lm, tokens, None)


KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Of attention. cuDNN's adds up in another order from call to call, and takes seconds for each new shape."""


def states_behind(lm: LM, tokens: Padded, cache: Cache | None) -> Tensor:
    """Final hidden states of `tokens`, behind what `cache` holds, to which it adds their keys and values.

    Their mask is that of the padding, (rows, columns), or what `visible` made.
    """
    with sdpa_kernel(KERNELS), of_few_tokens():
        hidden: Tensor = lm.model.base_model(
            input_ids=tokens.ids,
            attention_mask=_mask(lm, tokens, cache),
            position_ids=tokens.positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
    return hidden


def _mask(lm: LM, tokens: Padded, cache: Cache | None) -> Tensor | None:
    """The mask of attention as the model is given it.

    Transformers would ask a GPU whether anything is padding, and stand still until its answer is here; every layer
    would make anew of a mask what its kernel adds. With none attention is faster, but without a cache transformers asks
    whether the positions are those of several texts. On a CPU the model makes a faster mask than this.
    """
    columns = tokens.ids.shape[1]
    if tokens.mask.dim() == 4 or lm.recorder is None:
        return tokens.mask
    if tokens.full and cache is not None and columns == tokens.mask.shape[1]:
        return None
    return visible(lm, tokens.mask, tokens.mask.shape[1] - columns)


ALIGNED = 16
"""Columns of a mask in memory are a multiple of so many: else attention copies it to where they are."""


def visible(lm: LM, mask: Tensor, start: int) -> Tensor:
    """What attention adds for the columns from `start` on, ready-made where the model takes it so.

    `mask` (rows, columns) is that of the padding; (rows, 1, columns - start, columns), or `mask` as it is.
    """
    if not lm.takes_masks:
        return mask
    at = torch.arange(mask.shape[1], device=mask.device)
    seen = mask.bool()[:, None, None, :] & (at <= at[start:, None])
    width = -(-seen.shape[-1] // ALIGNED) * ALIGNED
    added = torch.zeros(*seen.shape[:-1], width, dtype=lm.model.dtype, device=seen.device)[..., : seen.shape[-1]]
    return added.masked_fill_(~seen, torch.finfo(added.dtype).min)


@dataclass(frozen=True)
class Resumed:
    """What a run from block `layer` needs: its constant input `hidden` (rows, columns, d) and the cached prefix."""

    lm: LM
    layer: int
    tokens: Padded
    hidden: Tensor
    prefix: KeysValues

    def prepare(self) -> None:
        """Make what runs have in common: what a recorded one makes is its own."""
        _ = self._seen

    def run(self) -> Tensor:
        """Final hidden states (rows, columns, d), after the model's last norm. Differentiable."""
        with _entered(self):
            return states_behind(self.lm, self._seen, Cache(layers=[Frozen(k, v) for k, v in self.prefix]))

    @cached_property
    def _seen(self) -> Padded:
        """The tokens, where runs are recorded with the mask of attention; on a CPU the model makes a faster one."""
        if self.lm.recorder is None:
            return self.tokens
        start = self.tokens.mask.shape[1] - self.tokens.ids.shape[1]
        return replace(self.tokens, mask=visible(self.lm, self.tokens.mask, start))

    def rows(self, index: Tensor) -> "Resumed":
        """The same for some of the rows, or for one row several times."""
        prefix = tuple((k[index.to(k.device)], v[index.to(v.device)]) for k, v in self.prefix)
        hidden = self.hidden[index.to(self.hidden.device)]
        return replace(self, tokens=self.tokens.rows(index), hidden=hidden, prefix=prefix)


@torch.no_grad()
def resume(
    lm: LM, tokens: Padded, layers: range, column: int, *paths: str
) -> tuple[dict[int, Resumed], dict[str, Seen]]:
    """One forward pass over `tokens`; returns a way back in at each of `layers` and what went through `paths`.

    A resumed run sees the columns from `column` on; what `paths` saw covers all columns.
    """
    cache = empty()
    blocks = {layer: lm.block(layer) for layer in layers}
    with trace(lm.model, *blocks.values(), *paths) as seen:
        states_behind(lm, tokens, cache)
    prefix = tuple((keys[:, :, :column], values[:, :, :column]) for keys, values in stored(cache))
    right = tokens.columns(column)
    points = {
        layer: Resumed(lm, layer, right, seen[block].input[:, column:], prefix) for layer, block in blocks.items()
    }
    return points, {path: seen[path] for path in paths}


@contextmanager
def _entered(point: Resumed) -> Iterator[None]:
    """Pass over the blocks below `point.layer`, and hand its constant input to that block."""
    model = point.lm.model

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (point.hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": point.hidden}

    with ExitStack() as stack:
        for layer in range(point.layer):
            block = model.get_submodule(point.lm.block(layer))
            own = vars(block).get("forward")  # accelerate's, of a model spread over devices
            block.forward = _passed_over(point.lm)
            stack.callback(*((delattr, block, "forward") if own is None else (setattr, block, "forward", own)))
        handle = model.get_submodule(point.lm.block(point.layer)).register_forward_pre_hook(enter, with_kwargs=True)
        stack.callback(handle.remove)
        yield


def _passed_over(lm: LM) -> Callable[..., Any]:
    """A block's `forward` that returns its input, wrapped as the family's blocks wrap their output."""
    tuples = lm.paths.block_returns_tuple

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states, None) if tuples else hidden_states

    return forward
