"""Owns the step between plain data and a payload: one msgpack map, within caps.

Theory of operation. A few kilobytes of msgpack can announce gigabytes of arrays, and 64 KiB can hold 65,000
empty maps, each of which becomes an object and a call. So what comes from a client is held to the caps before
objects are made. Only what a message itself needs may be large: its maps, and the arrays and maps in them.
These are read an item at a time, once their announced size is known to be within the caps. Whatever lies
deeper, which no message of ours has, is left to msgpack with small caps, and counted as it comes.
"""

import itertools
import typing
from dataclasses import dataclass
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types

from .errors import LocalProtocolError, RemoteProtocolError

#: How deeply arrays and maps may nest in one payload, fields that we do not know included.
MAX_DEPTH: Final = 16
#: The most entries one array or map may have (argv and environment are the large ones).
MAX_ITEMS: Final = 65_536
#: The most array and map entries in one payload. Without it, 4 MiB of empty maps become 300 MB here.
MAX_TOTAL_ITEMS: Final = 262_144
#: A shorter payload is left to msgpack as a whole, in bytes: it cannot announce much.
SHORT_BYTES: Final = 1024
#: The most entries of an array or map below the levels that messages have, where payloads are read with care.
_INNER_ITEMS: Final = 256
#: The levels of maps that messages have: the message, its parameters or its result, a record in them.
_LEVELS: Final = 3
#: The first bytes of maps, of arrays, and of both.
_MAPS: Final = frozenset(bytes((head,)) for head in (*range(0x80, 0x90), 0xDE, 0xDF))
_ARRAYS: Final = frozenset(bytes((head,)) for head in (*range(0x90, 0xA0), 0xDC, 0xDD))
_LARGE: Final = _MAPS | _ARRAYS
#: What has entries, and the classes of what has none.
_CONTAINERS: Final = (dict, list, tuple)
_LEAVES: Final = frozenset((str, bytes, int, float, bool, type(None)))
#: What a map's key may be to msgpack.
_TEXTS: Final = frozenset((str, bytes))


@dataclass(frozen=True, slots=True)
class Caps:
    """What a payload may hold; what passes a cap is refused.

    Args:
        depth: how deeply arrays and maps may nest.
        items: the most entries of one array or map.
        total: the most entries of all arrays and maps together.
        containers: the most arrays and maps; None for as many as there are entries.
    """

    depth: int = MAX_DEPTH
    items: int = MAX_ITEMS
    total: int = MAX_TOTAL_ITEMS
    containers: int | None = None


#: What a server may send: a page of its jobs has thousands of maps.
FROM_SERVER: Final = Caps()
#: What a client may send: few arrays and maps, of which those of a start (argv, env) may be large.
FROM_STARTER: Final = Caps(total=MAX_ITEMS + 1024, containers=64)
#: What a client may send whose role starts no jobs: its requests have a dozen entries.
FROM_LOOKER: Final = Caps(items=256, total=1024, containers=64)


