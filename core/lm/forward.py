"""The only place that runs the model for hidden states: whole, behind a shared prefix, or from a block on.

A pass can be taken up again in the middle, at one block and on the last columns only. With causal attention nothing to
the left of a column depends on it, so the keys and values there are constants of any computation that changes something
at that column in block `layer` or above. ROME and MEMIT (which optimise a vector added at the subject's last token) and
KN (which scales activations at the last token) run the part that changes and nothing else. Exact: tests/test_forward.py
compares with the whole model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from core.lm.hooks import Seen, trace
from core.lm.model import LM
from core.lm.tokens import Padded, Row, pad


def final_states(lm: LM, tokens: Padded) -> Tensor:
    """Final hidden states of a whole pass, behind the model's last norm: (rows, columns, d). Differentiable."""
    return _run(lm, tokens, None)


def _run(lm: LM, tokens: Padded, cache: Cache | None) -> Tensor:
    """Final hidden states of `tokens`, behind what `cache` holds; their keys and values are added to it."""
    hidden: Tensor = lm.model.base_model(
        input_ids=tokens.ids,
        attention_mask=tokens.mask,
        position_ids=tokens.positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return hidden


class Frozen(DynamicLayer):
    """A cache layer that is read but never grows, so that every run starts from the same prefix."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values  # (rows, heads, columns, head size)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)


@dataclass(frozen=True)
class Prefix:
    """The first `length` tokens that rows have in common, as keys and values per layer (1, heads, length, size)."""

    length: int = 0
    layers: tuple[tuple[Tensor, Tensor], ...] = ()

    def cache(self, rows: int) -> Cache | None:
        """The prefix in front of each of `rows` rows."""
        if not self.length:
            return None
        return Cache(layers=[Frozen(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self.layers])


@torch.no_grad()
def shared_prefix(lm: LM, rows: Sequence[Row]) -> Prefix:
    """What all `rows` start with (a task's instruction, say), run once; at least one token of each row is left."""
    first, last = min(rows), max(rows)  # what these two share, all share
    shortest = min(map(len, rows)) - 1
    common = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))][:shortest]
    if len(rows) < 2 or not common:
        return Prefix()
    cache = DynamicCache()
    _run(lm, pad(lm, [common]), cache)
    stored: Any = cache.layers
    return Prefix(len(common), tuple((layer.keys, layer.values) for layer in stored))


@torch.inference_mode()
def last_states(lm: LM, rows: Sequence[Row], prefix: Prefix) -> Tensor:
    """Final hidden states at the last token of each of `rows`, which stand behind `prefix`: (rows, d).

    Pads stand behind the rows, not between the prefix and a row: a sliding window of attention counts columns.
    """
    tokens = pad(lm, rows, [0] * len(rows))
    mask = torch.nn.functional.pad(tokens.mask, (prefix.length, 0), value=1)
    hidden = _run(lm, Padded(tokens.ids, mask, tokens.positions + prefix.length), prefix.cache(len(rows)))
    last = torch.tensor([len(row) - 1 for row in rows], device=hidden.device)
    return hidden[torch.arange(len(rows), device=hidden.device), last]


@dataclass(frozen=True)
class Resumed:
    """What a run from block `layer` needs: its constant input `hidden` (rows, columns, d) and the cached prefix."""

    lm: LM
    layer: int
    tokens: Padded
    hidden: Tensor
    prefix: tuple[tuple[Tensor, Tensor], ...]

    def run(self) -> Tensor:
        """Final hidden states (rows, columns, d), after the model's last norm. Differentiable."""
        with _entered(self):
            return _run(self.lm, self.tokens, Cache(layers=[Frozen(k, v) for k, v in self.prefix]))

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
    cache = DynamicCache()
    blocks = {layer: lm.block(layer) for layer in layers}
    with trace(lm.model, *blocks.values(), *paths) as seen:
        _run(lm, tokens, cache)
    stored: Any = cache.layers
    prefix = tuple((layer.keys[:, :, :column], layer.values[:, :, :column]) for layer in stored)
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
