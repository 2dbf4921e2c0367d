"""Owns what waits to be sent on one connection, and the only task that sends.

Messages wait in one buffer, and the writer takes all of it at a time: so small ones coalesce under load and
go out at once when idle, and no cancelled request leaves half a frame on the wire.
"""

from collections.abc import Callable
from typing import Any

import trio

from wire.trio_stream import ByteStream


class StalledError(trio.BrokenResourceError):
    """The peer took nothing for too long."""

    def __init__(self) -> None:
        super().__init__("the client took nothing for too long")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), self.__dict__


class Outbox:
    """What waits to be sent.

    Args:
        stream: where it goes.
        stall: seconds after which a peer that takes nothing is given up.
        acknowledged: tells how many bytes the peer's host has acknowledged so far.
    """

    __slots__ = (
        "_acknowledged", "_busy", "_ended", "_filled", "_room", "_sending", "_stall", "_stream", "_waiting",
        "size",
    )  # fmt: skip

    def __init__(self, stream: ByteStream, stall: float, acknowledged: Callable[[], int]) -> None:
        #: Bytes that wait for the writer.
        self.size = 0
        self._stream = stream
        self._stall = stall
        self._acknowledged = acknowledged
        self._waiting: list[bytes] = []
        self._room = trio.lowlevel.ParkingLot()
        self._filled = trio.Event()
        self._busy = trio.Event()
        self._sending: trio.CancelScope | None = None  # of the send under way
        self._ended = False

    def has_room(self, most: int) -> bool:
        """Whether fewer than ``most`` bytes wait for the writer."""
        return self.size < most

    async def room(self, most: int) -> None:
        """Wait until fewer than ``most`` bytes wait for the writer."""
        await trio.lowlevel.checkpoint()
        while not self.has_room(most):
            await self._room.park()

    def put(self, data: bytes) -> None:
        """Have some bytes sent."""
        self._waiting.append(data)
        self.size += len(data)
        self._filled.set()

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self.size = 0

    def end(self) -> None:
        """Let the writer end once all is sent."""
        self._ended = True
        self._filled.set()

    async def run(self) -> None:
        """Send what there is, until the end.

        Raises:
            StalledError: the peer took nothing for too long.
            trio.BrokenResourceError: the connection was cut.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await self._send_all()
            nursery.cancel_scope.cancel()

    async def _send_all(self) -> None:
        while True:
            await self._filled.wait()
            if not self._waiting:
                return
            data = b"".join(self._waiting)
            self.clear()
            if not self._ended:
                self._filled = trio.Event()
            self._room.unpark_all()
            with trio.CancelScope() as self._sending:
                self._busy.set()
                await self._stream.send_all(data)
            if self._sending.cancelled_caught:
                raise StalledError
            self._sending = None

    async def _watch(self) -> None:
        """Give the peer up once it has acknowledged nothing of a send for `stall` seconds."""
        while True:
            await self._busy.wait()
            self._busy = trio.Event()
            sending, before = self._sending, self._acknowledged()
            await trio.sleep(self._stall)
            if self._sending is not None:
                if self._sending is sending and self._acknowledged() == before:
                    sending.cancel()
                self._busy.set()
