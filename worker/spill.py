"""Owns the file that takes a job's oldest output: unlinked from the start, so that nothing of it persists.

Writing happens in a thread, many blocks at a time, and past the page cache as long as the disk keeps up. A
slower one takes them from the page cache, which has room for a burst. Reading is tried without waiting first
(preadv2(2), RWF_NOWAIT), in case the page cache has it; what must come from the disk goes to a thread, so
that a slow disk holds up its reader and not the server.
"""

import contextlib
import ctypes
import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from .blocks import RUN_BYTES, Block
from .direct import ALIGN, BUFFER_BYTES, DirectFile, aligned

#: So much at least goes past the page cache, in bytes, and only to a disk that takes so many a second; if
#: it does not, so many bytes go by way of the page cache before it is tried again.
DIRECT_BYTES, DIRECT_RATE, DIRECT_PAUSE = 1024 * 1024, 400e6, 256 * 1024 * 1024
#: A larger file is closed in a thread, in bytes.
CLOSE_BYTES = 16 * 1024 * 1024
#: The most bytes that are read back at a time, unless one block is larger.
MOST_READ = BUFFER_BYTES - ALIGN
#: fallocate(2): give a range back to the file system, and keep the file's size.
_PUNCH_HOLE = 0x02 | 0x01
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def grown_by(size: int) -> int:
    """By how much a file grows at most when so many bytes are written to it."""
    return size if size < DIRECT_BYTES else size + 2 * ALIGN


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block lies: its offset in the log, its position in the file, its runs, and bytes of data."""

    start: int
    position: int
    runs: int
    length: int
    #: It was written past the page cache.
    direct: bool

    @property
    def end(self) -> int:
        """Where it ends in the file."""
        return self.position + RUN_BYTES * self.runs + self.length

    @property
    def spans(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Position and length of its tables and of its data."""
        tables = RUN_BYTES * self.runs
        return (self.position, tables), (self.position + tables, self.length)


@dataclass(frozen=True, slots=True)
class Written:
    """Where some blocks were written, and whether that was past the page cache."""

    begin: int
    end: int
    direct: bool


