"""Owns how a client's messages are taken in: one at a time, large frames in turns and few at once.

A frame costs memory while it comes in, and time when it is decoded. 256 connections of one Admin could hold a
gigabyte of frames whose last byte never comes. So of one identity, so many connections at a time are read
beyond the beginning of a large frame; the others wait, and their clients are held up by TCP. A client that
stops within such a frame is cut, or a few of them would hold up the rest of their identity for good.
"""

from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import trio

from wire.connection import Connection, Event, Signal
from wire.trio_stream import RECEIVE_BYTES, ByteStream

from .bounds import SMALL_FRAME_BYTES

#: A larger frame is decoded in a turn, in bytes: it takes up to 50 ms.
DECODE_BYTES = 16 * 1024
#: Connections of one identity that may hold a frame of more than SMALL_FRAME_BYTES at a time.
LARGE_FRAMES = 8


class LargeFrames:
    """Who may take in a large frame: so many connections of each identity."""

    def __init__(self) -> None:
        self._limiters: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()

    def of(self, principal: str) -> trio.CapacityLimiter:
        """What bounds them for one identity, for as long as anybody has it."""
        limiter = self._limiters.get(principal)
        if limiter is None:
            limiter = self._limiters[principal] = trio.CapacityLimiter(LARGE_FRAMES)
        return limiter


class Intake:
    """What comes in on one connection.

    Args:
        stream: where it comes from.
        connection: what it means.
        turn: waits for the identity's turn to do what is costly.
        large: bounds how many of the identity's connections hold a large frame.
        stall: seconds after which a client is cut that has begun a large frame and sends nothing of it.
    """

    def __init__(
        self,
        stream: ByteStream,
        connection: Connection,
        turn: Callable[[], Awaitable[None]],
        large: trio.CapacityLimiter,
        stall: float,
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._turn = turn
        self._large = large
        self._stall = stall

    async def next_event(self) -> Event:
        """Wait for the next message, or CLOSED.

        Raises:
            RemoteProtocolError: the client broke the protocol.
            trio.BrokenResourceError: the connection was cut.
        """
        await trio.lowlevel.checkpoint()  # one read may bring thousands of messages
        while True:
            if self._connection.announced_bytes <= SMALL_FRAME_BYTES:
                event = await self._go_on()
            else:
                async with self._large:
                    while (event := await self._go_on(self._stall)) is Signal.NEED_DATA:
                        pass
                    await self._turn()  # to look into it costs as much again
            if event is Signal.DROPPED:
                await trio.lowlevel.checkpoint()
            elif event is not Signal.NEED_DATA:
                return event

    async def _go_on(self, patience: float | None = None) -> Event:
        """Decode a frame, or receive more of it, for which the client has so many seconds."""
        connection = self._connection
        if DECODE_BYTES < connection.announced_bytes <= connection.buffered_bytes:
            await self._turn()
        event = connection.next_event()
        if event is Signal.NEED_DATA:
            if patience is None:
                connection.receive_data(await self._stream.receive_some(RECEIVE_BYTES))
                return event
            with trio.move_on_after(patience) as scope:
                connection.receive_data(await self._stream.receive_some(RECEIVE_BYTES))
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("the client stopped within a large frame")
        return event  # noqa: ASYNC910  # `next_event` checkpoints
