"""Find editors, tasks and edit sets: a plug-in is a file in a package that defines EDITOR, TASK or EDIT_SET.

Or a package in it, or a file in that.
"""

import ast
import difflib
import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
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
    """The names that `discover` gives; see `stated`."""
    return list(stated(package, attribute, "name"))


def stated(package: str, attribute: str, key: str) -> dict[str, tuple[str, ...]]:
    """Name of each plug-in -> the words in its class attribute `key`, a text or a set of texts; in `discover`'s order.

    Plug-ins whose source says them plainly are not imported. That is, with EDITOR = Cls or TASK = Cls(), and
    name = "..." and the key likewise in the class Cls of the same file.
    """
    result: dict[str, tuple[str, ...]] = {}
    for module, file in _modules(package).items():
        source = file.read_text(encoding="utf-8")
        tree = _parsed(source)
        (name, words), *_ = [*_stated(tree, _assigned(tree.body, attribute), key), ((), ())]
        if not (name and words) and attribute in source:
            plugin = getattr(importlib.import_module(module), attribute, None)
            name, words = (_texts(getattr(plugin, part, ())) for part in ("name", key))
        if name:
            result[name[0]] = words
    return {name: result[name] for name in sorted(result, key=str.lower)}


def rows(module: str, table: str) -> list[str]:
    """The names of the classes that a module's table lists, without importing it where its source says them plainly."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = _parsed(Path(spec.origin).read_text(encoding="utf-8"))
    listed = list(_stated(tree, _assigned(tree.body, table), "name"))
    if listed and all(name for name, _ in listed):
        return [name[0] for name, _ in listed]
    return list(getattr(importlib.import_module(module), table))


def pick(kind: str, name: str, table: Mapping[str, T]) -> T:
    """table[name], also where the case alone differs; else a UserError that lists the names and guesses."""
    return table[spelled(kind, name, table)]


def spelled(kind: str, name: str, known: Iterable[str]) -> str:
    """The name as it is written among those known: a case that differs is forgiven, if that leaves one name."""
    known = list(known)
    alike = [name] if name in known else [other for other in known if other.lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    raise UserError(f"unknown {kind} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f": did you mean '{lower[close[0]]}'?" if close else ""


def _modules(package: str) -> dict[str, Path]:
    """Its modules and those of the packages in it, with their files. None of them is imported."""
    return dict(_inside(package, importlib.import_module(package).__path__))


def _inside(package: str, folders: Iterable[str]) -> Iterator[tuple[str, Path]]:
    for module in pkgutil.iter_modules(folders):
        name = f"{package}.{module.name}"
        spec: Any = module.module_finder.find_spec(name, None)
        if module.name[0] != "_":
            yield name, Path(spec.origin)
            yield from _inside(name, spec.submodule_search_locations or ())


@functools.cache
def _parsed(source: str) -> ast.Module:
    """Once a process: a command asks several times what the same files say."""
    return ast.parse(source)


def _stated(tree: ast.Module, value: ast.expr | None, key: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Name and words of each class of this module that an expression mentions; () for what it does not say plainly."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in ast.walk(value) if value is not None else ():
        if isinstance(node, ast.Name) and node.id in classes:
            body = classes[node.id].body
            yield _texts(_literal(_assigned(body, "name"))), _texts(_literal(_assigned(body, key)))


def _literal(node: ast.expr | None) -> Any:
    """The value of a literal, or of frozenset(...) of one; () for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "frozenset" and node.args:
        node = node.args[0]
    try:
        return () if node is None else ast.literal_eval(node)
    except (ValueError, TypeError):
        return ()


def _texts(value: Any) -> tuple[str, ...]:
    """A text, or a set of texts in alphabetical order; () for any other value."""
    if isinstance(value, str):
        return (value,)
    return tuple(sorted(map(str, value))) if isinstance(value, set | frozenset | tuple | list) else ()


def _assigned(body: Iterable[ast.stmt], name: str) -> ast.expr | None:
    """The value of the last assignment to a name among these statements."""
    value = None
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                value = node.value
    return value
