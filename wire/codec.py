"""Owns the step between frozen dataclasses and msgpack maps: one validated codec for every record.

A record's annotations are its schema. They are compiled once a class into a tuple of decoders, so
that what a peer sent is checked in one place, and inside this code base types can be trusted.

Unknown fields of what a peer tells are ignored, so that it may tell more. Of what it asks they are refused:
one that is ignored would be a limit that is not enforced.
"""

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

T = TypeVar("T")
Decoder = Callable[[Any], Any]

MAX_UINT = 2**63 - 1
#: The classes of what is plain already.
_PLAIN: Final = frozenset((str, bytes, int, float, bool))
#: Metadata of a field that is not on the wire.
NOT_SENT = types.MappingProxyType({"sent": False})
#: By class, and whether unknown fields are refused in it.
_SCHEMAS: dict[tuple[type, bool], dict[str, tuple[Decoder, bool]]] = {}
#: How much of a field's name that a peer made up is repeated, in characters.
_NAME_CHARACTERS = 60


class InvalidValueError(ValueError):
    """A value does not fit its record; the message names field and reason, and is fit for people.

    Args:
        message: with the field.
        field: its name, with those of the records around it: ``limits.cpu``.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def to_map(record: object, instead: Callable[[enum.Enum], enum.Enum] | None = None) -> dict[str, Any]:
    """Turn a record into plain data for msgpack; fields that are None are left out.

    Args:
        record: a dataclass.
        instead: says for a value of an enumeration what to tell in its place; None for itself.
    """
    plain: dict[str, Any] = {}
    for name in _schema(type(record), strict=False):
        value = getattr(record, name)
        if value is not None:
            plain[name] = value if type(value) in _PLAIN else _to_plain(value, instead)
    return plain


def _to_plain(value: Any, instead: Callable[[enum.Enum], enum.Enum] | None) -> Any:
    if isinstance(value, enum.Enum):
        return value.value if instead is None else instead(value).value
    if isinstance(value, tuple):
        return [item if type(item) in _PLAIN else _to_plain(item, instead) for item in value]
    if dataclasses.is_dataclass(value):
        return to_map(value, instead)
    return value


def from_map(cls: type[T], plain: Mapping[str, Any], *, strict: bool = False) -> T:
    """Build a record from a map.

    Args:
        cls: the record's class.
        plain: the map.
        strict: refuse unknown fields, here and in the records within, rather than ignore them.

    Raises:
        InvalidValueError: a field is missing, unknown or does not fit.
    """
    schema = _schema(cls, strict=strict)
    if strict and (unknown := unknown_field(cls, plain)) is not None:
        raise InvalidValueError(f"there is no field {unknown!r}", unknown)
    values: dict[str, Any] = {}
    for name, (decode, required) in schema.items():
        value = plain.get(name)
        if value is None:
            if required:
                raise InvalidValueError(f"{name} is missing", name)
            continue
        try:
            values[name] = decode(value)
        except InvalidValueError as error:
            within = f".{error.field}" if error.field else ""
            raise InvalidValueError(f"{name}: {error}", name + within) from None
    return cls(**values)


def unknown_field(cls: type, plain: Mapping[str, Any]) -> str | None:
    """The beginning of the name of a field that a map has and the record has not; None if there is none."""
    known = _schema(cls, strict=False)
    found = (name for name, value in plain.items() if value is not None and name not in known)
    return next((name[:_NAME_CHARACTERS] for name in found), None)


def _schema(cls: type, *, strict: bool) -> dict[str, tuple[Decoder, bool]]:
    if (known := _SCHEMAS.get((cls, strict))) is not None:
        return known
    hints = typing.get_type_hints(cls)
    schema = {}
    for field in dataclasses.fields(cls):
        if field.metadata == NOT_SENT:
            continue
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        schema[field.name] = (_decoder(hints[field.name], strict), required)
    _SCHEMAS[cls, strict] = schema
    return schema


def _decoder(hint: Any, strict: bool) -> Decoder:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _decoder(next(arg for arg in args if arg is not type(None)), strict)
    if origin is tuple:
        return functools.partial(_tuple, _decoder(args[0], strict))
    if origin is dict:
        return functools.partial(_dict, _decoder(args[0], strict), _decoder(args[1], strict))
    if hint in _SCALARS:
        return _SCALARS[hint]
    if issubclass(hint, enum.StrEnum):
        return functools.partial(_enum, hint)
    return functools.partial(_record, hint, strict)


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


def _enum(cls: type[enum.StrEnum], value: Any) -> enum.StrEnum | str:
    """A value of an open enumeration: one that we do not know stays text."""
    text = _text(value)
    return cls(text) if text in cls._value2member_map_ else text


def _record(cls: type, strict: bool, value: Any) -> Any:
    return from_map(cls, _plain_dict(value), strict=strict)


_SCALARS: dict[Any, Decoder] = {
    int: _uint,
    float: _float,
    bool: _bool,
    str: _text,
    bytes: _octets,
    dict: _plain_dict,
}
