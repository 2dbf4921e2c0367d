"""Owns one subscriber's place in a log, and what it has of the spill file: a window, and the next ones.

Theory of operation. What lies in memory is taken when it can be sent, and not before, so a subscriber that
waits holds nothing of it. What lies on the disk is read a window at a time, and while one is sent, the next
two are read. A subscriber that waits longer than KEEP_SECONDS lets its windows go and begins with a small
one again. Where `worker.windows` has no bytes left, a block is read only once its turn to be sent has come.
So it is for a subscriber that has waited so long for room: by the time that a window is read, other streams
of its connection may have taken the room, again and again.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext

import trio

from .blocks import BLOCK_BYTES, Block, Chunk
from .output import Missing, OutputLog
from .windows import WINDOW_BYTES, WINDOWS_AHEAD, Window, Windows

#: How long what was read ahead is kept for a client that takes nothing, in seconds.
KEEP_SECONDS = 1.0
#: After so many blocks without a byte of the stream that is read, others have their turn.
TAKE_BLOCKS = 64


class Reader:
    """One subscriber's place in a log. Close it whenever nothing is read for a while; it may go on after.

    Args:
        log: the log.
        offset: where to begin.
        only: the stream to read; None for both.
        end: where to stop; None for nowhere.
        room: waits until a piece can be sent.
        alone: bounds how many readers hold, all at a time, a block that no window counts.
    """

    __slots__ = (
        "_alone",
        "_end",
        "_log",
        "_most",
        "_next",
        "_only",
        "_room",
        "_window",
        "_windows",
        "offset",
    )

    def __init__(
        self,
        log: OutputLog,
        offset: int,
        only: int | None = None,
        end: int | None = None,
        *,
        room: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        alone: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        self.offset = offset
        self._log = log
        self._only = only
        self._end = end
        self._room = room
        self._alone = alone or nullcontext()
        self._window: Window | None = None
        self._next: deque[Window] = deque()
        self._most = BLOCK_BYTES
        self._windows: Windows | None = None  # among whose readers it counts

    @property
    def at_end(self) -> bool:
        """Nothing is there to read, for now or for good."""
        return self.offset >= self._stop

    @property
    def _stop(self) -> int:
        return self._log.size if self._end is None else min(self._end, self._log.size)

    async def next(self, most: int = BLOCK_BYTES) -> Chunk | Missing | None:
        """Return up to ``most`` bytes of one stream, or what cannot be had, and go on behind it.

        None where the log, or our part of it, ends; what is behind the place then is not of the stream that
        is read. With ``most`` 0 a piece is empty, and says that there is one.
        """
        while not self.at_end:
            began = trio.current_time()
            await self.pause(self._room)
            is_slow = trio.current_time() - began >= KEEP_SECONDS
            if (piece := self._take(most)) is not None:
                return piece
            if self._block() is None and (is_slow or not await self._fetch()):
                async with self._alone:
                    if not is_slow:
                        await self._room()
                    if (piece := await self._take_alone(most)) is not None:
                        await self._room()  # others may have filled it, or the connection has ended
                        return piece
        return None  # noqa: ASYNC910  # who gets nothing, waits

    async def pause(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait for something; what was read ahead is kept for a moment, as who reads at all is back soon."""
        if self._windows is None:
            await wait()
            return
        with trio.move_on_after(KEEP_SECONDS) as keep:
            await wait()
        if keep.cancelled_caught:
            self.close()
            await wait()

    def close(self) -> None:
        """Hold nothing."""
        self._most = BLOCK_BYTES
        if self._windows is not None:
            self._windows.readers -= 1
            self._windows = None
            self._turn_to(None)
            while self._next:
                self._next.popleft().close()

    def _take(self, most: int) -> Chunk | Missing | None:
        """What can be had at once, unless there is none of the stream that is read in TAKE_BLOCKS blocks."""
        for _ in range(TAKE_BLOCKS):
            if self.at_end:
                break
            if gone := self._log.missing(self.offset):
                return self._lost(gone)
            if (block := self._block()) is None:
                break
            if piece := self._take_of(block, most):
                return piece
        return None

    def _block(self) -> Block | None:
        """The block in which we are, if it is in memory or in our window."""
        block = self._log.block_in_memory(self.offset)
        if block is None:
            return self._at_hand()
        self.close()
        return block

    async def _take_alone(self, most: int) -> Chunk | Missing | None:
        """What one block has for us, wherever it is; it is let go after that."""
        found = await self._log.block_at(self.offset)
        return self._lost(found) if isinstance(found, Missing) else self._take_of(found, most)

    def _take_of(self, block: Block, most: int) -> Chunk | None:
        stop = self._stop
        chunk = block.chunk(self.offset, most, self._only)
        if chunk is None or chunk.offset >= stop:
            self.offset = min(block.end, stop)
            return None
        if chunk.offset + len(chunk.data) > stop:
            chunk = Chunk(chunk.stream, chunk.offset, chunk.data[: stop - chunk.offset])
        self.offset = chunk.offset + len(chunk.data)
        return chunk

    def _lost(self, gone: Missing) -> Missing:
        self.offset = gone.offset + gone.size
        return gone

    def _at_hand(self) -> Block | None:
        blocks = self._window.blocks if self._window is not None else ()
        at = bisect_right(blocks, self.offset, key=lambda block: block.start) - 1
        return blocks[at] if at >= 0 and self.offset < blocks[at].end else None

    async def _fetch(self) -> bool:
        """Get a window that begins with our block, if there is one; return false if we do not have it now."""
        if self.at_end or (windows := self._enter()) is None:
            return self.at_end  # noqa: ASYNC910  # who calls it, checkpoints
        going_on = self._window is not None
        if going_on:
            self._most = min(2 * self._most, WINDOW_BYTES)
        self._turn_to(None)
        while self._next and self._next[0].offset != self.offset:
            self._next.popleft().close()
        is_new = not self._next
        window = self._ask(windows, self.offset) if is_new else self._next.popleft()
        self._turn_to(window)
        if window is None or (is_new and window.take_cached()):
            return window is not None  # noqa: ASYNC910  # who calls it, checkpoints
        if is_new:
            await window.read()
        if going_on:
            self._read_ahead(windows, window)
        await window.done.wait()
        return self._at_hand() is not None

    def _enter(self) -> Windows | None:
        if self._windows is None and self._log.store is not None:
            self._windows = self._log.store.windows
            self._windows.readers += 1
        return self._windows

    def _ask(self, windows: Windows, offset: int) -> Window | None:
        """A window from an offset on, if there are bytes left for one."""
        on_disk = self._log.on_disk
        assert on_disk is not None  # noqa: S101  # as the offset is nowhere else
        end, size = on_disk.extent(offset, min(self._most, windows.most))
        return Window(windows, on_disk, offset, end, size) if size <= windows.left else None

    def _read_ahead(self, windows: Windows, last: Window) -> None:
        """Let the windows behind the one in hand be read while that is sent."""
        if self._next:
            last = self._next[-1]
        while windows.nursery is not None and len(self._next) < WINDOWS_AHEAD:
            offset = max(last.end, self._log.dropped)
            if offset >= self._log.spilled_end or (ahead := self._ask(windows, offset)) is None:
                return
            self._next.append(last := ahead)
            windows.nursery.start_soon(ahead.read)

    def _turn_to(self, window: Window | None) -> None:
        if self._window is not None:
            self._window.close()
        self._window = window
