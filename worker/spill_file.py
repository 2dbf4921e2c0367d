"""Owns one file of spilled output: how blocks are written and read, past the page cache or through it.

Batches go past the page cache as long as the disk keeps up. A slower one takes them from the page cache,
which has room for a burst.
"""

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .blocks import RUN_BYTES, Block
from .direct import ALIGN, BUFFER_BYTES, DirectFile
from .extents import Extents
from .unlinked import open_unlinked, punch

#: So much at least goes past the page cache, in bytes, and only to a disk that takes so many a second; if
#: it does not, so many bytes go by way of the page cache before it is tried again.
DIRECT_BYTES, DIRECT_RATE, DIRECT_PAUSE = 1024 * 1024, 400e6, 256 * 1024 * 1024
#: The most bytes that are read back at a time, unless one block is larger.
MOST_READ = BUFFER_BYTES - ALIGN


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block lies: its offset in the log, its file and position, its runs, and bytes of data."""

    start: int
    file: int
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


class SpillFile:
    """One file. All that it does but `read_cached` may wait for the disk.

    Args:
        folder: where; the file has no name there.

    Raises:
        OSError: it cannot be made.
    """

    __slots__ = ("_direct", "_fd", "_wait_direct", "free")

    def __init__(self, folder: Path) -> None:
        #: What of it is free.
        self.free = Extents()
        self._wait_direct: float = 0  # bytes that go by way of the page cache yet
        self._direct: DirectFile | None = None
        self._fd = open_unlinked(folder)
        with contextlib.suppress(OSError):  # whatever the reason, the usual way is open
            self._direct = DirectFile(self._fd)

    def write(self, blocks: Sequence[Block], position: int) -> bool:
        """Write blocks, each behind its tables, and return whether that was past the page cache.

        Args:
            blocks: they must not change meanwhile.
            position: where.

        Raises:
            OSError: not all of them could be written.
        """
        parts = [part for block in blocks for part in (block.tables(), block.data)]
        if self._write_direct(parts, sum(map(len, parts)), position):
            return True
        while parts:
            # No views of them: an error keeps those with its traceback, and a block could not grow.
            written = os.pwritev(self._fd, parts[:512], position)
            position += written
            while parts and written >= len(parts[0]):
                written -= len(parts[0])
                parts.pop(0)
            if written:
                parts[0] = parts[0][written:]
        return False

    def _write_direct(self, parts: list[bytes | bytearray], size: int, position: int) -> bool:
        """Write past the page cache, and return whether that was possible."""
        if self._direct is None or position % ALIGN or not DIRECT_BYTES <= size <= MOST_READ:
            return False
        if self._wait_direct > 0:
            self._wait_direct -= size
            return False
        began = time.monotonic()
        try:
            self._direct.write(parts, position)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._wait_direct = float("inf")
            return False
        if time.monotonic() - began > size / DIRECT_RATE:
            self._wait_direct = DIRECT_PAUSE
        return True

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

    def read(self, places: Sequence[Place]) -> list[Block]:
        """Read blocks back.

        Args:
            places: in order, and from the first to the last at most MOST_READ bytes, or one alone.

        Raises:
            OSError: the disk fails.
        """
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

    def punch(self, begin: int, end: int) -> None:
        """Give the disk space of a range back, where the file system can."""
        punch(self._fd, begin, end - begin)

    def close(self) -> None:
        """Let the file go; nobody may use it any more."""
        if self._direct is not None:
            self._direct.close()
        os.close(self._fd)
