"""Owns a bound on how many do something at once, where those that wait get in by rotation between sources.

A queue would make whoever asks for one thing wait for all that others have asked for before.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from .line import Line


class Slots:
    """So many at once.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: Line[trio.Event] = Line()

    async def acquire(self, source: str, *, ahead: bool = False) -> None:  # noqa: ASYNC910  # see below
        """Wait for a slot and take it. A free one is taken without letting a round of the loop pass.

        Args:
            source: who asks: sources get slots in rotation, however many each of them waits for.
            ahead: whether to rank before whoever only begins.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._free:
            self._free -= 1
            return
        come = trio.Event()
        self._line.join(source, come, ahead=ahead)
        try:
            await come.wait()
        except BaseException:
            if come.is_set():
                self.release()
            else:
                self._line.leave(source, come)
            raise

    def release(self) -> None:
        """Give a slot back: to whose turn it is, if anybody waits."""
        if (come := self._line.next()) is not None:
            come.set()
        else:
            self._free += 1

    @asynccontextmanager
    async def hold(self, source: str, *, ahead: bool = False) -> AsyncIterator[None]:
        """Hold a slot, see `acquire`."""
        await self.acquire(source, ahead=ahead)
        try:
            yield
        finally:
            self.release()