def pack(value: object) -> bytes:
    """Encode plain data as msgpack.

    Raises:
        LocalProtocolError: the value cannot be said in msgpack, or not within the caps.
    """
    try:
        _count(value, FROM_SERVER)
        return typing.cast("bytes", msgpack.packb(value, use_bin_type=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"cannot be encoded: {error}") from error


def unpack(payload: bytes, caps: Caps = FROM_SERVER) -> dict[str, Any]:
    """Decode one msgpack map with text keys.

    Raises:
        RemoteProtocolError: anything else, or nesting and sizes beyond the caps.
    """
    try:
        if caps.containers is None or len(payload) <= SHORT_BYTES:
            value = msgpack.unpackb(payload, **_options(_Counter(caps), min(caps.items, len(payload))))
        else:
            value = _CarefulReader(payload, caps).read_all()
        _count(value, caps)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise RemoteProtocolError(f"a payload is not valid msgpack: {reason}") from error
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise RemoteProtocolError("a payload must be one map whose keys are text")
    return value


def _options(counter: "_Counter", items: int) -> dict[str, Any]:
    """What msgpack is told. It makes room at once for all the items that an array announces."""
    return {
        "raw": False,
        "strict_map_key": True,
        "max_array_len": items,
        "max_map_len": items,
        "max_ext_len": 0,
        "ext_hook": _refuse_extension,  # max_ext_len lets the empty ones pass
        "list_hook": counter.take,
        "object_hook": counter.take,
    }


class _Counter:
    """Counts arrays and maps, and their entries, while they are made."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._total = self._containers = 0

    def take(self, container: Any) -> Any:
        """Count an array or a map that was made, and return it."""
        self.count(len(container))
        return container

    def count(self, entries: int) -> None:
        """Count an array or a map of so many entries; ValueError beyond the caps."""
        self._containers += 1
        self._total += entries
        if self._caps.containers is not None and self._containers > self._caps.containers:
            raise ValueError(f"more than {self._caps.containers} arrays and maps")
        if self._total > self._caps.total:
            raise ValueError(f"more than {self._caps.total} items")


class _CarefulReader:
    """Reads one payload whose size and structure are not to be trusted."""

    def __init__(self, payload: bytes, caps: Caps) -> None:
        self._payload = payload
        self._caps = caps
        self._counter = _Counter(caps)
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=len(payload), **_options(self._counter, min(_INNER_ITEMS, caps.items))
        )
        self._unpacker.feed(payload)

    def read_all(self) -> object:
        """Return the one object that there is."""
        value = self._read(_LEVELS)
        if self._unpacker.tell() != len(self._payload):
            raise ValueError("there is something behind it")
        return value

    def _read(self, levels: int) -> Any:
        unpacker = self._unpacker
        at = unpacker.tell()
        head = self._payload[at : at + 1]  # empty at the end, where msgpack reads none
        if levels and head in _MAPS:
            entries = self._announced(unpacker.read_map_header())
            if levels == 1:  # the environment is of this level, and has 65,000 entries
                found = self._take(2 * entries)
                keys, values = found[::2], found[1::2]
            else:
                keys, values = [], []
                for _ in range(entries):
                    keys.append(unpacker.unpack())
                    at = unpacker.tell()
                    is_large = self._payload[at : at + 1] in _LARGE
                    values.append(self._read(levels - 1) if is_large else unpacker.unpack())
            if not _TEXTS.issuperset(map(type, keys)):
                raise ValueError("the key of a map must be text or binary")
            return dict(zip(keys, values, strict=True))
        if levels and head in _ARRAYS:
            return self._take(self._announced(unpacker.read_array_header()))
        return unpacker.unpack()

    def _take(self, count: int) -> list[Any]:
        """Take so many objects, without a step of Python for each."""
        found = list(itertools.islice(self._unpacker, count))
        if len(found) < count:
            raise ValueError("it ends too soon")
        return found

    def _announced(self, entries: int) -> int:
        if entries > self._caps.items:
            raise ValueError(f"an array or map of {entries} items; the most is {self._caps.items}")
        self._counter.count(entries)
        return entries


def _refuse_extension(code: int, data: bytes) -> typing.NoReturn:
    raise ValueError(f"extension type {code}")


def _count(value: Any, caps: Caps, above: int = 0) -> int:
    """Count array and map entries; ValueError beyond the caps."""
    if not isinstance(value, _CONTAINERS):
        return 0
    if above == caps.depth:
        raise ValueError("nested too deep")
    total = len(value)
    if total > caps.items:
        raise ValueError(f"an array or map of {total} items; the most is {caps.items}")
    children = value.values() if isinstance(value, dict) else value
    if not _LEAVES.issuperset(map(type, children)):  # seen at once, where there are 65,000
        inner = (child for child in children if isinstance(child, _CONTAINERS))
        total += sum(_count(child, caps, above + 1) for child in inner)
    if total > caps.total:
        raise ValueError(f"more than {caps.total} items")
    return total
