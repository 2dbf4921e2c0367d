"""Teaches Hypothesis the records of the wire: `st.from_type` builds any of them, within its caps."""

import dataclasses
import enum
import types
import typing
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from wire import jobs, messages
from wire.codec import MAX_UINT
from wire.flow import MAX_CREDIT

# Wall-clock deadlines fail on a loaded machine and say nothing about the protocol.
settings.register_profile("wire", deadline=None)
settings.load_profile("wire")

TEXT = st.text(max_size=20)
OCTETS = st.binary(max_size=40)
UINT = st.integers(0, MAX_UINT)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | UINT | FINITE | TEXT | OCTETS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: UINT,
    float: FINITE,
    bool: st.booleans(),
    str: TEXT,
    bytes: OCTETS,
    dict: PLAIN,
}
#: Fields that take less than their type does.
NARROW: dict[type, dict[str, st.SearchStrategy[Any]]] = {
    messages.Hello: {"version": st.just(messages.PROTOCOL_VERSION)},
    messages.Request: {
        "id": st.integers(1, MAX_UINT),
        "credit": st.integers(0, MAX_CREDIT),
        "unknown": st.none(),
    },
    messages.Output: {
        "stream": st.sampled_from([messages.STDOUT, messages.STDERR]),
        "data": st.binary(max_size=300),
    },
    messages.Credit: {"amount": st.integers(0, MAX_CREDIT)},
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return st.one_of(*(st.none() if arg is types.NoneType else values_of(arg) for arg in args))
    if origin is tuple:
        return st.lists(values_of(args[0]), max_size=4).map(tuple)
    if origin is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=4)
    if hint in SCALARS:
        return SCALARS[hint]
    return st.sampled_from(hint) if issubclass(hint, enum.Enum) else records_of(hint)


def records_of(cls: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    given = {field.name: values_of(hints[field.name]) for field in dataclasses.fields(cls)}
    return st.builds(cls, **(given | NARROW.get(cls, {})))


for record in (*vars(jobs).values(), *messages.TYPES.values(), messages.ClientHello):
    if dataclasses.is_dataclass(record) and isinstance(record, type):
        st.register_type_strategy(record, records_of(record))
