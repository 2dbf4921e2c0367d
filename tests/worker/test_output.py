"""The log gives every reader exactly what was appended, wherever that is; its doorbell never blocks."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.worker.common import in_memory
from wire.jobs import StreamParams
from wire.messages import STDERR, STDOUT, GapReason
from worker import blocks, output, spill_file
from worker.blocks import BLOCK_BYTES, BLOCK_RUNS, RUN_SECONDS, WHOLE_BYTES, Chunk
from worker.direct import ALIGN
from worker.output import Missing, OutputLog
from worker.reader import Reader
from worker.spill import SpillFiles
from worker.tail import find_start

STREAMS = st.sampled_from([STDOUT, STDERR])
PLENTY = 2**40


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SpillFiles]:
    """Where output goes."""
    with closing(SpillFiles(tmp_path)) as files:
        yield files


class AnyHistoryAnyReaders(RuleBasedStateMachine):
    """Blocks are small here, so that small data meets every boundary, in memory, in the file, and gone."""

    readers = Bundle[Reader]("readers")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for module, name, value in (
            (blocks, "BLOCK_BYTES", 16),
            (blocks, "WHOLE_BYTES", 4),
            (output, "BATCH_BYTES", 40),
            (spill_file, "DIRECT_BYTES", 30),
        ):
            self.patch.setattr(module, name, value)
        self.now = 1000.0
        self.latest = 0.0
        self.patch.setattr(output, "time", SimpleNamespace(time=lambda: self.now))
        with tempfile.TemporaryDirectory() as folder:
            self.files = SpillFiles(Path(folder))
        self.log = OutputLog()
        self.data = bytearray()
        self.tags: list[int] = []
        self.whens: list[float] = []

    def teardown(self) -> None:
        self.log.remove()
        self.reclaim()
        assert self.files.used == 0
        self.files.close()
        self.patch.undo()

    @rule(stream=STREAMS, data=st.binary(min_size=1, max_size=40), mutable=st.booleans())
    def append(self, stream: int, data: bytes, mutable: bool) -> None:
        given = bytearray(data) if mutable else data
        self.log.append(stream, given)
        if isinstance(given, bytearray):
            given[:] = b"!" * len(given)  # the caller may use its buffer again
        self.data += data
        self.tags += [stream] * len(data)
        self.latest = max(self.latest, self.now)
        self.whens += [self.latest] * len(data)

    @rule(seconds=st.sampled_from([0.1, RUN_SECONDS, -5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(room=st.sampled_from([0, ALIGN - 1, ALIGN, PLENTY]))
    def spill(self, room: int) -> None:
        before = self.log.spilled
        moved = trio.run(self.log.spill, self.files, room)
        assert self.log.spilled - before <= room
        assert moved or room < PLENTY

    @rule()
    def drop(self) -> None:
        before = self.log.dropped
        assert self.log.drop() == (before < len(self.data))
        assert before <= self.log.dropped <= len(self.data)

    @rule()
    def reclaim(self) -> None:
        while self.files.has_released:
            trio.run(self.files.reclaim)
        assert self.files.used == self.log.spilled

    @rule(target=readers, place=st.floats(0, 1), only=st.sampled_from([None, STDOUT, STDERR]))
    def join(self, place: float, only: int | None) -> Reader:
        return Reader(self.log, int(place * len(self.data)), only)

    @rule(reader=readers, most=st.integers(1, 50), pause=st.booleans())
    def read(self, reader: Reader, most: int, pause: bool) -> None:
        begin = reader.offset
        piece = trio.run(reader.next, most)
        if pause:
            reader.close()
        match piece:
            case None:
                assert reader.offset == len(self.data)
                assert not set(self.tags[max(begin, self.log.dropped) :]) & {reader._only or -1}
                assert reader._only or begin == len(self.data)
            case Missing():
                assert begin <= piece.offset < self.log.dropped
                assert reader.offset == piece.offset + piece.size == self.log.dropped
                assert piece.reason is GapReason.DROPPED
                assert begin == piece.offset
            case Chunk():
                end = piece.offset + len(piece.data)
                assert reader.offset == end
                assert 0 < len(piece.data) <= most
                assert piece.data == self.data[piece.offset : end]
                assert self.tags[piece.offset : end] == [piece.stream] * len(piece.data)
                skipped = set(self.tags[begin : piece.offset])
                if reader._only is None:
                    assert not skipped
                else:
                    assert reader._only not in skipped
                    assert piece.stream == reader._only

    @rule(count=st.integers(0, 60), only=st.sampled_from([None, STDOUT, STDERR]))
    def last_bytes(self, count: int, only: int | None) -> None:
        start = trio.run(find_start, self.log, StreamParams("", tail_bytes=count, stream=only))
        assert len(self.kept(start, only)) == min(count, len(self.kept(self.log.dropped, only)))

    @rule(count=st.integers(0, 5), only=st.sampled_from([None, STDOUT, STDERR]))
    def last_lines(self, count: int, only: int | None) -> None:
        start = trio.run(find_start, self.log, StreamParams("", tail_lines=count, stream=only))
        lines = self.kept(self.log.dropped, only).split(b"\n") if count else []
        whole = b"\n".join(lines)
        if whole.endswith(b"\n"):
            expected = b"\n".join(lines[:-1][-count:]) + b"\n"
        else:
            expected = b"\n".join(lines[-count:])
        assert self.kept(start, only) == (expected if count else b"")

    @rule(seconds=st.floats(-20, 20))
    def since(self, seconds: float) -> None:
        start = trio.run(find_start, self.log, StreamParams("", since=self.latest + seconds))
        assert all(when < self.latest + seconds for when in self.whens[self.log.dropped : start])
        early = [when for when in self.whens[start:] if when < self.latest + seconds - RUN_SECONDS]
        assert not early

    def kept(self, start: int, only: int | None) -> bytes:
        return bytes(
            self.data[at] for at in range(start, len(self.data)) if only is None or self.tags[at] == only
        )

    @invariant()
    def the_books_are_right(self) -> None:
        assert self.log.size == len(self.data)
        assert self.log.resident == sum(block.cost for block in self.log._blocks)
        assert self.log.dropped <= self.log.spilled_end
        assert bool(self.log.spilled) == (self.log.dropped < self.log.spilled_end)


AnyHistoryAnyReaders.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_history_any_readers = AnyHistoryAnyReaders.TestCase


def test_tiny_appends_are_gathered() -> None:
    log = OutputLog()
    for _ in range(5000):
        log.append(STDOUT, b"x")
    assert [len(chunk.data) for chunk in in_memory(log)] == [5000]


def test_streams_in_turn_cost_little() -> None:
    log = OutputLog()
    for _ in range(5000):
        log.append(STDOUT, b"x")
        log.append(STDERR, b"y")
    assert len(log._blocks) == 3
    assert all(len(block.streams) <= BLOCK_RUNS for block in log._blocks)
    assert log.resident < 16 * 10_000
    assert [chunk.data for chunk in in_memory(log)] == [b"x", b"y"] * 5000


def test_blocks_have_a_largest_size() -> None:
    log = OutputLog()
    for _ in range(1024):
        log.append(STDOUT, bytes(1024))
    assert [len(chunk.data) for chunk in in_memory(log)] == [BLOCK_BYTES] * 4


def test_large_pieces_are_kept_as_they_came() -> None:
    log = OutputLog()
    piece = bytes(WHOLE_BYTES)
    for _ in range(3):
        log.append(STDERR, piece)
    assert [chunk.data is piece for chunk in in_memory(log)] == [True] * 3


def test_an_appended_buffer_is_copied_and_so_is_a_chunk() -> None:
    log = OutputLog()
    log.append(STDOUT, b"ab")
    chunk = in_memory(log)[0]
    log.append(STDOUT, b"cd")
    assert chunk == Chunk(STDOUT, 0, b"ab")


async def test_what_is_appended_while_blocks_are_written_is_not_lost(files: SpillFiles) -> None:
    log = OutputLog()
    log.append(STDOUT, b"before")

    async def append() -> None:
        await trio.lowlevel.checkpoint()
        while not log._frozen:
            await trio.lowlevel.checkpoint()
        log.append(STDOUT, b" during")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(append)
        assert await log.spill(files, PLENTY)
    log.append(STDOUT, b" after")
    reader, found = Reader(log, 0), b""
    while piece := await reader.next():
        assert isinstance(piece, Chunk)
        found += piece.data
    assert found == b"before during after"
    assert log.spilled_end == len(b"before")
    log.remove()


async def test_what_is_removed_stays_for_its_subscribers(files: SpillFiles) -> None:
    log = OutputLog()
    log.append(STDOUT, b"spilled")
    assert await log.spill(files, PLENTY)
    log.append(STDOUT, b"kept")
    with log.subscribe():
        log.remove()
        reader = Reader(log, 0)
        assert await reader.next() == Chunk(STDOUT, 0, b"spilled")
    assert await reader.next() == Missing(7, 4, GapReason.REMOVED)
    assert (log.resident, log.spilled) == (0, 0)


async def test_an_unreadable_file_is_a_gap_and_not_the_end(
    files: SpillFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = OutputLog()
    log.append(STDOUT, b"lost")
    assert await log.spill(files, PLENTY)
    log.append(STDOUT, b"kept")

    async def fail(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(5, "Input/output error")

    reader = Reader(log, 1)
    with monkeypatch.context() as patch:
        patch.setattr("worker.spill_file.SpillFile.read_cached", lambda *_: None)
        patch.setattr("worker.spill.SpillFiles.read", fail)
        assert await reader.next() == Missing(1, 3, GapReason.UNREADABLE)
        assert await reader.next() == Chunk(STDOUT, 4, b"kept")
    assert await Reader(log, 1).next() == Chunk(STDOUT, 1, b"ost")
    log.remove()


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
