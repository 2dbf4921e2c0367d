"""Owns an event that thousands may wait for: it wakes them some at a time."""

import trio

#: Tasks that are woken in one round of the event loop. Each does some 50 µs of work with what it waited for.
SLICE = 64


class GradualEvent:
    """As `trio.Event`, but a round of the loop wakes at most SLICE of those that wait.

    Everybody who is woken wakes one more, so that it needs no task of its own. A task that is cancelled while
    it waits is no longer among those that wait, and one that is woken goes on here before anything else.
    """

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting = trio.lowlevel.ParkingLot()

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._is_set

    def set(self) -> None:
        """Let everybody go on who waits, or will."""
        if not self._is_set:
            self._is_set = True
            self._waiting.unpark(count=SLICE)

    async def wait(self) -> None:
        """Wait until `set` was called."""
        if self._is_set:
            await trio.lowlevel.checkpoint()
            return
        await self._waiting.park()
        self._waiting.unpark()
