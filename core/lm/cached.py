"""What passes leave behind for those that follow: keys and values of their columns, layer by layer."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class Growing(DynamicLayer):
    """A cache layer that starts with these keys and values, (rows, heads, columns, head size) each, or with none."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        if keys is not None and values is not None:
            self._hold(keys, values)

    def _hold(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            return self._hold(_whole(key_states), _whole(value_states))
        return self._hold(_joined(self.keys, key_states), _joined(self.values, value_states))

    def some(self, rows: Tensor) -> "Growing":
        """The same of some of the rows: their indices, on any device."""
        assert self.keys is not None and self.values is not None
        at = rows.to(self.keys.device)
        return Growing(self.keys[at], self.values[at])


def _whole(new: Tensor) -> Tensor:
    """Itself where its memory is its own, else a copy, so that the rest of that memory can go."""
    alone = new.untyped_storage().nbytes() == new.nbytes
    return new if alone else new.clone(memory_format=torch.contiguous_format)


def _joined(old: Tensor, new: Tensor) -> Tensor:
    """The columns of `new` behind those of `old`. On a GPU `cat` is slow with operands that are views, as these are."""
    if new.requires_grad:
        return torch.cat([old, new], -2)
    columns = old.shape[-2]
    both = new.new_empty(*new.shape[:2], columns + new.shape[-2], new.shape[-1])
    both[:, :, :columns] = old
    both[:, :, columns:] = new
    return both


class Frozen(Growing):
    """One that is read but never grows, so that every run starts from the same prefix."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return _joined(self.keys, key_states), _joined(self.values, value_states)


class Filling(Growing):
    """One whose memory is wider than its `columns`: what is new is written behind them, and what it holds not copied.

    For passes without gradients, and of no more columns than there is memory for.
    """

    def __init__(self, keys: Tensor, values: Tensor, columns: int) -> None:
        super().__init__(keys[:, :, :columns], values[:, :, :columns])
        self.memory = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        start, stop = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        assert stop <= self.memory[0].shape[-2], "more columns than there is room for"
        for memory, new in zip(self.memory, (key_states, value_states), strict=True):
            memory[:, :, start:stop] = new
        keys, values = self.memory
        return self._hold(keys[:, :, :stop], values[:, :, :stop])

    def some(self, rows: Tensor) -> "Filling":
        assert self.keys is not None
        keys, values = self.memory
        at = rows.to(keys.device)
        return Filling(keys[at], values[at], self.keys.shape[-2])


def wider(x: Tensor, more: int) -> Tensor:
    """Keys or values with so many columns of zeros behind them."""
    columns = x.shape[-2]
    out = x.new_empty(*x.shape[:2], columns + more, x.shape[-1])
    out[:, :, :columns] = x
    out[:, :, columns:] = 0
    return out


class Fixed(Growing):
    """One that has all its columns already: what is new is written into column `at` (1,), and nothing ever moves.

    Which columns are in use only the mask of attention says.
    """

    def __init__(self, keys: Tensor, values: Tensor, at: Tensor) -> None:
        super().__init__(keys, values)
        self.at = at

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys.index_copy_(-2, self.at, key_states), self.values.index_copy_(-2, self.at, value_states)

    def some(self, rows: Tensor) -> "Fixed":
        assert self.keys is not None and self.values is not None
        at = rows.to(self.keys.device)
        return Fixed(self.keys[at], self.values[at], self.at)

    def get_seq_length(self) -> int:
        """So that one new token sees all columns."""
        return super().get_seq_length() - 1


def empty() -> Cache:
    """Of as many layers as a model turns out to have."""
    return Cache(layer_class_to_replicate=Growing)


KeysValues = tuple[tuple[Tensor, Tensor], ...]
"""Per layer, (rows, heads, columns, head size) each."""


def stored(cache: Cache) -> KeysValues:
    """What a cache holds."""
    layers: Any = cache.layers
    return tuple((layer.keys, layer.values) for layer in layers)
