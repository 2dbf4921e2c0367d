"""Owns a job's output: an append-only log of bytes with offsets from 0, and the doorbells of its readers.

Theory of operation. The log has one offset space for both streams, in order of arrival. Its newest bytes
are blocks in memory; the oldest may have moved into a spill file, or be gone. So there are three stretches,
always in this order: ``[0, dropped)`` cannot be had, ``[dropped, spilled_end)`` lies in the file, the rest
in memory. Bytes stay in the log and each subscriber pulls from its own offset, so a replay costs nothing
and no subscriber can slow the job or another subscriber. What goes through a subscriber's memory channel is
only a doorbell: something new is there. Who moves or drops bytes, and when, is `worker.store`'s to decide.
"""

import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import trio

from wire.messages import GapReason

from .blocks import BLOCK_BYTES, RUN_BYTES, Block, Chunk
from .spill import SpillFile

if TYPE_CHECKING:
    from .store import OutputStore

#: Bytes that move to the spill file in one go, at least.
BATCH_BYTES = 4 * 1024 * 1024

Doorbell: TypeAlias = trio.MemoryReceiveChannel[None]


@dataclass(frozen=True, slots=True)
class Missing:
    """Bytes of the log that cannot be had: ``size`` of them from ``offset`` on."""

    offset: int
    size: int
    reason: GapReason


class _Index:
    """What lies in a spill file: for each block its offset in the log, position, runs, and first time."""

    __slots__ = ("positions", "runs", "starts", "whens")

    def __init__(self) -> None:
        self.starts, self.positions = array("Q"), array("Q")
        self.runs, self.whens = array("I"), array("d")

    def add(self, block: Block, position: int) -> None:
        self.starts.append(block.start)
        self.positions.append(position)
        self.runs.append(len(block.streams))
        self.whens.append(block.whens[0])

    def forget(self, count: int) -> None:
        """Forget the oldest blocks."""
        for table in (self.starts, self.positions, self.runs, self.whens):
            del table[:count]


