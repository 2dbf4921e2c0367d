"""Owns the files that take the oldest output of all jobs, and what of them is in use.

However many jobs there are, the files are FILES, which a server opens at its start; they are unlinked, so
that nothing of them persists. Each batch of blocks has a range of one of them, in multiples of ALIGN. What is
given up is punched out of its file, and then used again. There is more than one file, as a write that makes a
file grow keeps the readers of that file waiting (ext4's inode lock).

Reading is tried without waiting first (preadv2(2), RWF_NOWAIT), in case the page cache has it; what must come
from the disk goes to a thread, so that a slow disk holds up its reader and not the server.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import trio

from .blocks import Block
from .direct import aligned
from .disk_watch import DiskWatch
from .spill_file import Place, SpillFile
from .threads import run_in_thread

#: How many files there are; each costs two descriptors.
FILES = 4
#: Of what is given up, so many bytes, in so many ranges, are punched out in one go.
PUNCH_BYTES, PUNCH_RANGES = 32 * 1024 * 1024, 256
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of a file, in multiples of ALIGN."""

    file: int
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.begin


class SpillFiles:
    """All files of a store.

    Args:
        folder: where; the files have no names there.
        reads: bounds how many reads there are at a time; None for Trio's own bound of threads.
        watch: sees to it that a disk that hangs is told; None for not.

    Raises:
        OSError: they cannot be made.
    """

    def __init__(
        self, folder: Path, reads: trio.CapacityLimiter | None = None, watch: DiskWatch | None = None
    ) -> None:
        self._watch = watch or DiskWatch()
        # Apart, so that no subscriber holds up a job.
        self._writes, self._reads = trio.CapacityLimiter(1), reads
        self._files: list[SpillFile] = []
        self._next = cycle(range(FILES))
        self._released: deque[Iterator[Extent]] = deque()
        #: Bytes of the disk in use, those included that are given up and not yet punched out.
        self.used = 0
        try:
            for _ in range(FILES):
                self._files.append(SpillFile(folder))
        except OSError:
            self.close()
            raise

    def turn(self) -> int:
        """The number of the file that the next log prefers."""
        return next(self._next)

    def allocate(self, size: int, file: int) -> Extent:
        """A range for ``size`` bytes, in the file that is preferred if one of them has to grow for it."""
        size = aligned(size)
        self.used += size
        for number in (file, *range(len(self._files))):
            if (begin := self._files[number].free.take(size)) is not None:
                return Extent(number, begin, begin + size)
        begin = self._files[file].free.grow(size)
        return Extent(file, begin, begin + size)

    async def write(self, blocks: Sequence[Block], file: int, position: int) -> bool:
        """As `SpillFile.write`, in a thread: to a file by its number, where room was allocated."""
        return await self._watch.run(
            "write", partial(self._files[file].write, blocks, position), self._writes
        )

    def read_cached(self, place: Place) -> Block | None:
        """As `SpillFile.read_cached`."""
        return self._files[place.file].read_cached(place)

    async def read(self, places: Sequence[Place]) -> list[Block]:
        """As `SpillFile.read`, in a thread; all places are in one file."""
        return await self._watch.run("read", partial(self._files[places[0].file].read, places), self._reads)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do what the mover does in a thread beside its writes, one thing after another.

        Raises:
            OSError: it did; or there is no thread for it.
        """
        return await run_in_thread(work, limiter=self._writes)

    def release(self, extents: Iterable[Extent]) -> None:
        """Give up ranges: `reclaim` takes them one by one, and nothing is written there until then."""
        self._released.append(iter(extents))

    @property
    def has_released(self) -> bool:
        """Whether there is anything to reclaim."""
        return bool(self._released)

    async def reclaim(self) -> int:
        """Make some of what was given up free again, on the disk too, where the file system can.

        Returns:
            How many bytes that was.
        """
        await trio.lowlevel.checkpoint()
        extents: list[Extent] = []
        left = PUNCH_BYTES
        while self._released and left > 0 and len(extents) < PUNCH_RANGES:
            if (extent := next(self._released[0], None)) is None:
                self._released.popleft()
            else:
                extents.append(extent)
                left -= extent.size
        try:
            if extents:
                await self._watch.run("punch", partial(self._punch, extents), self._writes)
        except OSError:  # there is no thread for it: the room is used again as it is
            pass
        finally:
            for extent in extents:
                self._files[extent.file].free.give(extent.begin, extent.end)
                self.used -= extent.size
        return sum(extent.size for extent in extents)

    def _punch(self, extents: list[Extent]) -> None:
        for extent in extents:
            self._files[extent.file].punch(extent.begin, extent.end)

    def close(self) -> None:
        """Let the files go; nobody may use them any more."""
        for file in self._files:
            file.close()
