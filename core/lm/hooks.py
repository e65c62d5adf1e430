"""Look into a running model: read or replace what goes in and out of named modules. Hooks are always removed.

Hidden states are (rows, tokens, features) here, also those of a module that its block hands all tokens as one long row
(OPT's projections see (rows * tokens, features)): they are seen, and changed, in the shape that the block was given.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Look = Callable[[Tensor, Tensor], Tensor | None]
"""(input, output) of a module at its latest call -> what to put in place of the output, or None."""


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
def watched(model: nn.Module, path: str, look: Look) -> Iterator[None]:
    """Call `look` each time the module at `path` has run during the `with` block."""
    around = torch.Size()  # rows and tokens of what the enclosing module was given

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal around
        given = args[0] if args else kwargs.get("hidden_states")
        around = given.shape[:2] if isinstance(given, Tensor) else around

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given, made = args[0] if args else kwargs["hidden_states"], first(output)
        flat = made.dim() == 2
        if flat:
            given, made = given.unflatten(0, around), made.unflatten(0, around)
        changed = look(given, made)
        if changed is None and not flat:
            return None
        changed = made if changed is None else changed  # the graph goes through the tensor that was looked at
        changed = changed.flatten(0, 1) if flat else changed
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with ExitStack() as stack:
        enclosing = model.get_submodule(path.rpartition(".")[0])
        stack.callback(enclosing.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(model.get_submodule(path).register_forward_hook(leave, with_kwargs=True).remove)
        yield


@contextmanager
def trace(model: nn.Module, *paths: str, stop: bool = False) -> Iterator[dict[str, Seen]]:
    """Record the hidden states going in and out of the modules at `paths` during the `with` block.

    With `stop`, the forward pass is broken off as soon as the last of them in `paths` has run.
    """
    seen: dict[str, Seen] = {}
    with ExitStack() as stack:
        for path in paths:

            def record(given: Tensor, made: Tensor, path: str = path) -> None:
                seen[path] = Seen(given, made)
                if stop and path == paths[-1]:
                    raise _Stop

            stack.enter_context(watched(model, path, record))
        with suppress(_Stop):
            yield seen


@contextmanager
def replaced(model: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the module at `path` return `change(hidden states)` instead of its own during the `with` block."""
    with watched(model, path, lambda given, made: change(made)):
        yield