class OutputLog:
    """One job's log.

    Args:
        store: who holds its memory within a budget; None for no bound.
    """

    __slots__ = (
        "_blocks", "_end_position", "_file", "_frozen", "_index", "_latest", "_moving", "_removed", "_store",
        "_subscribers", "closed", "dropped", "resident", "size", "spilled", "waiting",
    )  # fmt: skip

    def __init__(self, store: "OutputStore | None" = None) -> None:
        #: Bytes ever appended, and those of them, from byte 0 on, that are gone.
        self.size = self.dropped = 0
        #: Bytes that its blocks take in memory, and in the spill file.
        self.resident = self.spilled = 0
        #: No more bytes will come.
        self.closed = False
        #: The job waits for room, as the spill directory is full.
        self.waiting = False
        self._store = store
        self._blocks: list[Block] = []
        self._frozen = False  # the last block is being written to the file, and takes no more
        self._file: SpillFile | None = None
        self._index: _Index | None = None
        self._end_position = 0  # of the spill file
        self._latest = 0.0  # the time of the last append
        self._moving: trio.Lock | None = None
        self._removed = False
        self._subscribers: set[trio.MemorySendChannel[None]] | None = None

    def append(self, stream: int, data: bytes | bytearray) -> None:
        """Add bytes of a stream (1 or 2) and ring every subscriber."""
        # Never back in time, whatever the clock does, so that a time can be looked for.
        self._latest = max(self._latest, time.time())
        before = 0
        if self._blocks and not self._frozen:
            last = self._blocks[-1]
            before = last.cost
            if not last.add(stream, self._latest, data):
                before = 0
        if not before:
            self._blocks.append(Block.begin(self.size, stream, self._latest, data))
            self._frozen = False
        self.size += len(data)
        self._account(self._blocks[-1].cost - before, 0)
        self._ring()

    async def make_room(self) -> None:  # noqa: ASYNC910  # seldom is there a need to
        """Return once memory is within its budget; whoever appends calls it before they append more."""
        if self._store is not None and self._store.is_over(self):
            await self._store.make_room(self)

    def close(self) -> None:
        """Say that no more bytes will come."""
        self.closed = True
        self._ring()

    @property
    def spilled_end(self) -> int:
        """Where the file's part ends and the memory's begins."""
        return self._blocks[0].start if self._blocks else self.size

    def missing(self, offset: int) -> Missing | None:
        """What cannot be had at an offset."""
        if offset >= self.dropped:
            return None
        reason = GapReason.REMOVED if self._removed else GapReason.DROPPED
        return Missing(offset, self.dropped - offset, reason)

    async def block_at(self, offset: int) -> "Block | Missing":
        """The block that holds a byte of the log; ``0 <= offset < size``. What cannot be had is told."""
        await trio.lowlevel.checkpoint()
        while True:  # noqa: ASYNC913  # a file's read is a cancel point; without one it returns
            if gone := self.missing(offset):
                return gone
            if offset >= self.spilled_end:
                return self._blocks[bisect_right(self._blocks, offset, key=lambda block: block.start) - 1]
            file, index = self._file, self._index
            assert file is not None  # noqa: S101  # there are spilled bytes
            assert index is not None  # noqa: S101  # likewise
            at = bisect_right(index.starts, offset) - 1
            start = index.starts[at]
            end = index.starts[at + 1] if at + 1 < len(index.starts) else self.spilled_end
            try:
                block = await file.read(start, index.positions[at], index.runs[at], end - start)
            except OSError as error:
                if self._store is not None:
                    self._store.tell_unreadable(error)
                return Missing(offset, end - offset, GapReason.UNREADABLE)
            if offset >= self.dropped:  # else it went while it was read
                return block

    def block_in_memory(self, offset: int) -> Block | None:
        """The same, if it can be had at once."""
        if not self.spilled_end <= offset < self.size:
            return None
        if offset >= self._blocks[-1].start:
            return self._blocks[-1]
        return self._blocks[bisect_right(self._blocks, offset, key=lambda block: block.start) - 1]

    def start_of(self, when: float) -> int:
        """The offset of the last block that begins before a Unix time, or where the log begins."""
        if self._blocks and self._blocks[0].whens[0] < when:
            at = bisect_left(self._blocks, when, key=lambda block: block.whens[0]) - 1
            return self._blocks[at].start
        if self._index is not None and self._index.starts:
            return self._index.starts[max(0, bisect_left(self._index.whens, when) - 1)]
        return self.dropped

    @contextmanager
    def subscribe(self) -> Iterator[Doorbell]:
        """Lend a doorbell: it rings once for any number of appends since it was last answered."""
        bell, doorbell = trio.open_memory_channel[None](1)
        if self._subscribers is None:
            self._subscribers = set()
        self._subscribers.add(bell)
        try:
            with bell, doorbell:
                yield doorbell
        finally:
            self._subscribers.discard(bell)
            if not self._subscribers:
                self._subscribers = None
                if self._removed:
                    self._discard()

    def _ring(self) -> None:
        for bell in self._subscribers or ():
            with suppress(trio.WouldBlock):  # it rings already
                bell.send_nowait(None)

    # --- for worker.store alone

    async def spill(self, folder: Path, room: int) -> bool:
        """Move the oldest blocks into the file, some BATCH_BYTES of them.

        Args:
            folder: where the file is made.
            room: the most bytes by which it may grow.

        Returns:
            Whether there was room; also true if another task has just moved some.

        Raises:
            OSError: the file cannot be written to; the blocks stay in memory.
        """
        await trio.lowlevel.checkpoint()
        if self._moving is None:
            self._moving = trio.Lock()
        if self._moving.locked():
            async with self._moving:
                return True
        async with self._moving:
            if self._file is None:
                self._file, self._index = SpillFile(folder), _Index()
            batch: list[Block] = []
            size = 0
            for block in self._blocks:
                grown = size + len(block.data) + RUN_BYTES * len(block.streams)
                if grown > room or size >= BATCH_BYTES:
                    break
                batch.append(block)
                size = grown
            if not batch:
                return not self._blocks
            if batch[-1] is self._blocks[-1]:
                self._frozen = True
            try:
                await self._file.write(batch, self._end_position)
            except OSError:
                self._frozen = False
                raise
            self._moved(batch)
        return True

    def _moved(self, batch: list[Block]) -> None:
        """Account for blocks that are in the file now. All of it may have been removed meanwhile."""
        if self._index is None:
            return
        for block in batch:
            self._index.add(block, self._end_position)
            self._end_position += len(block.data) + RUN_BYTES * len(block.streams)
        size = sum(len(block.data) + RUN_BYTES * len(block.streams) for block in batch)
        del self._blocks[: len(batch)]
        self._frozen = self._frozen and bool(self._blocks)
        self._account(-sum(block.cost for block in batch), size)

    def drop(self) -> bool:
        """Give up the oldest bytes, some BATCH_BYTES of them; return whether there were any."""
        if self._moving is not None and self._moving.locked():
            return False
        if self._index is not None and self._index.starts:
            index, file = self._index, self._file
            assert file is not None  # noqa: S101  # made with the index
            first = index.positions[0]
            count = max(1, bisect_right(index.positions, first + BATCH_BYTES) - 1)
            after = index.positions[count] if count < len(index.positions) else self._end_position
            self.dropped = index.starts[count] if count < len(index.starts) else self.spilled_end
            index.forget(count)
            file.punch(first, after - first)
            self._account(0, first - after)
        elif self._blocks:
            count = cost = 0
            while count < len(self._blocks) and cost < BATCH_BYTES:
                cost += self._blocks[count].cost
                count += 1
            del self._blocks[:count]
            self._frozen = False
            self.dropped = self.spilled_end
            self._account(-cost, 0)
        else:
            return False
        self._ring()
        return True

    def remove(self) -> None:
        """Give up all of it, once its subscribers have what is there."""
        self._removed = True
        if not self._subscribers:
            self._discard()

    def _discard(self) -> None:
        self.dropped = self.size
        self._blocks.clear()
        self._index = None
        if self._file is not None:
            self._file.close()
            self._file = None
        self._account(-self.resident, -self.spilled)

    def _account(self, resident: int, spilled: int) -> None:
        self.resident += resident
        self.spilled += spilled
        if self._store is not None:
            self._store.account(self, resident, spilled)


