"""What a client's payload may hold, and that it costs little to find out."""

import time
from contextlib import suppress

import msgpack  # type: ignore[import-untyped]
import pytest

from tests.abuse.frames import payloads
from tests.harness import SLOW
from wire.errors import RemoteProtocolError
from wire.frames import MAX_FRAME_BYTES
from wire.payload import FROM_LOOKER, FROM_SERVER, FROM_STARTER, SHORT_BYTES, Caps, unpack


@pytest.mark.parametrize("caps", [FROM_LOOKER, FROM_STARTER, FROM_SERVER])
@pytest.mark.parametrize("filler", [b"", b"x" * SHORT_BYTES])
def test_what_is_within_the_caps_comes_as_it_is(caps: Caps, filler: bytes) -> None:
    record = {
        "a": {"b": {"c": {"d": [{"e": [[1, 2.5, None]]}]}}},
        "f": {b"g": filler, "h": "i"},
        "j": [True, -1],
    }
    assert unpack(msgpack.packb(record), caps) == record


@pytest.mark.parametrize("filler", [b"", b"x" * SHORT_BYTES])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([0] * 257, "257"),
        ({str(number): 0 for number in range(257)}, "257"),
        ([[0] * 257], "257"),
        ([[0] * 250] * 5, "more than 1024 items"),
        ([[]] * 63, "more than 64 arrays and maps"),
        ([{}] * 63, "more than 64 arrays and maps"),
        ({1: 2}, "key"),
        ({"z": {1: 2}}, "key"),  # where the environment is
    ],
)
def test_what_passes_a_cap_is_refused(value: object, reason: str, filler: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        unpack(msgpack.packb({"x": value, "y": filler}), FROM_LOOKER)


@pytest.mark.parametrize(
    "end",
    [
        *(b"\xc1", b"\xdc", b"\xc4\xff", b"\x92\x01", b"", b"\x01\x01", b"\xd4\x01\x01"),
        *(b"\x81\xa1z\x82\xa1a\x01\xa1b", b"\x81\xa1z\x92\x01"),  # where the environment is
    ],
)
def test_what_is_no_payload_is_refused(end: bytes) -> None:
    head = b"\x82\xa1x\xc5" + (2 * SHORT_BYTES).to_bytes(2, "big") + bytes(2 * SHORT_BYTES) + b"\xa1y"
    with pytest.raises(RemoteProtocolError):
        unpack(head + end, FROM_STARTER)


@pytest.mark.parametrize(
    ("caps", "size"), [(FROM_LOOKER, 65_536), (FROM_STARTER, 262_144), (FROM_STARTER, MAX_FRAME_BYTES)]
)
@pytest.mark.parametrize("kind", ["nested", "deep", "numbers", "start", "repeat"])
def test_no_payload_takes_long(caps: Caps, size: int, kind: str) -> None:
    payload = payloads(size)[kind][4:]
    began = time.thread_time()
    with suppress(RemoteProtocolError):
        unpack(payload, caps)
    assert time.thread_time() - began < 0.05 * SLOW
