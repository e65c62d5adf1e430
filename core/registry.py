"""Find editors and tasks: a plug-in is a file in a package that defines EDITOR or TASK."""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeVar

from core.errors import UserError

T = TypeVar("T")


def discover(package: str, attribute: str) -> dict[str, Any]:
    """Plug-ins of a package by their `name`, in alphabetical order. What starts with an underscore is a helper."""
    folder = importlib.import_module(package).__path__
    modules = [importlib.import_module(f"{package}.{m.name}") for m in pkgutil.iter_modules(folder) if m.name[0] != "_"]
    found = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    return {plugin.name: plugin for plugin in sorted(found, key=lambda plugin: plugin.name.lower())}


def pick(kind: str, name: str, table: Mapping[str, T]) -> T:
    """table[name]; else a UserError that lists the names and guesses which one was meant."""
    if name in table:
        return table[name]
    raise UserError(f"unknown {kind} '{name}'{did_you_mean(name, table)}; known: {', '.join(table)}")


def did_you_mean(word: str, known: Mapping[str, Any]) -> str:
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f": did you mean '{lower[close[0]]}'?" if close else ""
