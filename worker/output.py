"""Owns a job's output: an append-only log of bytes with offsets from 0, and the doorbells of its readers.

Theory of operation. The log has one offset space for both streams, in order of arrival. Its newest bytes
are blocks in memory; the oldest may have moved to the disk, or be gone. So there are three stretches, always
in this order: ``[0, dropped)`` cannot be had, ``[dropped, spilled_end)`` lies on the disk, the rest in
memory. Bytes stay in the log and each subscriber pulls from its own offset, so a replay costs nothing and no
subscriber can slow the job or another subscriber. What goes through a subscriber's memory channel is only a
doorbell: something new is there. Who moves or drops bytes, and when, is `worker.store`'s to decide.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio

from wire.messages import GapReason

from .blocks import RUN_BYTES, Block
from .direct import aligned
from .spill import SpillFiles
from .spilled import SpilledBlocks

if TYPE_CHECKING:
    from .store import OutputStore

#: Bytes that move to the disk in one go, at least.
BATCH_BYTES = 4 * 1024 * 1024

Doorbell: TypeAlias = trio.MemoryReceiveChannel[None]


@dataclass(frozen=True, slots=True)
class Missing:
    """Bytes of the log that cannot be had: ``size`` of them from ``offset`` on."""

    offset: int
    size: int
    reason: GapReason


class OutputLog:
    """One job's log.

    Args:
        store: who holds its memory within a budget; None for no bound.
    """

    __slots__ = (
        "_blocks", "_frozen", "_latest", "_moving", "_removed", "_subscribers", "closed", "dropped",
        "on_disk", "overflowed", "resident", "size", "spilled", "store", "waiting",
    )  # fmt: skip

    def __init__(self, store: "OutputStore | None" = None) -> None:
        #: Bytes ever appended, and those of them, from byte 0 on, that are gone.
        self.size = self.dropped = 0
        #: Of those, what went for want of room, and not by `remove`.
        self.overflowed = 0
        #: Bytes that its blocks take in memory, and on the disk.
        self.resident = self.spilled = 0
        #: No more bytes will come.
        self.closed = False
        #: The job waits for room, as the spill directory is full.
        self.waiting = False
        #: Who holds its memory within a budget.
        self.store = store
        #: What has moved to the disk.
        self.on_disk: SpilledBlocks | None = None
        self._blocks: list[Block] = []
        self._frozen = False  # the last block is being written to the disk, and takes no more
        self._latest = 0.0  # the time of the last append
        self._moving = False
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
        if self.store is not None and self.store.is_near(self):
            await self.store.make_room(self)

    def close(self) -> None:
        """Say that no more bytes will come."""
        self.closed = True
        self._ring()

    @property
    def spilled_end(self) -> int:
        """Where the disk's part ends and the memory's begins."""
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
            if block := self.block_in_memory(offset):
                return block
            assert self.on_disk is not None  # noqa: S101  # as the byte is nowhere else
            try:
                if block := self.on_disk.cached(offset):
                    return block
                if blocks := await self.on_disk.read(offset, offset + 1):
                    return blocks[0]
            except OSError as error:
                return self.unreadable(offset, error)

    def unreadable(self, offset: int, error: OSError) -> Missing:
        """Log that the block which holds a spilled byte cannot be read; return what of it is lost."""
        if gone := self.missing(offset):
            return gone
        if self.store is not None:
            self.store.tell_unreadable(error)
        assert self.on_disk is not None  # noqa: S101  # as the byte is nowhere else
        place = self.on_disk.place_of(offset)
        return Missing(offset, place.start + place.length - offset, GapReason.UNREADABLE)

    def block_in_memory(self, offset: int) -> Block | None:
        """The same, if it can be had at once."""
        if not self.spilled_end <= offset < self.size:
            return None
        if offset >= self._blocks[-1].start:
            return self._blocks[-1]
        return self._blocks[bisect_right(self._blocks, offset, key=lambda block: block.start) - 1]

    def block_at_hand(self, offset: int) -> Block | None:
        """The block that holds a byte which is not gone, if memory or the page cache has it."""
        if block := self.block_in_memory(offset):
            return block
        assert self.on_disk is not None  # noqa: S101  # as the byte is nowhere else
        try:
            return self.on_disk.cached(offset)
        except OSError:  # `block_at` will tell
            return None

    def start_of(self, when: float) -> int:
        """The offset of the last block that begins before a Unix time, or where the log begins."""
        if self._blocks and self._blocks[0].whens[0] < when:
            at = bisect_left(self._blocks, when, key=lambda block: block.whens[0]) - 1
            return self._blocks[at].start
        start = self.on_disk.start_of(when) if self.on_disk is not None else None
        return self.dropped if start is None else start

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

    # --- for worker.store and worker.mover alone

    async def spill(self, files: SpillFiles, room: int) -> bool:
        """Move the oldest blocks to the disk, some BATCH_BYTES of them; one task at a time may do that.

        Args:
            files: where to.
            room: the most bytes of the disk that it may take.

        Returns:
            Whether there was room.

        Raises:
            OSError: the files cannot be written to; the blocks stay in memory.
        """
        await trio.lowlevel.checkpoint()
        batch: list[Block] = []
        size = 0
        for block in self._blocks:
            grown = size + len(block.data) + RUN_BYTES * len(block.streams)
            if aligned(grown) > room or size >= BATCH_BYTES:
                break
            batch.append(block)
            size = grown
        if not batch:
            return not self._blocks
        if self.on_disk is None:
            self.on_disk = SpilledBlocks(files)
        on_disk = self.on_disk
        self._moving, self._frozen = True, batch[-1] is self._blocks[-1]
        try:
            grown = await on_disk.write(batch)
        except BaseException:  # a cancel too, which comes before anything is written
            self._frozen = False
            raise
        finally:
            self._moving = False
        if self.on_disk is on_disk:  # else it was removed meanwhile
            del self._blocks[: len(batch)]
            self._frozen = self._frozen and bool(self._blocks)
            self._account(-sum(block.cost for block in batch), grown)
        return True

    def drop(self) -> bool:
        """Give up the oldest bytes, some BATCH_BYTES of them; return whether there were any."""
        if self._moving:
            return False
        if self.on_disk:
            self.dropped, freed = self.on_disk.drop(BATCH_BYTES)
            self._account(0, -freed)
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
        self.overflowed = self.dropped
        self._ring()
        return True

    def remove(self) -> None:
        """Give up all of it, once its subscribers have what is there."""
        self._removed = True
        if not self._subscribers:
            self._discard()

    def _discard(self) -> None:
        self.dropped = self.size
        blocks, self._blocks = self._blocks, []
        if self.on_disk is not None:
            self.on_disk.close()
            self.on_disk = None
        self._account(-self.resident, -self.spilled)
        if self.store is not None:
            self.store.discard(blocks)

    def _account(self, resident: int, spilled: int) -> None:
        self.resident += resident
        self.spilled += spilled
        if self.store is not None:
            self.store.account(self, resident, spilled)
