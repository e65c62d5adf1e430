"""Find editors, tasks and edit sets: a plug-in is a file in a package that defines EDITOR, TASK or EDIT_SET."""

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from core.errors import UserError

T = TypeVar("T")


def discover(package: str, attribute: str) -> dict[str, Any]:
    """Plug-ins of a package by their `name`, in alphabetical order. What starts with an underscore is a helper."""
    modules = map(importlib.import_module, _modules(package))
    plugins = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    return {plugin.name: plugin for plugin in sorted(plugins, key=lambda plugin: plugin.name.lower())}


def names(package: str, attribute: str) -> list[str]:
    """The names that `discover` gives, without importing plug-ins whose source says them plainly.

    That is, with EDITOR = Cls or TASK = Cls(), and name = "..." in the class Cls of the same file.
    """
    result: list[str] = []
    for module in _modules(package):
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        name = _stated(ast.parse(source), attribute)
        if name is None and attribute in source:
            name = getattr(getattr(importlib.import_module(module), attribute, None), "name", None)
        if name is not None:
            result.append(name)
    return sorted(result, key=str.lower)


def pick(kind: str, name: str, table: Mapping[str, T]) -> T:
    """table[name]; else a UserError that lists the names and guesses which one was meant."""
    if name in table:
        return table[name]
    raise UserError(f"unknown {kind} '{name}'{did_you_mean(name, table)}; known: {', '.join(table)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f": did you mean '{lower[close[0]]}'?" if close else ""


def _modules(package: str) -> list[str]:
    folder = importlib.import_module(package).__path__
    return [f"{package}.{module.name}" for module in pkgutil.iter_modules(folder) if module.name[0] != "_"]


def _stated(tree: ast.Module, attribute: str) -> str | None:
    """The plug-in's name, where the module says it plainly."""
    value = _assigned(tree.body, attribute)
    if isinstance(value, ast.Call) and not value.args and not value.keywords:
        value = value.func
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if not isinstance(value, ast.Name) or value.id not in classes:
        return None
    name = _assigned(classes[value.id].body, "name")
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def _assigned(body: Iterable[ast.stmt], name: str) -> ast.expr | None:
    """The value of the last assignment to a name among these statements."""
    value = None
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                value = node.value
    return value
