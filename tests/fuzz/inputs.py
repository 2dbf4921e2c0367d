"""Owns inputs that are nearly valid: messages, streams of frames, and any of them changed in a few places."""

import msgpack  # type: ignore[import-untyped]  # it ships no types
from hypothesis import strategies as st

from wire import messages
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
    kind = draw(st.sampled_from(["request", "request", "cancel", "credit", "ping"]))
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
    return plain


PAYLOADS = mutated(st.builds(_pack, _messages() | _requests())) | st.builds(_pack, _PLAIN) | st.binary()


def _framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


STREAMS = st.lists(
    st.builds(_framed, st.builds(_pack, _requests()) | PAYLOADS) | st.binary(max_size=6), max_size=8
).map(b"".join)
