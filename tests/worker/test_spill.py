"""Spilled output comes back as it was, whichever way it went to the disk."""

import contextlib
import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.worker.common import descriptors
from wire.messages import STDOUT
from worker import output, spill, spill_file
from worker.blocks import BLOCK_BYTES, Block, Chunk
from worker.direct import ALIGN, DirectFile, aligned
from worker.output import OutputLog
from worker.reader import Reader
from worker.spill import SpillFiles
from worker.spill_file import Place, SpillFile
from worker.unlinked import open_unlinked
from worker.windows import MIB

PLENTY = 2**40
DATA = random.Random(4).randbytes(24 * MIB)  # noqa: S311  # nothing secret


@pytest.fixture(autouse=True)
def any_disk_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_file, "DIRECT_RATE", 1)


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


def check(file: SpillFile, batch: list[Block], position: int, *, direct: bool) -> int:
    """Write some blocks and read them back; return where they end."""
    assert file.write(batch, position) == direct
    places, at = [], position
    for block in batch:
        places.append(Place(block.start, 0, at, len(block.streams), len(block.data), direct))
        at = places[-1].end
    got = file.read(places)
    for one in (*got, *[file.read([place])[0] for place in places]):
        wanted = next(block for block in batch if block.start == one.start)
        assert (one.data, one.tables()) == (wanted.data, wanted.tables())
    return at


@pytest.mark.parametrize("last", [1, 4095, 4096, 4097, BLOCK_BYTES])
def test_a_large_batch_goes_past_the_page_cache_and_comes_back(file: SpillFile, last: int) -> None:
    end = aligned(check(file, blocks(1000, *[BLOCK_BYTES] * 6, last), 0, direct=True))
    end = check(file, blocks(7), end, direct=False)
    assert end % ALIGN
    end = check(file, blocks(*[BLOCK_BYTES] * 5), end, direct=False)  # in the same page
    check(file, blocks(*[BLOCK_BYTES] * 5), aligned(end), direct=True)


def test_a_slow_disk_gets_the_page_cache_between_tries(
    file: SpillFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_file, "DIRECT_RATE", float("inf"))
    monkeypatch.setattr(spill_file, "DIRECT_PAUSE", 2 * MIB)
    end, batch = 0, blocks(*[BLOCK_BYTES] * 5)
    for direct in (True, False, False, True, False):
        end = aligned(check(file, batch, end, direct=direct))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EMFILE, errno.EACCES])
def test_where_it_cannot_be_had_files_are_written_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    really = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(number, os.strerror(number))
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with contextlib.closing(SpillFile(tmp_path)) as file:
        check(file, blocks(*[BLOCK_BYTES] * 5), 0, direct=False)


@pytest.mark.parametrize("error", [errno.ENOSPC, None])
async def test_a_disk_that_fills_up_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    def fail(fd: int, data: memoryview, position: int) -> int:
        if error is not None:
            raise OSError(error, os.strerror(error))
        return 512  # what a disk has left that is no multiple of anything

    with contextlib.closing(SpillFiles(tmp_path)) as files:
        log = OutputLog()
        for _ in range(8):
            log.append(STDOUT, DATA[:BLOCK_BYTES])
        assert await log.spill(files, PLENTY)
        used, size = files.used, log.spilled
        for _ in range(8):
            log.append(STDOUT, DATA[:BLOCK_BYTES])
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            with pytest.raises(OSError, match="No space left"):
                await log.spill(files, PLENTY)
        await files.reclaim()
        assert (files.used, log.spilled) == (used, size)
        assert await log.spill(files, PLENTY)
        reader, data = Reader(log, 0), b""
        while isinstance(piece := await reader.next(), Chunk):
            data += piece.data
        assert data == DATA[:BLOCK_BYTES] * 16


