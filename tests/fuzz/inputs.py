"""Owns inputs that are nearly valid: messages, streams of frames, and any of them changed in a few places."""

import msgpack  # type: ignore[import-untyped]  # it ships no types
from hypothesis import strategies as st

from wire import messages
from wire.payload import SHORT_BYTES
from worker.methods import METHODS

Inputs = st.SearchStrategy[bytes]


@st.composite
def mutated(draw: st.DrawFn, valid: Inputs) -> bytes:
    """A valid input with a few places overwritten, cut out, doubled or put in."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 16))
        match draw(st.integers(0, 3)):
            case 0:
                data[place : place + size] = draw(st.binary(min_size=size, max_size=size))
            case 1:
                del data[place : place + size]
            case 2:
                data[place:place] = data[place : place + size]
            case _:
                data[place:place] = draw(st.binary(max_size=size))
    return bytes(data)


_TEXT = st.text(max_size=8) | st.sampled_from(["id", "argv", "limits", "type", "request", *METHODS])
_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | _TEXT
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
_FIELDS = sorted({field for cls in messages.TYPES.values() for field in cls.__slots__})
_ID = st.integers(0, 4)


@st.composite
def _messages(draw: st.DrawFn) -> dict[str, object]:
    """A map that is nearly a message."""
    plain: dict[str, object] = {"type": draw(st.sampled_from([*messages.TYPES, "?"])), "id": draw(_ID)}
    for name in draw(st.lists(st.sampled_from(_FIELDS), max_size=7, unique=True)):
        plain[name] = draw(_ID | _PLAIN)
    return plain


def _pack(plain: object) -> bytes:
    return bytes(msgpack.packb(plain, use_bin_type=True))


@st.composite
def _requests(draw: st.DrawFn) -> dict[str, object]:
    """A map that is a message of a client, most often."""
    kind = draw(st.sampled_from(["request", "request", "cancel", "credit", "ping", "hello"]))
    plain: dict[str, object] = {"type": kind, "id": draw(_ID)}
    match kind:
        case "request":
            plain["method"] = draw(st.sampled_from([*METHODS, "reboot"]))
            plain["params"] = draw(st.dictionaries(_TEXT, _PLAIN, max_size=3))
            plain["credit"] = draw(st.integers(0, 2**32))
        case "credit":
            plain["amount"] = draw(st.integers(0, 2**32))
        case "ping":
            plain["nonce"] = draw(_ID)
        case "hello":
            plain["features"] = draw(st.lists(_TEXT, max_size=3))
    return plain


def _pad(plain: dict[str, object]) -> dict[str, object]:
    """Long enough not to be left to msgpack as a whole."""
    return plain | {"filler": bytes(SHORT_BYTES)}


#: Around what a User may send.
_COUNTS = st.sampled_from([61, 62, 63, 255, 256, 257]) | st.integers(1, 300)
#: What nests deeply, or holds very many arrays, maps or entries, or announces them; between what does not.
_HEAVY = st.one_of(
    st.integers(1, 20).flatmap(lambda depth: st.just(b"\x91" * depth + b"\x90")),
    _COUNTS.map(lambda count: b"\xdc" + count.to_bytes(2, "big") + b"\x90" * count),
    _COUNTS.map(lambda count: b"\xde" + count.to_bytes(2, "big") + b"\xa1x\x01" * count),
    st.integers(0, 2**16 - 1).map(lambda count: b"\xdc" + count.to_bytes(2, "big")),
    st.integers(0, 2**32 - 1).map(lambda count: b"\xdf" + count.to_bytes(4, "big")),
)


@st.composite
def _heavy(draw: st.DrawFn) -> bytes:
    """A map with some of that in it, maybe in an array or a map of its own."""
    values = draw(st.lists(_HEAVY, max_size=4))
    inner = draw(st.sampled_from([b"", b"\x91", b"\x81\xa1y", b"\x91\x81\xa1y"]))
    named = [b"\xa1" + bytes((97 + number,)) + inner + value for number, value in enumerate(values)]
    filler = b"\xa6filler\xc5" + SHORT_BYTES.to_bytes(2, "big") + bytes(SHORT_BYTES)
    return bytes((0x80 | (len(named) + 1),)) + filler + b"".join(named)


PADDED = mutated(st.builds(_pack, st.builds(_pad, _messages() | _requests()))) | _heavy() | mutated(_heavy())
PAYLOADS = mutated(st.builds(_pack, _messages() | _requests())) | st.builds(_pack, _PLAIN) | st.binary()


def _framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


STREAMS = st.lists(
    st.builds(_framed, st.builds(_pack, _requests()) | PAYLOADS) | st.binary(max_size=6), max_size=8
).map(b"".join)
