"""Readers get all of a log from the disk, ahead of need, and hold no more than they may."""

import contextlib
import errno
import os
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.worker.common import KeptLog
from wire.messages import STDOUT, GapReason
from worker import output, spill_file, windows
from worker.blocks import BLOCK_BYTES, Block, Chunk
from worker.output import Missing, OutputLog
from worker.reader import KEEP_SECONDS, Reader
from worker.spill_file import Place, SpillFile
from worker.store import Budget, OutputStore
from worker.windows import MIB

DATA = random.Random(4).randbytes(24 * MIB)  # noqa: S311  # nothing secret


@pytest.fixture(autouse=True)
def any_disk_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_file, "DIRECT_RATE", 1)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much each read from the disk takes, in bytes; the page cache has nothing."""
    sizes: list[int] = []
    really = SpillFile.read

    def watched(file: SpillFile, places: list[Place]) -> list[Block]:
        sizes.append(sum(place.length for place in places))
        return really(file, places)

    monkeypatch.setattr(SpillFile, "read", watched)
    monkeypatch.setattr(SpillFile, "read_cached", lambda *_: None)
    return sizes


async def filled(folder: Path, log: KeptLog, nursery: trio.Nursery | None) -> OutputLog:
    """DATA in a log, all but its last MiB on the disk."""
    await trio.lowlevel.checkpoint()
    one = OutputLog(OutputStore(Budget(64 * MIB, MIB, None, folder), log, nursery))
    for start in range(0, len(DATA), BLOCK_BYTES):
        one.append(STDOUT, DATA[start : start + BLOCK_BYTES])
        if start % (4 * MIB) == 0:
            await one.make_room()
    await one.make_room()
    return one


async def read_all(one: OutputLog, begin: int = 0) -> tuple[bytes, list[Missing]]:
    data, gaps = bytearray(), []
    with contextlib.closing(Reader(one, begin)) as reader:
        while found := await reader.next():
            if isinstance(found, Chunk):
                data += found.data
            else:
                gaps.append(found)
    return bytes(data), gaps


@pytest.mark.parametrize("ahead", [True, False])
async def test_readers_from_the_disk_get_it_all_within_a_bound(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch, reads: list[int], *, ahead: bool
) -> None:
    monkeypatch.setattr(windows, "WINDOWS_BYTES", 8 * MIB)
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery if ahead else None)
        room = one.store
        assert room is not None
        assert await read_all(one) == (DATA, [])
        assert 6 * BLOCK_BYTES < max(reads) <= windows.WINDOW_BYTES

        async def read(begin: int) -> None:
            assert await read_all(one, begin) == (DATA[begin:], [])

        async with trio.open_nursery() as readers:
            for begin in range(0, 8 * 1111, 1111):
                readers.start_soon(read, begin)
            while room.windows.readers < 8:
                await trio.lowlevel.checkpoint()
            assert room.windows.most <= windows.WINDOWS_BYTES // 8 // (1 + windows.WINDOWS_AHEAD)
        assert room.windows.readers == 0
        assert room.windows.left == windows.WINDOWS_BYTES
        one.remove()


async def test_one_bad_block_is_one_gap(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = 9 * BLOCK_BYTES
    really = SpillFile.read

    def fail(file: SpillFile, places: list[Place]) -> list[Block]:
        if any(place.start == bad for place in places):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return really(file, places)

    monkeypatch.setattr(SpillFile, "read", fail)
    monkeypatch.setattr(SpillFile, "read_cached", lambda *_: None)
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        data, gaps = await read_all(one)
        assert gaps == [Missing(bad, BLOCK_BYTES, GapReason.UNREADABLE)]
        assert data == DATA[:bad] + DATA[bad + BLOCK_BYTES :]
        one.remove()


async def test_what_is_dropped_while_it_is_read_ahead_is_told(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "BATCH_BYTES", 8 * MIB)
    monkeypatch.setattr(SpillFile, "read_cached", lambda *_: None)
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        with contextlib.closing(Reader(one, 0)) as reader:
            first = await reader.next()
            assert isinstance(first, Chunk)
            assert one.drop()  # the next window is about to be read
            data, gaps = bytearray(first.data), []
            while found := await reader.next():
                if isinstance(found, Chunk):
                    assert found.data == DATA[found.offset : found.offset + len(found.data)]
                    data += found.data
                else:
                    gaps.append(found)
            assert gaps[0].reason is GapReason.DROPPED
            assert gaps[-1].offset + gaps[-1].size == one.dropped
            assert len(data) + sum(gap.size for gap in gaps) == len(DATA)
        one.remove()


async def test_a_log_may_be_removed_before_its_window_is_read(tmp_path: Path, log: KeptLog) -> None:
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        with contextlib.closing(Reader(one, 0)) as reader:
            assert isinstance(await reader.next(), Chunk)
        one.remove()


async def test_a_reader_that_is_back_in_memory_holds_nothing(tmp_path: Path, log: KeptLog) -> None:
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        room = one.store
        assert room is not None
        one.append(STDOUT, b"in memory")
        reader = Reader(one, 0)
        while await reader.next():
            pass
        assert (room.windows.readers, room.windows.left) == (0, windows.WINDOWS_BYTES)
        one.remove()


async def test_readers_that_cannot_send_hold_no_more_than_the_bound(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    monkeypatch.setattr(windows, "WINDOWS_BYTES", 4 * MIB)
    room = trio.Event()
    given = 0
    alone = trio.CapacityLimiter(2)

    async def wait_for_room() -> None:
        nonlocal given
        await trio.lowlevel.checkpoint()
        if given < 200:
            given += 1
        else:
            await room.wait()

    async def read(one: OutputLog) -> None:
        data = bytearray()
        with contextlib.closing(Reader(one, 0, room=wait_for_room, alone=alone)) as reader:
            while found := await reader.next():
                assert isinstance(found, Chunk)
                data += found.data
        assert data == DATA

    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        assert one.store is not None
        left = one.store.windows.left
        async with trio.open_nursery() as readers:
            for _ in range(30):
                readers.start_soon(read, one)
            while given < 200:
                await trio.lowlevel.checkpoint()
                left = min(left, one.store.windows.left)
            assert 0 <= left < BLOCK_BYTES + 100  # as much as there is, in whole blocks
            assert sum(reads) <= 200 * BLOCK_BYTES + windows.WINDOWS_BYTES
            room.set()
        assert one.store.windows.left == windows.WINDOWS_BYTES
        one.remove()


async def test_who_takes_nothing_for_a_moment_holds_nothing(
    tmp_path: Path, log: KeptLog, mock_clock: trio.testing.MockClock, reads: list[int]
) -> None:
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        assert one.store is not None
        budget = one.store.windows
        with contextlib.closing(Reader(one, 0)) as reader:
            for _ in range(20):
                await reader.next()
            granted = trio.Event()
            async with trio.open_nursery() as waiting:
                waiting.start_soon(reader.pause, granted.wait)
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(KEEP_SECONDS * 0.9)
                await trio.testing.wait_all_tasks_blocked()
                assert budget.left < windows.WINDOWS_BYTES
                mock_clock.jump(KEEP_SECONDS * 0.2)
                await trio.testing.wait_all_tasks_blocked()
                while budget.left < windows.WINDOWS_BYTES:  # a read in a thread is counted until it ends
                    await trio.lowlevel.checkpoint()
                assert budget.readers == 0
                granted.set()
            found = await reader.next()
            assert isinstance(found, Chunk)
            assert found.data == DATA[found.offset : found.offset + len(found.data)]
            assert reads[-1] == BLOCK_BYTES  # it begins small again
        one.remove()


@pytest.mark.usefixtures("reads")
async def test_on_a_slow_connection_other_streams_do_not_take_all_the_room(
    tmp_path: Path, log: KeptLog, mock_clock: trio.testing.MockClock
) -> None:
    room = trio.Event()
    pieces: list[Chunk | Missing | None] = []

    async def read(one: OutputLog) -> None:
        async def wait_for_room() -> None:
            await room.wait()

        with contextlib.closing(Reader(one, 0, room=wait_for_room)) as reader:
            for _ in range(5):
                piece = await reader.next()
                pieces.append(piece)

    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        nursery.start_soon(read, one)
        for _ in range(10):  # it reads at every second, and sends at the next
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(KEEP_SECONDS * 1.1)
            await trio.testing.wait_all_tasks_blocked()
            room.set()
            room = trio.Event()  # who is not there at this moment finds it taken
            await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_threads_completed()
        await trio.testing.wait_all_tasks_blocked()
        assert [piece.offset for piece in pieces if piece] == [n * BLOCK_BYTES for n in range(5)]
        one.remove()


async def test_who_takes_little_makes_us_read_little(tmp_path: Path, log: KeptLog, reads: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        with contextlib.closing(Reader(one, 0)) as reader:
            for _ in range(8):
                await reader.next(BLOCK_BYTES // 4)
                reader.close()  # as after a long pause
            assert reader.offset == 2 * BLOCK_BYTES
        assert reads == [BLOCK_BYTES] * 8
        one.remove()


async def test_a_read_that_waits_for_its_turn_is_given_up_with_its_reader(
    tmp_path: Path, log: KeptLog, reads: list[int]
) -> None:
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        assert one.store is not None
        with contextlib.closing(Reader(one, 0)) as reader:
            for _ in range(3):
                await reader.next()
            one.store.reads.total_tokens = 1
            async with one.store.reads:  # the disk is busy
                count = len(reads)
                await reader.next(1)
                await trio.testing.wait_all_tasks_blocked()
                reader.close()
                await trio.testing.wait_all_tasks_blocked()
                assert one.store.windows.left == windows.WINDOWS_BYTES
        await trio.testing.wait_all_tasks_blocked()
        assert len(reads) == count
        one.remove()