def test_a_block_that_could_not_be_written_still_grows(tmp_path: Path) -> None:
    with contextlib.closing(SpillFile(tmp_path)) as file:
        full = os.open("/dev/full", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(full, file._fd, inheritable=False)
        os.close(full)
        block = Block.begin(0, STDOUT, 1.0, b"a line\n")
        with pytest.raises(OSError, match="No space left") as error:
            file.write([block], 0)
        assert block.add(STDOUT, 1.0, b"one more\n")
        assert error.tb is not None  # it, and all that it holds, has lived until now


def test_what_cannot_be_read_past_the_page_cache_is_read_through_it(
    file: SpillFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    batch = blocks(*[BLOCK_BYTES] * 5)
    monkeypatch.setattr(os, "preadv", refuse)
    check(file, batch, 0, direct=True)


def on_disk(folder: Path) -> int:
    """Bytes that unlinked files in a folder take of the disk."""
    found = 0
    for fd in descriptors():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(str(folder)):  # noqa: PTH115  # its text is wanted
                found += os.stat(f"/proc/self/fd/{fd}").st_blocks * 512  # noqa: PTH116  # likewise
    return found // 2 if found else 0  # each file is open twice


async def reclaim(files: SpillFiles) -> None:
    await trio.lowlevel.checkpoint()
    while files.has_released:
        await files.reclaim()


@pytest.mark.parametrize("direct", [True, False])
async def test_what_is_given_up_gives_all_its_pages_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, direct: bool
) -> None:
    if not direct:
        monkeypatch.setattr(spill_file, "DIRECT_BYTES", 2**40)
    monkeypatch.setattr(output, "BATCH_BYTES", MIB)
    with contextlib.closing(SpillFiles(tmp_path)) as files:
        logs = [OutputLog() for _ in range(6)]
        ends = set()
        for turn in range(12):
            for number, log in enumerate(logs):
                for _ in range(1 + turn % 5):
                    log.append(STDOUT, DATA[: 99_999 * (1 + number)])  # so that batches end within pages
                    await log.spill(files, PLENTY)
                while log.resident:
                    await log.spill(files, PLENTY)
                if turn % 3:
                    log.drop()
            await reclaim(files)
            assert files.used == sum(log.spilled for log in logs)
            assert on_disk(tmp_path) == files.used
            if turn % 6 == 5:
                for log in logs:
                    while log.drop():
                        pass
                await reclaim(files)
                assert (files.used, on_disk(tmp_path)) == (0, 0)
                ends.add(tuple(file.free.end for file in files._files))
        assert ends == {(0,) * len(files._files)}  # all of each file is free, and begins anew
        for log in logs:
            log.remove()


async def test_small_batches_share_a_page(tmp_path: Path) -> None:
    with contextlib.closing(SpillFiles(tmp_path)) as files:
        log = OutputLog()
        for _ in range(100):
            log.append(STDOUT, b"x" * 100)
            assert await log.spill(files, PLENTY)
        assert log.spilled == files.used <= 5 * ALIGN
        reader, data = Reader(log, 0), b""
        while isinstance(piece := await reader.next(), Chunk):
            data += piece.data
        assert data == b"x" * 10_000
        log.remove()
        await reclaim(files)
        assert files.used == 0


async def test_what_is_freed_is_used_again_where_nothing_can_be_punched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_file, "punch", lambda *_: None)
    with contextlib.closing(SpillFiles(tmp_path)) as files:
        for turn in range(12):
            logs = [OutputLog() for _ in range(8)]
            for number, log in enumerate(logs):
                log.append(STDOUT, DATA[: 50_000 * (1 + (turn + number) % 4)])
                assert await log.spill(files, PLENTY)
            for log in logs:
                log.remove()
            await reclaim(files)
        assert on_disk(tmp_path) <= 2 * 8 * 4 * 50_000


def test_a_store_has_as_many_files_as_it_ever_has(tmp_path: Path) -> None:
    before = descriptors()
    with contextlib.closing(SpillFiles(tmp_path)):
        assert len(descriptors()) <= len(before) + 2 * spill.FILES
    assert descriptors() == before


def test_a_file_that_cannot_be_made_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, count = descriptors(), 0
    really = open_unlinked

    def third_fails(folder: Path) -> int:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return really(folder)

    monkeypatch.setattr(spill_file, "open_unlinked", third_fails)
    with pytest.raises(OSError, match="Too many open files"):
        SpillFiles(tmp_path)
    assert descriptors() == before
