"""Look into a running model: read or replace what goes in and out of named modules. Hooks are always removed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(slots=True)
class Seen:
    """What went through a module at its last call, e.g. both (rows, tokens, features)."""

    input: Tensor
    output: Tensor


class _Stop(Exception):
    """Raised by trace(stop=True) once the last module it waits for has run."""


def first(value: Any) -> Tensor:
    """The hidden states in a module's output: some families return a tuple that starts with them."""
    tensor: Tensor = value[0] if isinstance(value, tuple) else value
    return tensor


@contextmanager
def trace(model: nn.Module, *paths: str, stop: bool = False) -> Iterator[dict[str, Seen]]:
    """Record the hidden states going in and out of the modules at `paths` during the `with` block.

    With `stop`, the forward pass is broken off as soon as the last of them in `paths` has run.
    """
    seen: dict[str, Seen] = {}
    with ExitStack() as stack:
        for path in paths:

            def record(module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
                given = args[0] if args else kwargs["hidden_states"]
                seen[path] = Seen(given, first(output))
                if stop and path == paths[-1]:
                    raise _Stop

            handle = model.get_submodule(path).register_forward_hook(record, with_kwargs=True)
            stack.callback(handle.remove)
        with suppress(_Stop):
            yield seen


@contextmanager
def replaced(model: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the module at `path` return `change(hidden states)` instead of its own during the `with` block."""

    def substitute(module: nn.Module, args: Any, output: Any) -> Any:
        changed = change(first(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = model.get_submodule(path).register_forward_hook(substitute)
    try:
        yield
    finally:
        handle.remove()
