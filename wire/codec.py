"""Owns the step between frozen dataclasses and msgpack maps: one validated codec for every record.

A record's annotations are its schema. They are compiled once a class into a tuple of decoders, so
that what a peer sent is checked in one place, and inside this code base types can be trusted.
"""

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgpack  # type: ignore[import-untyped]  # it ships no types

from .errors import LocalProtocolError, RemoteProtocolError

T = TypeVar("T")
Decoder = Callable[[Any], Any]

#: How deeply arrays and maps may nest in one payload, fields that we do not know included.
MAX_DEPTH = 16
#: The most entries one array or map may have (argv and environment are the large ones).
MAX_ITEMS = 65_536
#: The most array and map entries in one payload. Without it, 4 MiB of empty maps become 300 MB here.
MAX_TOTAL_ITEMS = 262_144
MAX_UINT = 2**63 - 1
_SCHEMAS: dict[type, dict[str, tuple[Decoder, bool]]] = {}


class InvalidValueError(ValueError):
    """A value does not fit its record; the message names field and reason, and is fit for people."""


def pack(value: object) -> bytes:
    """Encode plain data as msgpack.

    Raises:
        LocalProtocolError: the value cannot be said in msgpack, or not within the caps.
    """
    try:
        _count(value, MAX_DEPTH)
        return typing.cast("bytes", msgpack.packb(value, use_bin_type=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"cannot be encoded: {error}") from error


def unpack(payload: bytes, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Decode one msgpack map with text keys, in which nothing nests deeper than ``max_depth``.

    Raises:
        RemoteProtocolError: anything else, or nesting and sizes beyond the caps.
    """
    total = 0

    def check_total(container: Any) -> Any:
        nonlocal total
        total += len(container)
        if total > MAX_TOTAL_ITEMS:
            raise ValueError(f"more than {MAX_TOTAL_ITEMS} items")
        return container

    # An item takes a byte at least; msgpack would make room at once for an array that is a lie.
    most = min(MAX_ITEMS, len(payload))
    try:
        value = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            max_array_len=most,
            max_map_len=most,
            max_ext_len=0,
            ext_hook=_refuse_extension,  # max_ext_len lets the empty ones pass
            list_hook=check_total,
            object_hook=check_total,
        )
        _count(value, max_depth)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise RemoteProtocolError(f"a payload is not valid msgpack: {reason}") from error
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise RemoteProtocolError("a payload must be one map whose keys are text")
    return value


def _refuse_extension(code: int, data: bytes) -> typing.NoReturn:
    raise ValueError(f"extension type {code}")


def _count(value: Any, room: int) -> int:
    """Count array and map entries; ValueError beyond the caps."""
    if isinstance(value, dict):
        children: Any = value.values()
    elif isinstance(value, list | tuple):
        children = value
    else:
        return 0
    if room == 0:
        raise ValueError("nested too deep")
    total = len(children)
    if total > MAX_ITEMS:
        raise ValueError(f"an array or map of {total} items; the most is {MAX_ITEMS}")
    for child in children:
        if isinstance(child, dict | list | tuple):
            total += _count(child, room - 1)
    if total > MAX_TOTAL_ITEMS:
        raise ValueError(f"more than {MAX_TOTAL_ITEMS} items")
    return total


def to_map(record: object) -> dict[str, Any]:
    """Turn a record into plain data for msgpack; fields that are None are left out."""
    plain: dict[str, Any] = {}
    for name in _schema(type(record)):
        value = getattr(record, name)
        if value is not None:
            plain[name] = _to_plain(value)
    return plain


def _to_plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return to_map(value)
    return value


def from_map(cls: type[T], plain: Mapping[str, Any]) -> T:
    """Build a record from a map; unknown keys are ignored.

    Raises:
        InvalidValueError: a field is missing or does not fit.
    """
    values: dict[str, Any] = {}
    for name, (decode, required) in _schema(cls).items():
        value = plain.get(name)
        if value is None:
            if required:
                raise InvalidValueError(f"{name} is missing")
            continue
        try:
            values[name] = decode(value)
        except InvalidValueError as error:
            raise InvalidValueError(f"{name}: {error}") from None
    return cls(**values)


def _schema(cls: type) -> dict[str, tuple[Decoder, bool]]:
    if cls in _SCHEMAS:
        return _SCHEMAS[cls]
    hints = typing.get_type_hints(cls)
    schema = {}
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        schema[field.name] = (_decoder(hints[field.name]), required)
    _SCHEMAS[cls] = schema
    return schema


def _decoder(hint: Any) -> Decoder:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _decoder(next(arg for arg in args if arg is not type(None)))
    if origin is tuple:
        return functools.partial(_tuple, _decoder(args[0]))
    if origin is dict:
        return functools.partial(_dict, _decoder(args[0]), _decoder(args[1]))
    if hint in _SCALARS:
        return _SCALARS[hint]
    if issubclass(hint, enum.Enum):
        return functools.partial(_enum, hint)
    return functools.partial(_record, hint)


def _uint(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_UINT:
        raise InvalidValueError("must be a whole number from 0 to 2^63 - 1")
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InvalidValueError("must be a finite number")
    return float(value)


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise InvalidValueError("must be true or false")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise InvalidValueError("must be text")
    return value


def _octets(value: Any) -> bytes:
    if type(value) is str:
        return value.encode()
    if type(value) is not bytes:
        raise InvalidValueError("must be binary or text")
    return value


def _plain_dict(value: Any) -> dict[str, Any]:
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise InvalidValueError("must be a map with text keys")
    return value


def _tuple(item: Decoder, value: Any) -> tuple[Any, ...]:
    if type(value) is not list:
        raise InvalidValueError("must be an array")
    return tuple(map(item, value))


def _dict(key: Decoder, item: Decoder, value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise InvalidValueError("must be a map")
    return {key(k): item(v) for k, v in value.items()}


def _enum(cls: type[enum.Enum], value: Any) -> enum.Enum:
    try:
        return cls(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in cls)
        raise InvalidValueError(f"must be one of {known}") from None


def _record(cls: type, value: Any) -> Any:
    return from_map(cls, _plain_dict(value))


_SCALARS: dict[Any, Decoder] = {
    int: _uint,
    float: _float,
    bool: _bool,
    str: _text,
    bytes: _octets,
    dict: _plain_dict,
}
