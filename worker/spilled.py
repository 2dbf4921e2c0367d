"""Owns the stretch of a log that lies in the spill files: where each block is, and how it comes back."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import takewhile

import trio

from .blocks import RUN_BYTES, Block
from .direct import ALIGN, aligned
from .spill import PUNCH_BYTES, Extent, SpillFiles
from .spill_file import Place

#: What is freed comes in pieces of at most so many blocks, so that no step is long.
FREE_BLOCKS = 512


class SpilledBlocks:
    """A log's blocks in the spill files, in order. Each batch lies in a range of its own, or behind the last.

    Args:
        files: where they are.
    """

    __slots__ = (
        "_closed", "_file", "_files", "_flags", "_freed", "_positions", "_runs", "_starts", "_whens", "end",
    )  # fmt: skip

    def __init__(self, files: SpillFiles) -> None:
        self._files = files
        self._file = files.turn()  # the file that is preferred, and then the one of the last block
        self._closed = False
        # For each block what a Place says, and its first time. The flags are its file, and 128 for direct.
        self._starts, self._positions = array("Q"), array("Q")
        self._runs, self._whens = array("I"), array("d")
        self._flags = bytearray()
        self._freed = 0  # the position from which on the first block's range is ours yet
        #: The offset in the log at which the last one ends.
        self.end = 0

    def __len__(self) -> int:
        return len(self._starts)

    async def write(self, blocks: Sequence[Block]) -> int:
        """Write blocks behind those that are there; return how many bytes more of the disk are in use.

        Raises:
            OSError: not all of them could be written; it is as if there had been no try.
        """
        size = sum(len(block.data) + RUN_BYTES * len(block.streams) for block in blocks)
        position = self._place(len(self) - 1).end if self else 0
        extent = None
        if size > aligned(position) - position:
            extent = self._files.allocate(size, self._file)
            position = extent.begin
        file = self._file if extent is None else extent.file
        try:
            direct = await self._files.write(blocks, file, position)
        except BaseException:  # a cancel too, which comes before anything is written
            self._release(extent)
            raise
        if self._closed:
            self._release(extent)
            return 0
        if not self:
            self._freed = position
        self._file = file
        for block in blocks:
            self._starts.append(block.start)
            self._positions.append(position)
            self._runs.append(len(block.streams))
            self._whens.append(block.whens[0])
            self._flags.append(file | direct << 7)
            position += len(block.data) + RUN_BYTES * len(block.streams)
        self.end = blocks[-1].end
        return 0 if extent is None else extent.size

    def _release(self, extent: Extent | None) -> None:
        if extent is not None:
            self._files.release((extent,))

    def place_of(self, offset: int) -> Place:
        """Where the block lies that holds a byte."""
        return next(self._places(offset))

    def extent(self, offset: int, most: int) -> tuple[int, int]:
        """Where in the log blocks end, and what they take: one at least, and those right behind it.

        Args:
            offset: a byte that the first of them holds.
            most: the most that they take in the file, in bytes.
        """
        places = self._places(offset)
        first = last = next(places)
        for place in places:
            if place.end - first.position > most or not _is_near(last, place):
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
        return self._files.read_cached(self.place_of(offset))

    async def read(self, offset: int, end: int) -> list[Block]:
        """Read the blocks that hold some bytes, as `extent` had them.

        What is dropped meanwhile is left out, which may be all: its place may have been used again.

        Raises:
            OSError: the disk fails.
        """
        await trio.lowlevel.checkpoint()
        if self._closed or not self._starts or end <= self._starts[0]:
            return []  # it went before its turn to be read came
        places = self._places(max(offset, self._starts[0]))
        blocks = await self._files.read(tuple(takewhile(lambda place: place.start < end, places)))
        if self._closed:
            return []
        begin = self._starts[0] if self._starts else self.end
        return [block for block in blocks if block.start >= begin]

    def drop(self, size: int) -> tuple[int, int]:
        """Give up the oldest blocks, one at least.

        Args:
            size: how many bytes of the disk to free, about.

        Returns:
            The offset at which the rest begins, and the bytes that were freed.
        """
        extents = []
        count = 0
        for extent, blocks in self._ranges(size):
            extents.append(extent)
            count = blocks
            if (size := size - extent.size) <= 0:
                break
        begin = self._starts[count] if count < len(self) else self.end
        if count < len(self):
            first = self._place(count)
            goes_on = _follows(self._place(count - 1), first)
            self._freed = extents[-1].end if goes_on else first.position
        for table in (self._starts, self._positions, self._runs, self._whens, self._flags):
            del table[:count]
        self._files.release(extents)
        return begin, sum(extent.size for extent in extents)

    def close(self) -> None:
        """Give up all of them."""
        self._closed = True
        self._files.release(extent for extent, _ in self._ranges(PUNCH_BYTES))

    def _ranges(self, most: int) -> Iterator[tuple[Extent, int]]:
        """What its blocks take of the disk, in order, in pieces: each with the number of blocks up to there.

        Args:
            most: about how large a piece may be, in bytes.
        """
        at, begin = 0, self._freed
        while at < len(self):
            first = last = self._place(at)
            stop, goes_on = at + FREE_BLOCKS, False
            for place in self._places_from(at + 1):
                if not (goes_on := _follows(last, place)) or last.end - begin >= most or at + 1 >= stop:
                    break
                at, last, goes_on = at + 1, place, False
            at += 1
            # The page in which it ends may be the next block's too.
            end = last.end // ALIGN * ALIGN if goes_on else aligned(last.end)
            if end > begin:
                yield Extent(first.file, begin, end), at
            if at < len(self):
                begin = end if goes_on else self._positions[at]

    def _places(self, offset: int) -> Iterator[Place]:
        """Where blocks lie, from the one on that holds a byte."""
        return self._places_from(bisect_right(self._starts, offset) - 1)

    def _places_from(self, at: int) -> Iterator[Place]:
        return map(self._place, range(at, len(self)))

    def _place(self, at: int) -> Place:
        start, flags = self._starts[at], self._flags[at]
        end = self._starts[at + 1] if at + 1 < len(self) else self.end
        return Place(start, flags & 127, self._positions[at], self._runs[at], end - start, bool(flags >> 7))


def _follows(place: Place, after: Place) -> bool:
    """Whether a block lies right behind another one."""
    return after.file == place.file and after.position == place.end


def _is_near(place: Place, after: Place) -> bool:
    """Whether one read takes both: what parts them is no more than a batch's end."""
    return after.file == place.file and 0 <= after.position - place.end < ALIGN
