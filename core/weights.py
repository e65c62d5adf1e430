"""Change a model's weights, and take the change back bit for bit."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from core.types import Deltas


@torch.no_grad()
def add_(model: nn.Module, deltas: Deltas) -> None:
    """Add `deltas` to the model's parameters in place. The sum is taken in float32 and rounded once."""
    for name, delta in deltas.items():
        weight = model.get_parameter(name)
        assert delta.shape == weight.shape, f"{name}: delta {tuple(delta.shape)}, weight {tuple(weight.shape)}"
        weight.copy_(weight.float() + delta.to(weight.device, torch.float32))


@contextmanager
def preserved(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Model at the end == model at the beginning: whatever happens inside, the named parameters are put back."""
    weights = {name: model.get_parameter(name) for name in names}
    saved = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved[name])
