"""Owns the Trio client's way to a server: TLS over TCP, and WebSocket inside it."""

import errno
import os
import ssl
from pathlib import Path
from typing import Protocol

import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

from wire.trio_stream import MAX_MESSAGE_BYTES, RECEIVE_BYTES, ByteStream, WebSocketStream

from .endpoint import WEBSOCKET_SUBPROTOCOL, Endpoint
from .errors import ClientError, ConnectError, CutError, TlsError
from .sockets import unreachable
from .transport import CONNECT_SECONDS, tls_context, tls_error


class Transport(Protocol):
    """Bytes to and from the server; what goes wrong is a ClientError.

    One task sends at a time, and one receives.
    """

    @property
    def heard_at(self) -> float:
        """When the server last sent anything, on Trio's clock."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes | bytearray:
        """Return some bytes, b"" at the end."""

    async def aclose(self) -> None: ...


async def connect(nursery: trio.Nursery, endpoint: Endpoint, certs: Path, identity: str) -> Transport:
    """Open a transport to a server.

    Args:
        nursery: where a WebSocket's own task runs, until the transport is closed.
        endpoint: the server.
        certs: the directory with ca.crt and the identity's certificate and key.
        identity: the stem of these files.

    Raises:
        CertificatesError: ours cannot be used.
        ConnectError, TlsError, CutError: there is no way to the server.
    """
    try:
        return await _connect(nursery, endpoint, certs, identity)
    except BaseExceptionGroup:
        # Where several tasks were at work, each was cancelled; callers are owed one bare Cancelled instead.
        await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120
        raise


async def _connect(nursery: trio.Nursery, endpoint: Endpoint, certs: Path, identity: str) -> Transport:
    context = tls_context(endpoint, certs, identity)
    tcp = await _connect_tcp(endpoint)
    try:
        tls = TlsStream(trio.SSLStream(tcp, context, server_hostname=endpoint.host), endpoint, identity)
        with trio.move_on_after(CONNECT_SECONDS):
            stream: ByteStream = tls
            await tls.do_handshake()
            if endpoint.websocket:
                stream = WebSocketStream(await nursery.start(_run_websocket, tls, endpoint))
                # A cancelled block closes the WebSocket too, for which its reader must live on.
                tls.above.shield = True
            return StreamTransport(stream, tls)
        tls.note(TimeoutError(errno.ETIMEDOUT, "timed out"))
        raise tls.explain()
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise


async def _connect_tcp(endpoint: Endpoint) -> trio.SocketStream:
    problem = OSError("timed out")
    try:
        with trio.move_on_after(CONNECT_SECONDS):
            return await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except OSError as error:
        # Trio tries every address and tells at length why each failed; the first one's number is enough.
        tried = error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else ()
        numbers = [each.errno for each in tried if isinstance(each, OSError) and each.errno]
        problem = OSError(numbers[0], os.strerror(numbers[0])) if numbers else error
    except ValueError:  # what IDNA says of a host that no name can be
        problem = OSError("no such name")
    raise ConnectError(unreachable(endpoint, problem)) from problem


class StreamTransport:
    """A Transport over a byte stream that is `tls`, or lies on it."""

    def __init__(self, stream: ByteStream, tls: "TlsStream") -> None:
        self._stream = stream
        self._tls = tls

    @property
    def heard_at(self) -> float:
        return self._tls.heard_at

    async def send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._tls.explain() from error

    async def receive(self) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._tls.explain() from error
        if not data and not self._tls.heard:
            raise self._tls.explain()
        return data

    async def aclose(self) -> None:
        """Close in order, for which a stalled peer can make us wait: bound it. Then the socket is closed."""
        async with self._tls:  # a WebSocket that the server has closed leaves what is below it open
            await self._stream.aclose()


class TlsStream(trio.abc.Stream):
    """TLS, which remembers why it ended: trio-websocket above it keeps that to itself.

    Until the first byte has come, the server may still refuse our certificate: its alert follows the
    handshake, which in TLS 1.3 a client finishes first.
    """

    def __init__(self, tls: trio.SSLStream[trio.SocketStream], endpoint: Endpoint, identity: str) -> None:
        self.heard = False
        self.heard_at = trio.current_time()
        #: Cancelled at the end: who waits in it for an answer will get none.
        self.answerable = trio.CancelScope()
        #: The scope of a WebSocket's own tasks, cancelled once this is closed.
        self.above = trio.CancelScope()
        self._tls = tls
        self._endpoint = endpoint
        self._identity = identity
        self._reason: BaseException | None = None

    async def do_handshake(self) -> None:
        try:
            await self._tls.do_handshake()
        except trio.BrokenResourceError as error:
            self.note(error)
            raise self.explain() from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._tls.send_all(data)
        except trio.BrokenResourceError as error:
            self.note(error)
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._tls.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._tls.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            self.note(error)
            raise
        if data:
            self.heard = True
            self.heard_at = trio.current_time()
        else:
            self.note(ssl.SSLZeroReturnError())
        return data

    async def aclose(self) -> None:
        self.answerable.cancel()
        try:
            await self._tls.aclose()
        finally:
            self.above.cancel()

    def note(self, reason: BaseException) -> None:
        """Remember why this ended; the first reason counts."""
        self._reason = self._reason or reason
        self.answerable.cancel()

    def explain(self) -> CutError | TlsError:
        """Say why this ended, to the user."""
        error = self._reason or ssl.SSLEOFError()
        if not self.heard:
            return tls_error(error, self._endpoint, self._identity)
        while not isinstance(error, OSError) and error.__cause__ is not None:
            error = error.__cause__
        # What OpenSSL says of a cut is no news to people.
        known = isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.strerror
        return CutError(f"The connection to {self._endpoint} was cut{f' ({known})' if known else ''}.")


async def _run_websocket(
    tls: TlsStream, endpoint: Endpoint, *, task_status: trio.TaskStatus[WebSocketConnection]
) -> None:
    """Shake hands, hand the WebSocket over with ``started``, and be home to its reader until it ends.

    Raises:
        ClientError: the handshake failed; nothing after that.
    """
    opened = False
    failure: ClientError | None = None
    try:
        async with trio.open_nursery() as tasks:
            tls.above = tasks.cancel_scope
            with tls.answerable:  # trio-websocket waits for an answer also after the connection's end
                websocket = await wrap_client_stream(
                    tasks,
                    tls,  # type: ignore[arg-type]  # it takes any Stream
                    str(endpoint),
                    "/",
                    subprotocols=[WEBSOCKET_SUBPROTOCOL],
                    max_message_size=MAX_MESSAGE_BYTES,
                    receive_buffer_size=RECEIVE_BYTES,
                )
                opened = websocket.subprotocol == WEBSOCKET_SUBPROTOCOL
                if opened:
                    task_status.started(websocket)
                else:
                    failure = ConnectError(
                        f"{endpoint} speaks WebSocket, but not our protocol: check --server."
                    )
            if not opened:
                tasks.cancel_scope.cancel()
    except* ConnectionRejected as rejections:
        for error in rejections.exceptions:
            status = getattr(error, "status_code", "unknown")
            failure = ConnectError(
                f"{endpoint} refuses our WebSocket (HTTP status {status}): check --server."
            )
    except* Exception as errors:  # noqa: BLE001  # no bug of its reader may end the caller's block
        # It dies of what it cannot answer, of h11's or wsproto's errors: garbage in place of HTTP, a ping
        # after our close. Its channel closes with it, which WebSocketStream takes for the cut that it is.
        tls.note(errors)
    if opened:
        return  # noqa: ASYNC910  # opening it took a while
    if failure is None and tls.heard:
        failure = ConnectError(f"{endpoint} does not answer as a WebSocket: check --server.")
    raise failure or tls.explain()