class SpillFile:
    """One log's file. It is closed once nobody uses it any more.

    Args:
        folder: where; the file has no name there.
        writes: bounds how many writes there are at a time; None for Trio's own bound of threads.
        reads: likewise, reads.

    Raises:
        OSError: it cannot be made.
    """

    __slots__ = ("_closing", "_direct", "_direct_from", "_fd", "_reads", "_users", "_writes")

    def __init__(
        self,
        folder: Path,
        writes: trio.CapacityLimiter | None = None,
        reads: trio.CapacityLimiter | None = None,
    ) -> None:
        self._writes = writes
        self._reads = reads
        self._users = 0
        self._closing = False
        self._direct: DirectFile | None = None
        self._direct_from: float = 0  # the position from which on it may go past the page cache
        try:
            self._fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self._fd, name = tempfile.mkstemp(dir=folder)  # this file system has no O_TMPFILE
            Path(name).unlink()

    async def write(self, blocks: Sequence[Block], position: int) -> Written:
        """Write blocks, each behind its tables.

        Args:
            blocks: they must not change meanwhile.
            position: where the last ones ended; these begin there, or at the next multiple of ALIGN.

        Raises:
            OSError: not all of them could be written; what was, is given back.
        """
        with self._in_use():
            parts = [part for block in blocks for part in (block.tables(), block.data)]
            return await _in_thread(self._writes, partial(self._write, parts, position))

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._closing and not self._users:
                self._close()

    def _write(self, parts: list[bytes | bytearray], position: int) -> Written:
        size = sum(map(len, parts))
        begin = aligned(position)
        try:
            if self._write_direct(parts, size, begin):
                return Written(begin, aligned(begin + size), direct=True)
            self._write_buffered(parts, position)
        except OSError:
            self.punch(position, grown_by(size))
            raise
        return Written(position, position + size, direct=False)

    def _write_direct(self, parts: list[bytes | bytearray], size: int, position: int) -> bool:
        """Write past the page cache, and return whether that was possible."""
        if position < self._direct_from or not DIRECT_BYTES <= size <= MOST_READ:
            return False
        if self._direct is None:
            try:
                self._direct = DirectFile(self._fd)
            except OSError:  # whatever the reason, the usual way is open
                self._direct_from = float("inf")
                return False
        began = time.monotonic()
        try:
            self._direct.write(parts, position)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct_from = float("inf")
            return False
        if time.monotonic() - began > size / DIRECT_RATE:
            self._direct_from = position + DIRECT_PAUSE
        return True

    def _write_buffered(self, parts: list[bytes | bytearray], position: int) -> None:
        buffers = [memoryview(part) for part in parts]
        while buffers:
            written = os.pwritev(self._fd, buffers[:512], position)
            position += written
            while buffers and written >= len(buffers[0]):
                written -= len(buffers[0])
                buffers.pop(0)
            if written:
                buffers[0] = buffers[0][written:]

    def read_cached(self, place: Place) -> Block | None:
        """Read a block back if the page cache may have it, and does.

        The attempt alone would make the kernel fetch what went past its page cache, and that is not free.

        Raises:
            OSError: the disk fails.
        """
        if place.direct:
            return None
        (position, size), (_, length) = place.spans
        whole = bytearray(size + length)
        try:
            if os.preadv(self._fd, [whole], position, os.RWF_NOWAIT) < len(whole):
                return None
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        with memoryview(whole) as view:
            return Block.restore(place.start, whole[:size], bytes(view[size:]))

    async def read(self, places: Sequence[Place]) -> list[Block]:
        """Read blocks back.

        Args:
            places: in order, and from the first to the last at most MOST_READ bytes, or one alone.

        Raises:
            OSError: the disk fails.
        """
        with self._in_use():
            return await _in_thread(self._reads, partial(self._read, places))

    def _read(self, places: Sequence[Place]) -> list[Block]:
        spans = [span for place in places for span in place.spans]
        parts = self._read_direct(spans) if places[-1].end - places[0].position <= MOST_READ else None
        if parts is None:
            parts = [self._read_buffered(position, length) for position, length in spans]
        return [
            Block.restore(place.start, tables, data)
            for place, tables, data in zip(places, parts[::2], parts[1::2], strict=True)
        ]

    def _read_direct(self, spans: list[tuple[int, int]]) -> list[bytes] | None:
        """Read past the page cache, if that is possible."""
        if self._direct is None:
            return None
        try:
            return self._direct.read(spans)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    def _read_buffered(self, position: int, length: int) -> bytes:
        data = os.pread(self._fd, length, position)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), position + len(data))
            if not more:
                raise OSError(errno.EIO, "the file is shorter than what was written to it")
            data += more
        return data

    def punch(self, position: int, length: int) -> None:
        """Give the disk space of a range back, where the file system can."""
        if length > 0:
            _libc.fallocate(self._fd, _PUNCH_HOLE, ctypes.c_long(position), ctypes.c_long(length))

    def close(self) -> None:
        """Let the file go, once nobody uses it."""
        self._closing = True
        if not self._users:
            self._close()

    def _close(self) -> None:
        if self._direct is not None:
            self._direct.close()
        # Its last descriptor takes the file itself along: a tenth of a second for each GiB on ext4.
        if os.fstat(self._fd).st_size > CLOSE_BYTES:
            with contextlib.suppress(RuntimeError):  # the kernel gives no more threads
                trio.lowlevel.start_thread_soon(partial(os.close, self._fd), _ignore)
                return
        os.close(self._fd)


async def _in_thread(limiter: trio.CapacityLimiter | None, work: Callable[[], T]) -> T:
    try:
        return await trio.to_thread.run_sync(work, limiter=limiter)
    except RuntimeError as error:  # what Python says where the kernel gives no more threads
        raise OSError(errno.EAGAIN, f"no thread could be started: {error}") from error


def _ignore(_: object) -> None:
    """Nobody waits for a close."""
