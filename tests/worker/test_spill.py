"""Spilled output comes back as it was, whichever way it went to the disk."""

import contextlib
import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.worker.common import KeptLog
from wire.messages import STDOUT
from worker import spill
from worker.blocks import BLOCK_BYTES, RUN_BYTES, Block
from worker.direct import ALIGN, DirectFile
from worker.output import OutputLog
from worker.spill import Place, SpillFile
from worker.store import Budget, OutputStore
from worker.windows import MIB

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


async def test_what_cannot_be_read_past_the_page_cache_is_read_through_it(
    file: SpillFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    batch = blocks(*[BLOCK_BYTES] * 5)
    monkeypatch.setattr(os, "preadv", refuse)
    await check(file, batch, 0, direct=True)


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
    assert one.on_disk is not None
    assert os.fstat(one.on_disk._file._fd).st_blocks * 512 <= 2 * ALIGN
    one.remove()


@pytest.mark.parametrize("large", [True, False])
async def test_no_loop_waits_for_a_large_file_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    monkeypatch.setattr(spill, "CLOSE_BYTES", BLOCK_BYTES - 1 if large else BLOCK_BYTES)
    closed: dict[int, int] = {}
    really = os.close

    def close(fd: int) -> None:
        really(fd)
        closed[fd] = threading.get_ident()

    file = SpillFile(tmp_path)
    await file.write([Block.begin(0, STDOUT, 1.0, DATA[: BLOCK_BYTES - RUN_BYTES])], 0)
    monkeypatch.setattr(os, "close", close)
    file.close()
    while file._fd not in closed:
        await trio.lowlevel.checkpoint()
    assert (closed[file._fd] == threading.get_ident()) is not large
