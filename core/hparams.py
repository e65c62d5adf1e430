"""Settings of an editing method: a YAML file read strictly into a frozen dataclass."""

import dataclasses
import logging
import math
import re
import types
import typing
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from core.errors import UserError
from core.messages import short
from core.registry import did_you_mean, discover
from core.types import Layer, Weight

if TYPE_CHECKING:  # torch takes seconds to import
    from core.lm.model import LM

T = TypeVar("T")

logger = logging.getLogger(__name__)

LIMIT = 1 << 16
"""Bytes of a settings file at most."""

RELEASED_ONLY = re.compile(
    r"alg(_name)?|device|model_(name|class|parallel)|tokenizer_(name|class)|.*_module(_tmp)?|layer_selection|max_length"
    r"|results_dir|archive|fp16|bf16|half|batch_size|max_(input|output|new)_(length|tokens)|P_loc|silent"
)
"""Keys of other projects' files whose values here come from the model or from the command line, or play no part.

A settings class names those of its own method in READ_PAST, in SPELLED those that go by another name here, and in
VARIANTS what an `alg_name` means that is no method of its own here.
"""
ADVICE: dict[str, tuple[Any, str]] = {
    "fp16": (False, "use --dtype float16"),
    "bf16": (False, "use --dtype bfloat16"),
    "half": (False, "use --dtype bfloat16"),
    "batch_size": (1, "BATCH_SIZE of the command line says how many edits go into one update"),
    "dropout": (0, "there is none, the model stays in evaluation mode"),
}
"""Of those, what would change numbers: the value that does not, and what to do about another."""


DEPTH = 10
"""Of values in one another: more than any setting has."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without what settings have no use for: aliases (which multiply), deep nests, keys with two values.

    `twice` are the keys that are given again with the same value.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[str] = []
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name), which settings cannot hold")
        self.depth += 1
        if self.depth > DEPTH:  # PyYAML's time grows with the square of it
            raise yaml.YAMLError(f"values nested more than {DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        first: dict[str, str] = {}
        for key, value in node.value:
            if isinstance(key.value, str):
                text = yaml.serialize(value)
                if first.setdefault(key.value, text) != text:
                    raise yaml.YAMLError(f"the key {short(key.value)} stands twice, with two values")
        keys = [key.value for key, _ in node.value]
        self.twice += [key for key in first if keys.count(key) > 1]
        return super().construct_mapping(node, deep)


def added(default: T) -> T:
    """A field for a setting that earlier versions did not have: given by keyword, and not recorded at its default.

    So the results that they made stay valid, where the default is what they did.
    """
    field: T = dataclasses.field(default=default, kw_only=True, metadata={"added": True})
    return field


def recorded(hp: Any) -> dict[str, Any]:
    """The settings as they are recorded in results: all, but those `added` that are at their default."""
    later = {field.name: field.default for field in dataclasses.fields(hp) if field.metadata.get("added")}
    values = dataclasses.asdict(hp)
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def load(cls: type[T], path: Path) -> T:
    """Read `path` into the dataclass `cls`: every key known, every value of its type, nothing missing.

    Keys of the released files that this project takes from elsewhere are skipped, with one notice in the log.
    Raises UserError with the file and the key.
    """
    values = _read(path)
    for other, own in getattr(cls, "SPELLED", {}).items():
        if other in values and values.setdefault(own, values[other]) != values.pop(other):
            raise UserError(f"{path}: {other} and {own} are one setting, with two values here")
    for key, value in getattr(cls, "VARIANTS", {}).get(str(values.get("alg_name")), {}).items():
        values.setdefault(key, value)
    passed_over = [key for key in values if _read_past(cls, str(key))]
    if passed_over:
        told = {key: values[key] for key in passed_over if key in ADVICE and values[key] != ADVICE[key][0]}
        advice = [f"{key} {short(value, 40)}: {ADVICE[key][1]}" for key, value in told.items()]
        names = "; ".join([", ".join(map(str, passed_over)), *advice])
        logger.info("%s: taken from the model or the command line, or of no effect, not from here: %s", path, names)
    return _built(cls, {key: value for key, value in values.items() if key not in passed_over}, values, str(path))


def build(cls: type[T], given: dict[Any, Any], where: str) -> T:
    """The dataclass `cls` of these values, which stand at `where`. Raises UserError with the key."""
    return _built(cls, given, given, where)


def _built(cls: type[T], given: dict[Any, Any], every: dict[Any, Any], where: str) -> T:
    """As `build`; `every` value, those that are read past too, tells whose settings they are if they do not fit."""
    fields = _fields(cls)
    for key in given:
        if key not in fields:
            guess = _whose(cls, every) or did_you_mean(str(key)[:60], fields)
            raise UserError(f"{where}: unknown key {short(str(key))}{guess}")
    for key, field in fields.items():
        if key not in given and _needed(field):
            raise UserError(f"{where}: the key '{key}' is missing{_whose(cls, every)}")
    try:
        return _made(cls, given, where)
    except UserError as error:
        raise UserError(f"{error}{_whose(cls, every)}") from error


def _made(cls: type[T], given: dict[Any, Any], where: str) -> T:
    """The dataclass of values under keys that it knows, each as its field's type."""
    kinds = typing.get_type_hints(cls)
    try:
        return cls(**{key: _convert(value, kinds[key], f"{where}: {key}") for key, value in given.items()})
    except ValueError as error:  # raised by a settings class that checks itself
        raise UserError(f"{where}: {error}") from error


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def _needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _read_past(cls: type[Any], key: str) -> bool:
    """Whether a key of another project's file is none of the settings of `cls`, and says nothing that they lack."""
    known = RELEASED_ONLY.fullmatch(key) or key in getattr(cls, "READ_PAST", ())
    return key not in _fields(cls) and bool(known)


