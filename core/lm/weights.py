"""Change a model's weights, and take the change back bit for bit."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from core.errors import UserError
from core.types import Deltas


def weight_of(model: nn.Module, name: str) -> nn.Parameter:
    """A parameter whose values are at hand. Raises UserError for one that `device_map` moved off the devices."""
    weight = model.get_parameter(name)
    if weight.is_meta:
        raise UserError(
            f"{name} is offloaded and cannot be edited: --device-map must keep it on a device "
            "(a smaller --dtype or another GPU makes room)"
        )
    return weight


def at_hand(model: nn.Module, names: Iterable[str]) -> None:
    """Raise UserError, before an hour of work, unless all these parameters can be edited."""
    for name in names:
        weight_of(model, name)


@torch.no_grad()
def add_(model: nn.Module, deltas: Deltas) -> dict[str, float]:
    """Add `deltas` to the model's parameters in place. The sum is taken in float32 and rounded once.

    Returns per parameter what that rounding did to the change: |rounded change - delta| / |delta|, 0 for float32.
    """
    lost = {}
    for name, delta in deltas.items():
        weight = weight_of(model, name)
        assert delta.shape == weight.shape, f"{name}: delta {tuple(delta.shape)}, weight {tuple(weight.shape)}"
        wanted = delta.to(weight.device, torch.float32)
        lost[name] = 0.0
        if weight.dtype == torch.float32:
            weight.add_(wanted)
            continue
        before = weight.float()
        weight.copy_(before + wanted)
        error, size = (weight.float() - before).sub_(wanted).norm(), float(wanted.norm())
        lost[name] = float(error) / size if size else 0.0
    return lost


@contextmanager
def preserved(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Model at the end == model at the beginning: whatever happens inside, the named parameters are put back."""
    weights = {name: weight_of(model, name) for name in names}
    saved = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved[name])
