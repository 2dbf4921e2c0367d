"""The log gives every reader exactly the bytes that were appended; its doorbell never blocks."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from wire.messages import STDERR, STDOUT
from worker import output
from worker.output import SEGMENT_BYTES, SEGMENT_SECONDS, WHOLE_BYTES, Chunk, OutputLog


def everything(log: OutputLog) -> list[Chunk]:
    chunks, offset = [], 0
    while chunk := log.read(offset):
        chunks.append(chunk)
        offset += len(chunk.data)
    return chunks


class AnyAppendsAnyReaders(RuleBasedStateMachine):
    """Segments are made small here, so that small data meets every boundary."""

    readers = Bundle[list[int]]("readers")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(output, "SEGMENT_BYTES", 16)
        self.patch.setattr(output, "WHOLE_BYTES", 4)
        self.now = 1000.0
        self.patch.setattr(output, "time", SimpleNamespace(time=lambda: self.now))
        self.log = OutputLog()
        self.data = bytearray()
        self.tags: list[int] = []

    def teardown(self) -> None:
        self.patch.undo()

    @rule(stream=st.sampled_from([STDOUT, STDERR]), data=st.binary(max_size=40), mutable=st.booleans())
    def append(self, stream: int, data: bytes, mutable: bool) -> None:
        given = bytearray(data) if mutable else data
        self.log.append(stream, given)
        if isinstance(given, bytearray):
            given[:] = b"!" * len(given)  # the caller may use its buffer again
        self.data += data
        self.tags += [stream] * len(data)

    @rule(seconds=st.sampled_from([0.1, SEGMENT_SECONDS, -5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=readers, place=st.floats(0, 1))
    def join(self, place: float) -> list[int]:
        return [int(place * len(self.data))]

    @rule(reader=readers, most=st.integers(1, 50))
    def read(self, reader: list[int], most: int) -> None:
        offset = reader[0]
        chunk = self.log.read(offset, most)
        if offset == len(self.data):
            assert chunk is None
            return
        assert chunk is not None
        end = offset + len(chunk.data)
        assert chunk.offset == offset
        assert 0 < len(chunk.data) <= most
        assert chunk.data == self.data[offset:end]
        assert self.tags[offset:end] == [chunk.stream] * len(chunk.data)
        reader[0] = end

    @invariant()
    def size_is_what_was_appended(self) -> None:
        assert self.log.size == len(self.data)


AnyAppendsAnyReaders.TestCase.settings = settings(max_examples=60, deadline=None)
test_any_appends_any_readers = AnyAppendsAnyReaders.TestCase


def test_tiny_appends_are_gathered() -> None:
    log = OutputLog()
    for _ in range(5000):
        log.append(STDOUT, b"x")
    assert [len(chunk.data) for chunk in everything(log)] == [5000]


def test_segments_have_a_largest_size() -> None:
    log = OutputLog()
    for _ in range(1024):
        log.append(STDOUT, bytes(1024))
    assert [len(chunk.data) for chunk in everything(log)] == [SEGMENT_BYTES] * 4


def test_large_pieces_are_kept_as_they_came() -> None:
    log = OutputLog()
    piece = bytes(WHOLE_BYTES)
    for _ in range(3):
        log.append(STDERR, piece)
    assert [chunk.data is piece for chunk in everything(log)] == [True] * 3


def test_a_segment_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time=lambda: 50.0)
    monkeypatch.setattr(output, "time", clock)
    log = OutputLog()
    log.append(STDOUT, b"a")
    clock.time = lambda: 50.0 + SEGMENT_SECONDS / 2
    log.append(STDOUT, b"b")
    clock.time = lambda: 50.0 + SEGMENT_SECONDS
    log.append(STDOUT, b"c")
    assert [(segment.when, bytes(segment.data)) for segment in log._segments] == [(50.0, b"ab"), (51.0, b"c")]


def test_an_appended_buffer_is_copied_and_so_is_a_chunk() -> None:
    log = OutputLog()
    log.append(STDOUT, b"ab")
    chunk = log.read(0)
    log.append(STDOUT, b"cd")
    assert chunk == Chunk(STDOUT, 0, b"ab")


def test_many_appends_ring_once() -> None:
    log = OutputLog()
    with log.subscribe() as doorbell:
        for _ in range(1000):  # and a full doorbell holds up nobody
            log.append(STDOUT, b"x")
        log.close()
        doorbell.receive_nowait()
        with pytest.raises(trio.WouldBlock):
            doorbell.receive_nowait()
        log.append(STDOUT, b"x")
        doorbell.receive_nowait()


@pytest.mark.parametrize("event", [lambda log: log.append(STDOUT, b"x"), OutputLog.close])
async def test_waiting_readers_are_woken(event: Callable[[OutputLog], None]) -> None:
    log = OutputLog()
    woken = []

    async def reader() -> None:
        with log.subscribe() as doorbell:
            await doorbell.receive()
            woken.append((log.size, log.closed))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        event(log)
    assert woken == [(log.size, log.closed)] * 3
    assert log.size or log.closed


async def test_a_reader_that_left_is_forgotten() -> None:
    log = OutputLog()
    with trio.CancelScope() as scope, log.subscribe() as doorbell:
        scope.cancel()
        await doorbell.receive()
    assert not log._subscribers
    log.append(STDOUT, b"x")