def _read(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(LIMIT + 1)
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the settings: {error.strerror}; --hparams FILE names another file"
        ) from error
    if len(text) > LIMIT:
        raise UserError(f"{path}: expected at most {LIMIT} bytes of settings")
    try:
        # JSON is YAML but for the tabs. A SafeLoader: plain values, never objects.
        loader = _Loader(text.decode().replace("\t", " ") if path.suffix == ".json" else text.decode())
        values = loader.get_single_data()
    except Exception as error:  # for a tag that does not fit its value PyYAML raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a YAML file: {reason[:200]}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines")
    if loader.twice:
        logger.info("%s: given twice, with the same value: %s", path, ", ".join(loader.twice))
    return values


def _whose(cls: type[Any], given: dict[Any, Any]) -> str:
    """For a message: the other editing method that these settings fit, best if several do; empty if none does."""
    if cls.__module__.partition(".")[0] != "editors":
        return ""
    fitting: dict[str, int] = {}
    for name, editor in discover("editors", "EDITOR").items():
        kind, fields = editor.hparams, _fields(editor.hparams)
        values = {key: value for key, value in given.items() if not _read_past(kind, str(key))}
        needed = {key for key, field in fields.items() if _needed(field)}
        if kind is not cls and needed <= values.keys() <= fields.keys():
            with suppress(UserError):
                _made(kind, values, "")
                fitting[name] = len(fields) - len(values)
    return f"; these look like settings of {min(fitting, key=lambda name: fitting[name])}" if fitting else ""


def named(cls: type[Any], kind: Any) -> list[str]:
    """The settings of a class that hold a `kind` (core.types.Layer, Weight), or a tuple of it, or None."""

    def holds(hint: Any) -> bool:
        return hint == kind or any(holds(part) for part in typing.get_args(hint))

    return [name for name, hint in typing.get_type_hints(cls, include_extras=True).items() if holds(hint)]


def check(hp: Any, lm: "LM") -> None:
    """Raise UserError for a layer or a weight that the settings name and the model does not have.

    Which settings those are their types say: core.types.Layer and Weight.
    """

    def values(kind: Any) -> Iterator[tuple[str, Any]]:
        for key in named(type(hp), kind):
            value = getattr(hp, key)
            parts = value if isinstance(value, tuple | list) else (value,)
            yield from ((key, part) for part in parts if part is not None)

    for key, layer in values(Layer):
        if not 0 <= layer < lm.n_layers:
            raise UserError(
                f"{key}: {layer}: '{lm.name}' has layers 0 to {lm.n_layers - 1}; --hparams names other settings"
            )
    weights = {name for name, _ in lm.model.named_parameters(remove_duplicate=False)}
    for key, name in values(Weight):
        if name not in weights:
            raise UserError(f"{key}: '{lm.name}' has no weight {short(name)}; --hparams names other settings")


def _convert(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind`. YAML 1.1 reads 5e-1 as a string: a number is accepted in either form."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        *others, last = (part for part in args if part is not type(None))
        for part in others:
            with suppress(UserError):
                return _convert(value, part, where)
        return _convert(value, last, where)
    if origin is typing.Literal and value in args:
        return args[args.index(value)]  # false for 0
    if origin is tuple and isinstance(value, list | tuple):
        item = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(item) == len(value):
            return tuple(_convert(v, k, where) for v, k in zip(value, item, strict=True))
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return build(typing.cast(type[Any], kind), value, where)
    if kind is float and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(number := float(value)):
                return number
        except (ValueError, OverflowError):
            pass
    if kind in (int, str, bool) and type(value) is kind and _sound(value):
        return value
    wanted = f"one of {', '.join(map(str, args))}" if origin is typing.Literal else getattr(kind, "__name__", str(kind))
    wanted = "true or false" if kind is bool else wanted
    raise UserError(
        f"{where}: expected {wanted if origin is not tuple else 'a list: ' + str(kind)}, found {short(value)}"
    )


def _sound(value: str | int) -> bool:
    """Whether a text can be written to a file and be a path, and a number fits 64 bits."""
    if isinstance(value, str):
        return "\0" not in value and value.encode(errors="ignore").decode() == value
    return abs(value) < 1 << 63
