"""Devices that are not there: tensors in ordinary memory that say they are on `lazy:0` or `lazy:1`.

As on a GPU, an operation on tensors of two devices is an error, and so is `numpy()`; a 0-dim tensor of the CPU may go
anywhere, and an index too. So code that forgets to move a tensor fails here, on a machine without any accelerator.
`lazy` is a device type of torch that ordinary builds have no kernels for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytest import MonkeyPatch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformers import masking_utils

from core.lm.kernels.graphs import Recording, Work

CPU = torch.device("cpu")
MOVES = {torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.copy_}
INDEXED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_}


class Placed(Tensor):
    """`inner`, an ordinary tensor, said to be on `device`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> "Placed":
        made: Placed = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=device
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the inner tensors; what comes out is where the arguments were, or where it was asked to be."""
    leaves = tree_flatten((args, kwargs))[0]
    given = [x for x in leaves if isinstance(x, Tensor)]
    place = next((x for x in leaves if isinstance(x, torch.device)), given[0].device if given else None)
    if op.overloadpacket not in MOVES:
        places = {x.device for x in given if x.device.type != "cpu" or x.dim() > 0}
        if op.overloadpacket in INDEXED and given[0].device != CPU:
            places -= {CPU}
        if len(places) > 1:
            raise RuntimeError(f"{op}: expected all tensors to be on one device, found {sorted(map(str, places))}")
        place = next(iter(places), place)
    inner, named = tree_map(_real, (args, kwargs))
    out = op(*inner, **named)
    if place is None or place.type == "cpu":
        return out
    same = {id(x.inner): x for x in given if isinstance(x, Placed) and x.device == place}  # in place

    def wrapped(x: Any) -> Any:
        return same.get(id(x), Placed(x, place)) if isinstance(x, Tensor) else x

    return tree_map(wrapped, out)


def _real(x: Any) -> Any:
    return x.inner if isinstance(x, Placed) else CPU if isinstance(x, torch.device) else x


class _Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _Called(TorchFunctionMode):
    """What does not come through the dispatcher."""

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if call is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return call(*args, **kwargs).to(device)
        if args and isinstance(args[0], Placed):
            if call is Tensor.tolist:
                return args[0].inner.tolist()
            if call in (Tensor.__getitem__, Tensor.__setitem__):
                args = (args[0], _listed(args[1]), *args[2:])
            if call is Tensor.numpy:
                raise TypeError(f"can't convert a tensor on {args[0].device} to numpy")
        return call(*args, **kwargs)


def _listed(index: Any) -> Any:
    """Lists in an index as tensors: torch makes them on the indexed tensor's device."""
    if isinstance(index, tuple):
        return tuple(map(_listed, index))
    return torch.tensor(index) if isinstance(index, list) else index


@contextmanager
def pretended() -> Iterator[None]:
    """Inside, `lazy:0` and `lazy:1` are devices."""
    with _Called(), _Dispatched():
        yield


READS = (Tensor.tolist, Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.nonzero, Tensor.cpu)
"""For these the host waits for a number of the device."""


class _Held(TorchFunctionMode):
    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert call not in (*READS, torch.tensor), f"{call} cannot be recorded"
        return call(*args, **(kwargs or {}))


class Played(Recording):
    """Stands in for a recording: plays by calling. What could not be recorded is an error."""

    def __call__(self, work: Work) -> None:
        with _Held(), MonkeyPatch.context() as patch:
            patch.setattr(masking_utils, "is_tracing", lambda tensor=None: True)  # as where a stream is captured
            work()
