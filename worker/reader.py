"""Owns one subscriber's place in a log, and what it has of the spill file: a window, and the next ones.

What lies in memory, or in the page cache, is taken block by block. What must come from the disk is read a
window at a time, and while one is sent, the next two are read. How large a window is depends on how many
subscribers read from the disk at the time, so that all of them together hold a bounded amount.
"""

from bisect import bisect_right
from collections import deque

import trio

from .blocks import BLOCK_BYTES, Block, Chunk
from .output import Missing, OutputLog
from .store import WINDOWS_AHEAD, OutputStore


class _Window:
    """Some spilled blocks, read or under way; none if they could not be read together.

    Args:
        log: where they belong.
        offset: the first byte that is wanted.
        most: how many bytes are read, but for one block at least.
    """

    __slots__ = ("_log", "_most", "blocks", "done", "end", "offset")

    def __init__(self, log: OutputLog, offset: int, most: int) -> None:
        self._log = log
        self._most = most
        self.offset = offset
        self.end = log.end_of(offset, most)
        self.blocks: list[Block] = []
        self.done = trio.Event()

    async def read(self) -> None:
        """Read them; whoever misses one after that reads it alone."""
        await trio.lowlevel.checkpoint()
        try:
            self.blocks = await self._log.read_from(self.offset, self._most)
        except OSError:
            pass
        finally:
            self.done.set()


class Reader:
    """One subscriber's place in a log. Close it whenever nothing is read for a while; it may go on after.

    Args:
        log: the log.
        offset: where to begin.
        only: the stream to read; None for both.
    """

    __slots__ = ("_counted", "_held", "_log", "_next", "_only", "offset")

    def __init__(self, log: OutputLog, offset: int, only: int | None = None) -> None:
        self.offset = offset
        self._log = log
        self._only = only
        self._held: list[Block] = []
        self._next: deque[_Window] = deque()
        self._counted: OutputStore | None = None  # among whose readers from the disk it counts

    async def next(self, most: int = BLOCK_BYTES) -> Chunk | Missing | None:
        """Return up to ``most`` bytes of one stream, or what cannot be had, and go on behind it.

        None where the log ends; what is behind it then is not of the stream that is read.
        """
        while self.offset < self._log.size:
            block = self._log.block_in_memory(self.offset)
            if block is None:
                found = self._at_hand() or await self._spilled()
                if isinstance(found, Missing):
                    self.offset += found.size
                    return found  # noqa: ASYNC910  # who sends it, checkpoints
                block = found
            elif self._held or self._counted is not None:
                self.close()
            chunk = block.chunk(self.offset, most, self._only)
            if chunk is not None:
                self.offset = chunk.offset + len(chunk.data)
                return chunk  # noqa: ASYNC910  # who sends it, checkpoints
            self.offset = block.end
        return None  # noqa: ASYNC910  # who gets nothing, waits

    def close(self) -> None:
        """Hold nothing."""
        self._held = []
        self._next.clear()
        if self._counted is not None:
            self._counted.disk_readers -= 1
            self._counted = None

    def _at_hand(self) -> Block | None:
        at = bisect_right(self._held, self.offset, key=lambda block: block.start) - 1
        return self._held[at] if at >= 0 and self.offset < self._held[at].end else None

    async def _spilled(self) -> Block | Missing:
        """Get the block that holds our byte, and keep it, and maybe some behind it."""
        await trio.lowlevel.checkpoint()
        log = self._log
        while self._next and self._next[0].offset != self.offset:
            self._next.popleft()
        if self._next:
            window = self._next.popleft()
        else:
            if gone := log.missing(self.offset):
                return gone
            try:
                if block := log.block_cached(self.offset):
                    self._held = [block]
                    return block
            except OSError as error:
                return log.unreadable(self.offset, error)
            self._count()
            window = _Window(log, self.offset, self._window_bytes)
            await window.read()
        self._held = []
        self._read_ahead(window.end)
        await window.done.wait()
        self._held = window.blocks
        if block := self._at_hand():
            return block
        return await log.block_at(self.offset)

    def _count(self) -> None:
        if self._counted is None and self._log.store is not None:
            self._counted = self._log.store
            self._counted.disk_readers += 1

    @property
    def _window_bytes(self) -> int:
        return self._counted.window_bytes if self._counted is not None else 0

    def _read_ahead(self, offset: int) -> None:
        """Let the windows from an offset on be read while another one is sent."""
        nursery = self._counted.nursery if self._counted is not None else None
        if self._next:
            offset = self._next[-1].end
        offset = max(offset, self._log.dropped)
        while nursery is not None and len(self._next) < WINDOWS_AHEAD and offset < self._log.spilled_end:
            self._next.append(window := _Window(self._log, offset, self._window_bytes))
            nursery.start_soon(window.read)
            offset = window.end
