"""Spilled output comes back as it was, whichever way it went to the disk, and is read ahead within bounds."""

import contextlib
import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.worker.common import KeptLog
from wire.messages import STDOUT, GapReason
from worker import output, spill, store
from worker.blocks import BLOCK_BYTES, Block, Chunk
from worker.direct import ALIGN, DirectFile
from worker.output import Missing, OutputLog
from worker.reader import Reader
from worker.spill import Place, SpillFile
from worker.store import MIB, Budget, OutputStore

DATA = random.Random(4).randbytes(24 * MIB)  # noqa: S311  # nothing secret


@pytest.fixture(autouse=True)
def any_disk_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "DIRECT_RATE", 1)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SpillFile]:
    file = SpillFile(tmp_path)
    try:
        DirectFile(file._fd).close()
    except OSError:
        pytest.skip(f"the file system of {tmp_path} has no O_DIRECT")
    with contextlib.closing(file):
        yield file


def blocks(*sizes: int) -> list[Block]:
    made, start = [], 0
    for size in sizes:
        made.append(Block.begin(start, STDOUT, 1.0, DATA[start : start + size]))
        start += size
    return made


async def check(file: SpillFile, batch: list[Block], position: int, *, direct: bool) -> int:
    """Write some blocks and read them back; return where they end."""
    written = await file.write(batch, position)
    assert written.direct == direct
    places, at = [], written.begin
    for block in batch:
        places.append(Place(block.start, at, len(block.streams), len(block.data), direct))
        at = places[-1].end
    assert written.end >= at
    got = await file.read(places)
    for one in (*got, *[(await file.read([place]))[0] for place in places]):
        wanted = next(block for block in batch if block.start == one.start)
        assert (one.data, one.tables()) == (wanted.data, wanted.tables())
    return written.end


@pytest.mark.parametrize("last", [1, 4095, 4096, 4097, BLOCK_BYTES])
async def test_a_large_batch_goes_past_the_page_cache_and_comes_back(file: SpillFile, last: int) -> None:
    end = await check(file, blocks(1000, *[BLOCK_BYTES] * 6, last), 0, direct=True)
    assert end % ALIGN == 0
    end = await check(file, blocks(7), end, direct=False)
    assert end % ALIGN
    await check(file, blocks(*[BLOCK_BYTES] * 5), end, direct=True)


async def test_a_slow_disk_gets_the_page_cache_between_tries(
    file: SpillFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "DIRECT_RATE", float("inf"))
    monkeypatch.setattr(spill, "DIRECT_PAUSE", 3 * MIB)
    end, batch = 0, blocks(*[BLOCK_BYTES] * 5)
    for direct in (True, False, False, True, False):
        end = await check(file, batch, end, direct=direct)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EMFILE, errno.EACCES])
async def test_where_it_cannot_be_had_files_are_written_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    really = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(number, os.strerror(number))
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with contextlib.closing(SpillFile(tmp_path)) as file:
        await check(file, blocks(*[BLOCK_BYTES] * 5), 0, direct=False)


@pytest.mark.parametrize("error", [errno.ENOSPC, None])
async def test_a_disk_that_fills_up_leaves_no_half_of_it(
    file: SpillFile, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    def fail(fd: int, data: memoryview, position: int) -> int:
        if error is not None:
            raise OSError(error, os.strerror(error))
        return 512  # what a disk has left that is no multiple of anything

    await file.write(blocks(*[BLOCK_BYTES] * 5), 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match="No space left"):
            await file.write(blocks(*[BLOCK_BYTES] * 8), 5 * BLOCK_BYTES + ALIGN)
    await check(file, blocks(*[BLOCK_BYTES] * 8), 5 * BLOCK_BYTES + ALIGN, direct=True)


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
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch, *, ahead: bool
) -> None:
    sizes: list[int] = []
    really = SpillFile._read

    def watched(file: SpillFile, places: list[Place]) -> list[Block]:
        sizes.append(sum(place.length for place in places))
        return really(file, places)

    monkeypatch.setattr(SpillFile, "_read", watched)
    monkeypatch.setattr(SpillFile, "read_cached", lambda *_: None)
    monkeypatch.setattr(store, "WINDOWS_BYTES", 8 * MIB)
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery if ahead else None)
        room = one.store
        assert room is not None
        assert await read_all(one) == (DATA, [])
        assert 6 * BLOCK_BYTES < max(sizes) <= store.WINDOW_BYTES

        async def read(begin: int) -> None:
            assert await read_all(one, begin) == (DATA[begin:], [])

        async with trio.open_nursery() as readers:
            for begin in range(0, 8 * 1111, 1111):
                readers.start_soon(read, begin)
            while room.disk_readers < 8:
                await trio.lowlevel.checkpoint()
            assert room.window_bytes == store.WINDOWS_BYTES // 8 // (1 + store.WINDOWS_AHEAD)
        assert room.disk_readers == 0
        one.remove()


async def test_one_bad_block_is_one_gap(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = 9 * BLOCK_BYTES
    really = SpillFile._read

    def fail(file: SpillFile, places: list[Place]) -> list[Block]:
        if any(place.start == bad for place in places):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return really(file, places)

    monkeypatch.setattr(SpillFile, "_read", fail)
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


async def test_what_cannot_be_read_past_the_page_cache_is_read_through_it(
    file: SpillFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    batch = blocks(*[BLOCK_BYTES] * 5)
    monkeypatch.setattr(os, "preadv", refuse)
    await check(file, batch, 0, direct=True)


async def test_a_reader_that_is_back_in_memory_holds_nothing(tmp_path: Path, log: KeptLog) -> None:
    async with trio.open_nursery() as nursery:
        one = await filled(tmp_path, log, nursery)
        room = one.store
        assert room is not None
        one.append(STDOUT, b"in memory")
        reader = Reader(one, 0)
        while await reader.next():
            pass
        assert (room.disk_readers, reader._held, list(reader._next)) == (0, [], [])
        one.remove()


async def test_what_is_dropped_gives_all_its_pages_back(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trio.lowlevel.checkpoint()
    monkeypatch.setattr(spill, "DIRECT_BYTES", 2**40)  # so that batches end within pages
    one = OutputLog(OutputStore(Budget(64 * MIB, MIB, None, tmp_path), log))
    for _ in range(40):
        for _ in range(3):
            one.append(STDOUT, DATA[:99_999])
        while one.resident:
            await one.spill(tmp_path, MIB)
        while one.spilled:
            one.drop()
    assert one._file is not None
    assert os.fstat(one._file._fd).st_blocks * 512 <= 2 * ALIGN
    one.remove()
