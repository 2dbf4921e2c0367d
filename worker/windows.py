"""Owns the memory in which spilled output waits for its subscribers, within one bound for all of them.

What a subscriber reads from the disk at a time is a window. It begins with one block and doubles with each
that is sent in time, so that who takes little makes us read little. The bytes of every window are counted
from when its read is asked for until it is let go. Who finds nothing left does without: it reads one block
at a time, and only once that can be sent.
"""

from collections.abc import Sequence

import trio

from .blocks import BLOCK_BYTES, Block
from .spilled import SpilledBlocks

MIB = 1024 * 1024
#: A subscriber that reads from the disk holds a window, and so many ahead, of at most so many bytes each, and
#: all subscribers together hold at most so many bytes.
WINDOWS_AHEAD, WINDOW_BYTES, WINDOWS_BYTES = 2, 2 * MIB, 48 * MIB


class Windows:
    """What all windows may take, and what is left of it.

    Args:
        nursery: where windows are read ahead; None for not at all.
    """

    __slots__ = ("left", "nursery", "readers")

    def __init__(self, nursery: trio.Nursery | None = None) -> None:
        self.nursery = nursery
        #: Bytes that are left.
        self.left = WINDOWS_BYTES
        #: Subscribers that read from the disk now.
        self.readers = 0

    @property
    def most(self) -> int:
        """How many bytes one more window may take, so that all who read get their share."""
        share = WINDOWS_BYTES // ((1 + WINDOWS_AHEAD) * max(1, self.readers))
        return min(WINDOW_BYTES, self.left, max(share, BLOCK_BYTES))


class Window:
    """Some spilled blocks: read, under way, or none if they could not be read together.

    Args:
        windows: what its bytes are counted against.
        on_disk: where its blocks are.
        offset: the first byte that is wanted.
        end: where in the log it ends.
        size: bytes that it takes.
    """

    __slots__ = ("_closed", "_on_disk", "_reading", "_windows", "blocks", "done", "end", "offset", "size")

    def __init__(self, windows: Windows, on_disk: SpilledBlocks, offset: int, end: int, size: int) -> None:
        self._windows = windows
        self._on_disk = on_disk
        self._reading = trio.CancelScope()
        self._closed = False
        self.offset = offset
        self.end = end
        self.size = size
        self.blocks: Sequence[Block] = ()
        self.done = trio.Event()
        windows.left -= size

    async def read(self) -> None:  # noqa: ASYNC910  # the first thing that it does is one
        """Read them; whoever misses one after that reads it alone."""
        try:
            await trio.lowlevel.checkpoint()
            with self._reading:
                self.blocks = await self._on_disk.read(self.offset, self.end)
        except (OSError, MemoryError):
            pass
        finally:
            self.done.set()
            if self._closed:
                self._give_back()

    def take_cached(self) -> bool:
        """If the page cache has its first block, take that, and be no larger; return whether it has."""
        try:
            block = self._on_disk.cached(self.offset)
        except OSError:
            return False
        if block is not None:
            self._windows.left += self.size
            self.end, self.size = self._on_disk.extent(self.offset, 0)
            self._windows.left -= self.size
            self.blocks = (block,)
            self.done.set()
        return block is not None

    def close(self) -> None:
        """Let it go. A read that waits for its turn is given up; one in a thread is counted until its end."""
        if self._closed:
            return
        self._closed = True
        self._reading.cancel()
        if self.done.is_set():
            self._give_back()

    def _give_back(self) -> None:
        self.blocks = ()
        self._windows.left += self.size
