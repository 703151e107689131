"""Strict decoding of plain data (parsed JSON or TOML) into frozen dataclasses.

No coercion: a wrong type or an unknown key is an error that names the path. It is our own because the
libraries that do this strictly have no 32-bit ARM wheel (see docs/adr/0003).
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from edge_runtime.contract.errors import ContractError

T = TypeVar("T")


def decode(kind: type[T], data: object, path: str = "") -> T:
    """Decode `data` into the dataclass `kind`.

    Raises:
        ContractError: an unknown key, a missing key or a wrong type; the message names the path.
    """
    return typing.cast("T", _value(kind, data, path))


def type_at(kind: type, keys: Sequence[str]) -> object:
    """The declared type of the value at `keys` in the dataclass `kind`; None if there is no such key."""
    found: Any = kind
    for key in keys:
        if not dataclasses.is_dataclass(found):
            return None
        found = _present(_hints(typing.cast("type", found)).get(key))
    return found


def _present(kind: Any) -> Any:
    """The one type of `kind` that is not None, where there is one; else `kind`."""
    options = [option for option in typing.get_args(kind) if option is not types.NoneType]
    return options[0] if typing.get_origin(kind) in (typing.Union, types.UnionType) and len(options) == 1 else kind


def encode(value: Any) -> Any:
    """Turn a dataclass tree into plain data; fields that are None or equal to their default are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(v) for f in dataclasses.fields(value) if not _is_default(f, v := getattr(value, f.name))}
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    return value


def _is_default(field: "dataclasses.Field[Any]", value: object) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return False


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(kind: Any, data: object, path: str) -> object:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast("type", kind), data, path)
    if origin in (typing.Union, types.UnionType):
        return _union(kind, data, path)
    if origin is typing.Literal:
        return _literal(kind, data, path)
    if origin is tuple:
        return _sequence(typing.get_args(kind)[0], data, path)
    if origin is dict:
        return _mapping(typing.get_args(kind), data, path)
    return _scalar(kind, data, path)


def _dataclass(kind: type, data: object, path: str) -> object:
    if not isinstance(data, Mapping):
        raise _wrong(path, "a table", data)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    for key in data:
        if key not in fields:
            raise ContractError(f"unknown key {_join(path, str(key))!r}; known here: {', '.join(sorted(fields))}")
    values = {name: _value(_hints(kind)[name], data[name], _join(path, name)) for name in fields if name in data}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ContractError(f"key {_join(path, name)!r} is missing")
    try:
        return kind(**values)
    except ContractError as error:
        raise ContractError(f"{path}: {error}" if path else str(error)) from error


def _union(kind: Any, data: object, path: str) -> object:
    if data is None and types.NoneType in typing.get_args(kind):
        return None
    options = [k for k in typing.get_args(kind) if k is not types.NoneType]
    if len(options) == 1:
        return _value(options[0], data, path)
    for option in options:
        try:
            return _value(option, data, path)
        except ContractError:
            continue
    raise _wrong(path, " or ".join(_name(o) for o in options), data)


def _literal(kind: Any, data: object, path: str) -> object:
    options = typing.get_args(kind)
    if data not in options or isinstance(data, bool):
        raise _wrong(path, "one of " + ", ".join(repr(o) for o in options), data)
    return data


def _sequence(item: Any, data: object, path: str) -> object:
    if not isinstance(data, list | tuple):
        raise _wrong(path, f"a list of {_name(item)}", data)
    return tuple(_value(item, value, f"{path}[{i}]") for i, value in enumerate(data))


def _mapping(args: tuple[Any, ...], data: object, path: str) -> object:
    if not isinstance(data, Mapping) or not all(isinstance(k, str) for k in data):
        raise _wrong(path, "a table", data)
    return {key: _value(args[1], value, _join(path, key)) for key, value in data.items()}


def _scalar(kind: Any, data: object, path: str) -> object:
    if kind is Any or kind is object:
        return data
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return _finite(data, path)
    # bool is an int to Python; to a person who wrote `port = true` it is a mistake.
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise _wrong(path, _name(kind), data)
    return data


def _finite(number: float, path: str) -> float:
    # NaN is neither below nor above any limit; JSON has no such numbers, though Python reads and TOML allows them.
    try:
        value = float(number)
    except OverflowError as error:
        raise _wrong(path, "a finite number", number) from error
    if not math.isfinite(value):
        raise _wrong(path, "a finite number", number)
    return value


def _wrong(path: str, expected: str, data: object) -> ContractError:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return ContractError(f"{path or 'the document'} must be {expected}, but is {shown}")


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    if dataclasses.is_dataclass(kind):
        return "a table"
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