class Reader:
    """One subscriber's place in a log.

    Args:
        log: the log.
        offset: where to begin.
        only: the stream to read; None for both.
    """

    __slots__ = ("_block", "_log", "_only", "offset")

    def __init__(self, log: OutputLog, offset: int, only: int | None = None) -> None:
        self.offset = offset
        self._log = log
        self._only = only
        self._block: Block | None = None

    async def next(self, most: int = BLOCK_BYTES) -> Chunk | Missing | None:
        """Return up to ``most`` bytes of one stream, or what cannot be had, and go on behind it.

        None where the log ends; what is behind it then is not of the stream that is read.
        """
        while self.offset < self._log.size:
            block = self._block
            if block is None or not block.start <= self.offset < block.end:
                block = self._log.block_in_memory(self.offset)
                if block is None:
                    found = await self._log.block_at(self.offset)
                    if isinstance(found, Missing):
                        self.offset += found.size
                        return found
                    self._block = block = found
                else:
                    self._block = None
            chunk = block.chunk(self.offset, most, self._only)
            if chunk is not None:
                self.offset = chunk.offset + len(chunk.data)
                return chunk  # noqa: ASYNC910  # who sends it, checkpoints
            self.offset = block.end
        return None  # noqa: ASYNC910  # who gets nothing, waits

    def pause(self) -> None:
        """Hold no block while nothing is read."""
        self._block = None
