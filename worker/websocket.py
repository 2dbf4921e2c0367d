"""Owns the server's end of a WebSocket: the upgrade, and messages as a byte stream (wire/PROTOCOL.md).

Theory of operation. It is wsproto's state machine over a stream, with no task of its own. Events are taken
one each time the event loop comes round, and of a message only its bytes are kept: fragments or pings by
the million cost neither memory nor others their turn. Two tasks may send: the session's writer its
messages, the reader pongs and the answer to a close. A lock orders them. While the writer has it, only the
newest ping is remembered, and the writer answers it (RFC 6455, section 5.5.3). The reader's own sends are
shielded, for a bounded time, as a send that is cancelled half-way would ruin the stream.
"""

from contextlib import suppress
from typing import Final

import trio
import wsproto
import wsproto.events
from wsproto.connection import ConnectionState
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from wire.frames import group_frames
from wire.trio_stream import CLOSE_SECONDS, MAX_MESSAGE_BYTES, RECEIVE_BYTES

SUBPROTOCOL: Final = "worker.v1.msgpack"
#: Close codes that say the peer is done: normal, going away, and no code at all (browsers' ``close()``).
_ORDERLY: Final = (1000, 1001, 1005)
_TOO_BIG, _NOT_BINARY = 1009, 1003


class ServerWebSocket:
    """A byte stream over binary WebSocket messages. Raises what Trio's streams raise.

    Args:
        stream: the client's connection, already secured.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self._sending = trio.Lock()
        self._message_bytes = 0  # of the message that is coming in
        self._ping: wsproto.events.Ping | None = None  # to be answered by whoever sends
        self._ended = False
        self._left = False  # the client has closed: it reads nothing more
        #: Why the client's request was refused, once it was.
        self.refusal = "it opened no WebSocket"

    async def upgrade(self) -> bool:
        """Wait for the client's request and accept it, or refuse it and return False."""
        while True:
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                return False
            reply: wsproto.events.Event | None = None
            body = b""
            try:
                self._protocol.receive_data(bytes(data))
            except RemoteProtocolError as error:
                reply = error.event_hint
            except UnicodeError:  # wsproto decodes some headers and lets this pass
                reply = wsproto.events.RejectConnection()
            else:
                request = next(self._protocol.events(), None)
                if request is None:
                    continue
                if isinstance(request, wsproto.events.Request):
                    reply, body = _judge(request)
            if reply is not None:
                with suppress(LocalProtocolError):  # no answer fits to what came
                    answer = self._protocol.send(reply)
                    if body:
                        self.refusal = body.decode().strip()
                        answer += self._protocol.send(wsproto.events.RejectData(body))
                    await self._stream.send_all(answer)
            return isinstance(reply, wsproto.events.AcceptConnection)

    async def send_all(self, data: bytes) -> None:
        """Send whole frames, any number of them; what the client has not got when it closes is dropped."""
        await trio.lowlevel.checkpoint()
        for message in group_frames(data, MAX_MESSAGE_BYTES):
            await self._send(wsproto.events.BytesMessage(message))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come of a message, or ``b""`` after an orderly close."""
        del max_bytes  # a piece is at most what was read at a time
        while not self._ended:
            event = await self._next_event()
            match event:
                case wsproto.events.BytesMessage(data=data, message_finished=finished):
                    self._message_bytes += len(data)
                    if self._message_bytes > MAX_MESSAGE_BYTES:
                        raise await self._fail(_TOO_BIG, f"a message holds at most {MAX_MESSAGE_BYTES} bytes")
                    if finished:
                        self._message_bytes = 0
                    if data:  # an empty piece would read as the end
                        return bytes(data)
                case wsproto.events.TextMessage():
                    raise await self._fail(_NOT_BINARY, "only binary messages")
                case wsproto.events.Ping() as ping:
                    self._ping = ping
                    if not self._sending.locked():
                        await self._answer(None)
                case wsproto.events.CloseConnection() as close:
                    if self._protocol.state is not ConnectionState.REMOTE_CLOSING:
                        raise await self._fail(close.code, close.reason or "the client broke the protocol")
                    self._ended = self._left = True
                    self._ping = None
                    await self._answer(close.response())
                    if close.code not in _ORDERLY:
                        raise trio.BrokenResourceError(f"the WebSocket was closed with {int(close.code)}")
                case None:
                    raise trio.BrokenResourceError("the WebSocket was cut")
        await trio.lowlevel.checkpoint()
        return b""

    async def aclose(self) -> None:
        """Close with the closing handshake, for which a stalled peer can make us wait: bound it."""
        try:
            if not self._ended:
                self._ended = True
                self._ping = None
                await self._send(wsproto.events.CloseConnection(1000))
                while (event := await self._next_event()) is not None:
                    if isinstance(event, wsproto.events.CloseConnection):
                        break
        finally:
            await self._stream.aclose()

    async def _next_event(self) -> wsproto.events.Event | None:
        """The next event; None once the client's bytes have ended."""
        await trio.lowlevel.checkpoint()
        while (event := next(self._protocol.events(), None)) is None:
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                return None
            self._protocol.receive_data(bytes(data))
        return event

    async def _send(self, event: wsproto.events.Event | None) -> None:
        async with self._sending:
            if event is not None and not (self._left and isinstance(event, wsproto.events.Message)):
                await self._stream.send_all(self._encode(event))
            while (ping := self._ping) is not None:
                self._ping = None
                await self._stream.send_all(self._encode(ping.response()))

    def _encode(self, event: wsproto.events.Event) -> bytes:
        try:
            return self._protocol.send(event)
        except LocalProtocolError as error:  # there is a close on its way, in one direction or the other
            raise trio.BrokenResourceError("the WebSocket is closing") from error

    async def _answer(self, event: wsproto.events.Event | None) -> None:
        """Send what is no message, as the reader."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True) as scope:
            await self._send(event)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client takes no answers")

    async def _fail(self, code: int, reason: str) -> trio.BrokenResourceError:
        """Tell the client what it did wrong, and return that as an error."""
        await trio.lowlevel.checkpoint()
        self._ended = True
        with suppress(trio.BrokenResourceError):
            await self._answer(wsproto.events.CloseConnection(code, reason))
        return trio.BrokenResourceError(f"the WebSocket failed: {reason}")


def _judge(request: wsproto.events.Request) -> tuple[wsproto.events.Event, bytes]:
    """Accept a WebSocket that speaks our subprotocol; say no to any other, and to other sites' pages.

    A browser sends its user's certificate to whoever asks, so a page of another origin must not reach
    the server in its user's name.
    """
    headers = {name.lower(): value for name, value in request.extra_headers}
    origin = headers.get(b"origin")
    if origin is not None and origin.lower() != b"https://" + request.host.lower().encode():
        return _rejection(403, b"Pages of another origin may not use this server.\n")
    if request.target != "/":
        return _rejection(404, b"There is nothing here; the WebSocket is at /.\n")
    if SUBPROTOCOL not in request.subprotocols:
        return _rejection(400, f"Ask for the WebSocket subprotocol {SUBPROTOCOL}.\n".encode())
    return wsproto.events.AcceptConnection(subprotocol=SUBPROTOCOL), b""


def _rejection(status: int, body: bytes) -> tuple[wsproto.events.Event, bytes]:
    length = [(b"content-length", str(len(body)).encode())]
    return wsproto.events.RejectConnection(status_code=status, headers=length, has_body=True), body
