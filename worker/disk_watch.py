"""Owns what is told of a disk that hangs: an operation that takes long is in the log while it does.

Who waits for a disk cannot tell, and nobody else knows. So each operation is timed in its thread, and as long
as there are any, a task looks at the oldest from time to time.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from .tally import Tally
from .threads import run_in_thread

#: An operation that takes longer is told, in seconds.
SLOW_SECONDS = 5.0
T = TypeVar("T")


class DiskWatch:
    """Watches operations.

    Args:
        slow: where they are told that take long; None for nowhere.
    """

    def __init__(self, slow: Tally | None = None) -> None:
        self._slow = slow
        #: Where it is watched; None for not at all.
        self.nursery: trio.Nursery | None = None
        self._count = 0  # operations, those included that wait for a thread
        self._idle = trio.Event()
        self._runs = False
        self._under_way: dict[object, tuple[float, str]] = {}  # when each began in its thread

    async def run(self, name: str, work: Callable[[], T], limiter: trio.CapacityLimiter | None) -> T:
        """As `run_in_thread`.

        Args:
            name: what it is, for the log.
            work: what waits for the disk.
            limiter: bounds how many there are at a time.
        """
        self._count += 1
        if self._slow is not None and self.nursery is not None and not self._runs:
            self._runs = True
            self.nursery.start_soon(self._watch, self._slow)
        try:
            return await run_in_thread(partial(self._timed, name, work), limiter=limiter)
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    def _timed(self, name: str, work: Callable[[], T]) -> T:
        mark = object()
        self._under_way[mark] = time.monotonic(), name
        try:
            return work()
        finally:
            del self._under_way[mark]

    async def _watch(self, slow: Tally) -> None:  # noqa: ASYNC910  # a task, not called
        try:
            while self._count:
                self._idle = trio.Event()
                with trio.move_on_after(SLOW_SECONDS):
                    await self._idle.wait()
                if oldest := min(tuple(self._under_way.values()), default=None):
                    seconds = time.monotonic() - oldest[0]
                    if seconds >= SLOW_SECONDS:
                        slow.add(operation=oldest[1], seconds=round(seconds, 1))
        finally:
            self._runs = False
