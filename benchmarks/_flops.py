"""How near to the machine's rate a computation is: its necessary FLOPs, and what bare matrix products reach."""

import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

from benchmarks._common import seconds
from core.lm.kernels.products import ONEDNN, product

ATEN = torch.ops.aten
PRODUCTS = {what: what for what in (ATEN.mm, ATEN.addmm, ATEN.bmm, ATEN.baddbmm)}
"""Matrix products, and how they are made of their operands alone."""
if ONEDNN is not None:
    PRODUCTS[ONEDNN] = product

    @register_flop_formula(ONEDNN)  # type: ignore[untyped-decorator]
    def _(x: tuple[int, ...], weight: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(x) * weight[0]


Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, str]
"""Shape, strides, type and device of a tensor."""


@dataclass
class Counted(TorchDispatchMode):  # type: ignore[misc]
    """Counts the FLOPs of what runs inside, by torch's own formulas, and keeps which matrix products those were."""

    flops: int = 0
    products: Counter[tuple[Any, tuple[Operand, ...]]] = field(default_factory=Counter)
    """(Operation, its operands) -> how often."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, what = kwargs or {}, func._overloadpacket
        if what not in flop_registry and func is not torch.ops.prim.device.default:
            with self:  # what is made of others is counted by them
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if what in flop_registry:
            self.flops += flop_registry[what](*args, **kwargs, out_val=out)
        if what in PRODUCTS:
            self.products[what, tuple(_kind(a) for a in args if isinstance(a, torch.Tensor))] += 1
        return out


def _kind(tensor: torch.Tensor) -> Operand:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, str(tensor.device)


def counted(work: Callable[[], object]) -> Counted:
    with Counted() as count:
        work()
    return count


AWAY = 128 << 20
"""Bytes of other operands between two products of the same ones: more than a processor's caches hold."""


def bare(count: Counted, budget: float = 0.05) -> tuple[float, float]:
    """FLOPs of the counted matrix products, and seconds that they take by themselves, one after the other.

    Each shape is timed for about `budget` seconds. As far as one occurs often, its products take turns with operands
    that are not in the caches, as in a model, where other layers come in between. A GPU's are launched one by one.
    """
    flops = took = 0.0
    for (what, operands), times in count.products.items():
        own = [_filled(*operand) for operand in operands]
        others = min(AWAY // max(sum(tensor.nbytes for tensor in own), 1), times - 1)
        sets = [own, *([_filled(*operand) for operand in operands] for _ in range(others))]
        with torch.inference_mode():
            once = _timed(PRODUCTS[what], sets, 1)
            rounds = max(1, int(budget / once))
            took += times * _timed(PRODUCTS[what], sets, rounds) / rounds
            flops += times * flop_registry[what](*own, out_val=PRODUCTS[what](*own))
    return flops, took


def _filled(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    tensor = torch.empty_strided(shape, strides, dtype=dtype, device=device)
    return tensor.normal_() if tensor.is_cuda else tensor.fill_(0.5)  # a GPU is faster with numbers that are all alike


def _timed(what: Any, sets: list[list[torch.Tensor]], rounds: int) -> float:
    def work() -> None:
        for tensors in islice(cycle(sets), rounds):
            what(*tensors)
        if sets[0][0].is_cuda:
            torch.cuda.synchronize()

    work()  # warm
    return seconds(work)


def share(ours: Callable[[], object], smallest: Callable[[], object] | None = None, rounds: int = 3) -> str:
    """A line on `ours`, by its median time; `smallest` is the same without pads, where `ours` has any.

    Needed is the less of the two: what prompts share is run once in `ours` alone. The products are timed in turn with
    it, as a machine is not equally fast all the time.
    """
    own = counted(ours)
    needed = min(own.flops, counted(smallest).flops) if smallest else own.flops
    turns = [(seconds(ours), *bare(own)) for _ in range(rounds)]
    took, alone = (statistics.median(turn[i] for turn in turns) for i in (0, 2))
    rate, machine = needed / took, turns[0][1] / alone
    return (
        f"{needed / 1e9:.0f} GFLOP needed, {rate / 1e9:.0f} GFLOP/s, "
        f"{rate / machine:.0%} of the {machine / 1e9:.0f} that bare products of these shapes reach"
    )
