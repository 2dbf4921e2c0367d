"""The thin adapter between a Connection and Trio: messages over a byte stream, TLS or WebSocket."""

from typing import TYPE_CHECKING, Protocol

import trio

from .connection import Connection, Event, Signal
from .frames import HEADER_BYTES, MAX_FRAME_BYTES, group_frames

if TYPE_CHECKING:
    from trio_websocket import WebSocketConnection

RECEIVE_BYTES = 256 * 1024
#: The largest WebSocket message: one frame of the largest size.
MAX_MESSAGE_BYTES = HEADER_BYTES + MAX_FRAME_BYTES
CLOSE_SECONDS = 2
#: Close codes that say the peer is done: normal, going away, and no code at all (browsers' ``close()``).
_ORDERLY = (1000, 1001, 1005)


class ByteStream(Protocol):
    """What a connection needs of its transport: the half of trio.abc.Stream that we use."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def aclose(self) -> None: ...


class WebSocketStream:
    """A byte stream over binary WebSocket messages; each carries whole frames, as PROTOCOL.md says.

    Raises what Trio's streams raise, so that nobody above needs to know which transport it is.

    Args:
        websocket: an open connection, made with ``max_message_size=MAX_MESSAGE_BYTES`` (the default
            of trio-websocket is less than a frame may have).
    """

    def __init__(self, websocket: "WebSocketConnection") -> None:
        self._websocket = websocket
        self._closed = False

    async def send_all(self, data: bytes) -> None:
        """Send whole frames, any number of them."""
        from trio_websocket import ConnectionClosed

        await trio.lowlevel.checkpoint()
        try:
            for message in group_frames(data, MAX_MESSAGE_BYTES):
                await self._websocket.send_message(message)
        except ConnectionClosed as error:
            raise self._gone("the WebSocket is closed") from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return one message, whatever its size, or ``b""`` after an orderly close."""
        del max_bytes  # a message comes whole; its size is bounded by the WebSocket layer
        from trio_websocket import ConnectionClosed

        await trio.lowlevel.checkpoint()
        try:
            # An empty message carries no frame; returned as it is, it would read as the end.
            while not (message := await self._websocket.get_message()):
                pass
        except ConnectionClosed as error:
            if not self._closed and error.reason is not None and error.reason.code in _ORDERLY:
                return b""
            raise self._gone("the WebSocket was cut") from error
        if isinstance(message, bytes):
            return message
        # The closing handshake needs the peer; who sends text may not answer that either.
        with trio.move_on_after(CLOSE_SECONDS):
            await self._websocket.aclose(1003, "only binary messages")
        raise trio.BrokenResourceError("a text message came over the WebSocket")

    async def aclose(self) -> None:
        """Close with the closing handshake, for which a stalled peer can make us wait: bound it."""
        self._closed = True
        await self._websocket.aclose()

    def _gone(self, reason: str) -> trio.BrokenResourceError | trio.ClosedResourceError:
        return trio.ClosedResourceError(reason) if self._closed else trio.BrokenResourceError(reason)


async def receive_event(stream: ByteStream, connection: Connection) -> Event:
    """Wait for the next message, or CLOSED.

    Raises:
        RemoteProtocolError: the peer broke the protocol.
        trio.BrokenResourceError: the connection was cut.
    """
    await trio.lowlevel.checkpoint()  # one read may bring thousands of messages
    while (event := connection.next_event()) is Signal.NEED_DATA:
        connection.receive_data(await stream.receive_some(RECEIVE_BYTES))
    return event
