"""Owns the stretch of a log that lies in its spill file: where each block is, and how it comes back."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import takewhile

import trio

from .blocks import RUN_BYTES, Block
from .direct import ALIGN
from .spill import Place, SpillFile, Written


class SpilledBlocks:
    """A log's blocks in a file, in order.

    Args:
        file: where they are; it is ours from now on.
    """

    __slots__ = (
        "_begin_position", "_closed", "_direct", "_end_position", "_file", "_positions", "_runs", "_starts",
        "_whens", "end",
    )  # fmt: skip

    def __init__(self, file: SpillFile) -> None:
        self._file = file
        self._closed = False
        self._begin_position = self._end_position = 0  # what of the file is in use
        # For each block what a Place says, and its first time.
        self._starts, self._positions = array("Q"), array("Q")
        self._runs, self._whens = array("I"), array("d")
        self._direct = bytearray()
        #: The offset in the log at which the last one ends.
        self.end = 0

    def __len__(self) -> int:
        return len(self._starts)

    async def write(self, blocks: Sequence[Block]) -> Written:
        """Write blocks behind those that are there; `add` makes them ours.

        Raises:
            OSError: not all of them could be written; what was, is given back.
        """
        return await self._file.write(blocks, self._end_position)

    def add(self, blocks: Sequence[Block], written: Written) -> int:
        """Take note of blocks that were written; return how many bytes more of the file are in use."""
        position = written.begin
        for block in blocks:
            self._starts.append(block.start)
            self._positions.append(position)
            self._runs.append(len(block.streams))
            self._whens.append(block.whens[0])
            self._direct.append(written.direct)
            position += len(block.data) + RUN_BYTES * len(block.streams)
        self.end = blocks[-1].end
        grown, self._end_position = written.end - self._end_position, written.end
        return grown

    def place_of(self, offset: int) -> Place:
        """Where the block lies that holds a byte."""
        return next(self._places(offset))

    def extent(self, offset: int, most: int) -> tuple[int, int]:
        """Where in the log blocks end, and what they take: one at least, and those behind it up to ``most``.

        Args:
            offset: a byte that the first of them holds.
            most: the most that they take in the file, in bytes.
        """
        places = self._places(offset)
        first = last = next(places)
        for place in places:
            if place.end - first.position > most:
                break
            last = place
        return last.start + last.length, last.end - first.position

    def start_of(self, when: float) -> int | None:
        """The offset of the last block that begins before a Unix time, or of the first, if there is one."""
        return self._starts[max(0, bisect_left(self._whens, when) - 1)] if self._starts else None

    def cached(self, offset: int) -> Block | None:
        """The block that holds a byte, if the page cache has it.

        Raises:
            OSError: the disk fails.
        """
        return self._file.read_cached(self.place_of(offset))

    async def read(self, offset: int, end: int) -> list[Block]:
        """Read the blocks that hold some bytes. What is dropped meanwhile is left out, which may be all.

        Raises:
            OSError: the disk fails.
        """
        await trio.lowlevel.checkpoint()
        if self._closed or not self._starts or end <= self._starts[0]:
            return []  # it went before its turn to be read came
        places = self._places(max(offset, self._starts[0]))
        blocks = await self._file.read(tuple(takewhile(lambda place: place.start < end, places)))
        begin = self._starts[0] if self._starts else self.end
        return [block for block in blocks if block.start >= begin]

    def drop(self, size: int) -> tuple[int, int]:
        """Give up the oldest blocks, one at least.

        Args:
            size: how many bytes of the file to free, about.

        Returns:
            The offset at which the rest begins, and the bytes that were freed.
        """
        first = self._begin_position
        count = max(1, bisect_right(self._positions, first + size) - 1)
        rest = count < len(self._starts)
        after = self._positions[count] if rest else self._end_position
        begin = self._starts[count] if rest else self.end
        for table in (self._starts, self._positions, self._runs, self._whens, self._direct):
            del table[:count]
        self._begin_position = after
        # From its page's begin on, all of which is dropped: else no punch would ever free that page.
        page = first // ALIGN * ALIGN
        self._file.punch(page, after - page)
        return begin, after - first

    def close(self) -> None:
        """Give up all of them, and the file."""
        self._closed = True
        self._file.close()

    def _places(self, offset: int) -> Iterator[Place]:
        """Where blocks lie, from the one on that holds a byte."""
        for at in range(bisect_right(self._starts, offset) - 1, len(self._starts)):
            start = self._starts[at]
            end = self._starts[at + 1] if at + 1 < len(self._starts) else self.end
            yield Place(start, self._positions[at], self._runs[at], end - start, bool(self._direct[at]))
