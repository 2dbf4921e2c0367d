"""Owns the one task that moves output to the disk, for the whole store, and gives back what was removed.

Theory of operation. Many pumps want room at the same time. If each of them moved output itself, they would
queue for the disk, and find at their turn that the room which they made had gone to others. So there is one
mover. It takes one step after another: it gives back some of what was removed, and moves one batch of the log
that `OutputStore.victim` names. After each step it sets an event, on which everybody waits that wants room.

A step moves bytes, or there is no room for them on the disk. Then, if somebody waits for room in memory, the
operator's policy decides: the oldest goes (``drop``), or all wait until something is freed, and the mover
looks again after RETRY_SECONDS, as others use the disk too (``block``). It does that too when the disk fails,
or there is no thread. If nobody waits, it ends, and is not started again for that long. With
nothing to do there is no task at all.

Without a nursery (`OutputStore.work_ahead`), whoever wants room takes the steps, one at a time.
"""

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .allocator import give_back
from .blocks import Block
from .log import Log
from .spill import SpillFiles

if TYPE_CHECKING:
    from .output import OutputLog
    from .store import OutputStore

#: After so long, in seconds, a full disk is tried again.
RETRY_SECONDS = 1.0
#: Errors which say that a disk is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: So many blocks of removed output are freed in one step, and after so many bytes of it, the memory of the
#: process is given back to the system: seldom, but each time is short.
FREE_BLOCKS, TRIM_BYTES = 64, 16 * 1024 * 1024


class Mover:
    """The mover of a store.

    Args:
        store: whose output; it says what is to be moved.
        files: where to.
        log: where a failure of ours is told.
    """

    def __init__(self, store: "OutputStore", files: SpillFiles, log: Log) -> None:
        self._store = store
        self._files = files
        self._log = log
        #: Where it runs; None if whoever wants room has to `step`.
        self.nursery: trio.Nursery | None = None
        #: Set, and replaced, after each step, and whenever something was freed.
        self.news = trio.Event()
        #: Somebody waits for room, and the disk has none.
        self.stuck = False
        self._runs = False  # in the nursery
        self._steps = False  # a step is under way
        self._not_before = float("-inf")  # by Trio's clock: there was no room a moment ago, and nobody waits
        self._garbage: list[Block] = []
        self._untrimmed = 0  # bytes that were freed since memory was last given back to the system

    def tell(self) -> None:
        """Wake all who wait for news."""
        self.news.set()
        self.news = trio.Event()

    def discard(self, blocks: list[Block]) -> None:
        """Free blocks that no log has any more, step by step: to free a gigabyte takes its time."""
        if self.nursery is not None:
            self._garbage += blocks
        self.wake()

    def wake(self) -> None:
        """See to it that what there is to do is done, by a task of its own if there can be one."""
        if self.nursery is None or self._runs:
            return
        if self._has_work:
            self._runs = True
            self.nursery.start_soon(self._run)

    @property
    def _has_work(self) -> bool:
        return self._is_untidy or self._may_move

    @property
    def _is_untidy(self) -> bool:
        return bool(self._garbage) or self._files.has_released

    @property
    def _may_move(self) -> bool:
        store = self._store
        return store.is_pressed and (store.is_wanted or trio.current_time() >= self._not_before)

    async def _run(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            while self._has_work:
                try:
                    await self.step()
                except Exception:  # noqa: BLE001  # a bug here must not end the server
                    self._log.exception("output could not be moved")
                    await trio.sleep(RETRY_SECONDS)
            if not self._store.is_pressed:
                self._store.tell_room()
        finally:
            self._runs = False

    async def step(self) -> None:
        """Take one step; if another task takes one, wait for its end instead."""
        if self._steps:
            await self.news.wait()
            return
        self._steps = True
        try:
            await self._tidy()
            if self._may_move:
                await self._move(self._store.victim())
        finally:
            self._steps = False
            self.tell()

    async def _move(self, victim: "OutputLog") -> None:
        await trio.lowlevel.checkpoint()
        full = True
        try:
            if await victim.spill(self._files, self._store.room):
                self.stuck = False
                return
            reason = "the cap is reached"
        except OSError as error:
            reason, full = str(error.strerror), error.errno in NO_ROOM
        if not self._store.is_wanted:
            self._not_before = trio.current_time() + RETRY_SECONDS
        elif self._store.drop_for_want(victim, reason, full=full):
            await self._files.reclaim()
        else:
            self.stuck = True
            self._store.mark_waiting()
            with trio.move_on_after(RETRY_SECONDS):
                await self.news.wait()

    async def _tidy(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._is_untidy:
            return
        self._untrimmed += sum(block.cost for block in self._garbage[-FREE_BLOCKS:])
        del self._garbage[-FREE_BLOCKS:]
        self._untrimmed += await self._files.reclaim()
        if self._untrimmed >= TRIM_BYTES:
            self._untrimmed = 0
            with suppress(OSError):  # there is no thread for it
                await self._files.in_thread(give_back)
