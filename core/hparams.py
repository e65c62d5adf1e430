"""Settings of an editing method: a YAML file read strictly into a frozen dataclass."""

import dataclasses
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from core.errors import UserError
from core.registry import did_you_mean

T = TypeVar("T")

RELEASED_ONLY = re.compile(
    r"alg(_name)?|device|model_(name|class|parallel)|tokenizer_(name|class)|.*_module(_tmp)?|layer_selection|max_length"
    r"|results_dir|archive"
)
"""Keys of the released YAML files whose values here come from the model or from the command line."""


def load(cls: type[T], path: Path) -> T:
    """Read `path` into the dataclass `cls`: every key known, every value of its type, nothing missing.

    Keys of the released files that this project takes from elsewhere are read past, with one notice on stderr.
    Raises UserError with the file and the key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the settings: {error.strerror}; --hparams FILE names another file"
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that is none
        raise UserError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines")
    kinds = typing.get_type_hints(cls)
    passed_over = [key for key in values if key not in kinds and RELEASED_ONLY.fullmatch(str(key))]
    if passed_over:
        print(
            f"{path}: taken from the model or the command line, not from here: {', '.join(passed_over)}",
            file=sys.stderr,
        )
    given = {key: value for key, value in values.items() if key not in passed_over}
    for key in given:
        if key not in kinds:
            raise UserError(f"{path}: unknown key '{key}'{did_you_mean(str(key), kinds)}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in given and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{path}: the key '{field.name}' is missing")
    try:
        return cls(**{key: _convert(value, kinds[key], f"{path}: {key}") for key, value in given.items()})
    except ValueError as error:  # raised by a settings class that checks itself
        raise UserError(f"{path}: {error}") from error


def _convert(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind`. YAML 1.1 reads 5e-1 as a string: a number is accepted in either form."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is typing.Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        item = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(item) == len(value):
            return tuple(_convert(v, k, where) for v, k in zip(value, item, strict=True))
    if kind is float and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if kind in (int, str, bool) and type(value) is kind:
        return value
    wanted = f"one of {', '.join(map(str, args))}" if origin is typing.Literal else getattr(kind, "__name__", str(kind))
    raise UserError(f"{where}: expected {wanted if origin is not tuple else 'a list: ' + str(kind)}, found {value!r}")
