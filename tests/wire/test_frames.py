"""Framing: any split gives the same frames, and an oversized one is refused by its header."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import LocalProtocolError, RemoteProtocolError
from wire.frames import HEADER_BYTES, MAX_FRAME_BYTES, FrameDecoder, encode_frame, group_frames

PAYLOADS = st.lists(st.binary(min_size=1, max_size=50), max_size=12)


@given(PAYLOADS, st.data())
def test_any_split_gives_the_same_frames(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder = FrameDecoder()
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.receive_data(stream[begin:end])
        if data.draw(st.booleans()):
            continue  # the caller may let bytes pile up
        while (payload := decoder.next_frame()) is not None:
            found.append(payload)
    while (payload := decoder.next_frame()) is not None:
        found.append(payload)
    assert found == payloads
    assert decoder.buffered == 0


@pytest.mark.parametrize("length", [0, 101, 2**31, 2**32 - 1])
def test_a_bad_length_is_refused_before_its_body(length: int) -> None:
    decoder = FrameDecoder(max_frame=100)
    decoder.receive_data(length.to_bytes(4, "big")[:3])
    assert decoder.next_frame() is None
    decoder.receive_data(length.to_bytes(4, "big")[3:])
    with pytest.raises(RemoteProtocolError, match=f"a frame of {length} bytes was announced"):
        decoder.next_frame()


def test_a_header_reserves_no_memory() -> None:
    tracemalloc.start()
    try:
        decoder = FrameDecoder()
        decoder.receive_data(MAX_FRAME_BYTES.to_bytes(4, "big") + b"x")
        assert decoder.next_frame() is None
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_large_frame_that_was_returned_holds_no_memory() -> None:
    frame = encode_frame(bytes(MAX_FRAME_BYTES)) + b"\x00"
    tracemalloc.start()
    try:
        decoder = FrameDecoder()
        decoder.receive_data(frame)
        assert decoder.next_frame() == frame[HEADER_BYTES:-1]
        assert tracemalloc.get_traced_memory()[0] < 100_000
        assert (decoder.buffered, decoder.announced, decoder.next_frame()) == (1, 0, None)
    finally:
        tracemalloc.stop()


def test_the_largest_frame_passes() -> None:
    decoder = FrameDecoder(max_frame=100)
    decoder.receive_data(encode_frame(b"x" * 100, 100))
    assert decoder.next_frame() == b"x" * 100
    for payload in (b"", b"x" * 101):
        with pytest.raises(LocalProtocolError):
            encode_frame(payload, 100)


@given(PAYLOADS, st.integers(1, 200))
def test_frames_are_grouped_whole(payloads: list[bytes], most: int) -> None:
    groups = list(group_frames(b"".join(map(encode_frame, payloads)), most))
    assert b"".join(groups) == b"".join(map(encode_frame, payloads))
    for group in groups:
        decoder = FrameDecoder()
        decoder.receive_data(group)
        frames = 0
        while decoder.next_frame() is not None:
            frames += 1
        assert decoder.buffered == 0
        assert len(group) <= most or frames == 1
        assert len(group) > HEADER_BYTES
