"""Owns the blocking client's transports: TLS over a socket, and WebSocket inside it (wsproto, sans-IO).

The socket never blocks. All waiting is done in `sockets.Waiter`, which tells a time-out by its value, so that
a TimeoutError which a signal handler of the caller's raises is never taken for one.
"""

import contextlib
import errno
import select
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from certs.contexts import ALPN_HTTP, ALPN_NATIVE, client_context
from certs.errors import ContextError
from certs.refusals import plain, refusal

from .endpoint import WEBSOCKET_SUBPROTOCOL, Endpoint
from .errors import CertificatesError, ConnectError, CutError, TlsError, WorkerServiceError
from .interruption import attempt, interruption
from .sockets import Waiter, connect_tcp

if TYPE_CHECKING:
    from wsproto.events import Event

CONNECT_SECONDS = 10.0
RECEIVE_BYTES = 256 * 1024


class Transport(Protocol):
    """Bytes to and from the server."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes | None:
        """Return what has come, b"" at the end, None if nothing has; it does not wait."""

    def wait(self, timeout: float) -> bool:
        """Wait until there may be something to receive; False after ``timeout`` seconds without.

        Whatever a signal handler raises meanwhile leaves the transport as it was.
        """

    def has_room(self) -> bool:
        """Whether some hundred bytes can be sent without waiting."""

    def close(self) -> None:
        """Close it, without waiting for anybody."""


def connect(endpoint: Endpoint, certs: Path, identity: str) -> Transport:
    """Open a transport to a server.

    Raises:
        CertificatesError: ours cannot be used.
        ConnectError, TlsError: there is no way to the server.
    """
    before = sys.exc_info()[1]
    try:
        return _connect(endpoint, certs, identity)
    except WorkerServiceError as error:
        if (struck := interruption(error, before)) is not None:
            raise struck  # noqa: B904  # it is what happened
        raise


def _connect(endpoint: Endpoint, certs: Path, identity: str) -> Transport:
    context = tls_context(endpoint, certs, identity)
    opened = tcp = connect_tcp(endpoint, CONNECT_SECONDS)
    try:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Without the suppression that is its default, a cut raises, and is not taken for the server's end.
        # Once wrapped, the connection is no longer tcp's to close.
        opened = secure = context.wrap_socket(
            tcp, server_hostname=endpoint.host, suppress_ragged_eofs=False, do_handshake_on_connect=False
        )
        tls = TlsTransport(secure, endpoint, identity)
        tls.shake_hands()
        return WebSocketTransport(tls, endpoint) if endpoint.websocket else tls
    except OSError as error:
        opened.close()
        raise tls_error(error, endpoint, identity) from error
    except BaseException:
        opened.close()
        raise


class TlsTransport:
    """Bytes over TLS.

    Until the first byte has come, the server may still refuse our certificate: its alert follows the
    handshake, which in TLS 1.3 a client finishes first.
    """

    def __init__(self, tls: ssl.SSLSocket, endpoint: Endpoint, identity: str) -> None:
        self._tls = tls
        self._waiter = Waiter(tls)
        self._endpoint = endpoint
        self._identity = identity
        self._heard = False
        self._closing = False
        self._sending = False  # and what has been sent is no whole message

    def shake_hands(self) -> None:
        """Raise TlsError if that fails, or takes too long."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while (error := attempt(self._tls.do_handshake)) is not None:
            if (events := _wanted(error)) is None:
                raise tls_error(error, self._endpoint, self._identity) from error
            if not self._waiter.wait(events, deadline - time.monotonic()):
                raise self.silent()

    def silent(self) -> TlsError:
        """What to say of a server that does not answer in the time that connecting may take."""
        return tls_error(TimeoutError(errno.ETIMEDOUT, "timed out"), self._endpoint, self._identity)

    def send(self, data: bytes) -> None:
        self._sending = True
        rest = memoryview(data)
        while rest:
            sent = attempt(self._tls.send, rest)
            if not isinstance(sent, OSError):
                rest = rest[sent:]
            elif (events := _wanted(sent)) is not None:
                self._waiter.wait(events, None)
            else:
                if not self._heard and self.wait(CONNECT_SECONDS):
                    self.receive()  # its alert, which says more, may be waiting
                raise self._explain(sent) from sent
        self._sending = False

    def receive(self) -> bytes | None:
        data = attempt(self._tls.recv, RECEIVE_BYTES)
        if isinstance(data, OSError):
            if _wanted(data) is not None:
                return None
            raise self._explain(data) from data
        if not data and not self._heard:
            raise self._explain(ssl.SSLEOFError())
        self._heard = True
        return data

    def wait(self, timeout: float) -> bool:
        return self._waiter.wait(select.POLLIN, timeout)

    def has_room(self) -> bool:
        return self._waiter.wait(select.POLLOUT, 0)

    def close(self, last: bytes = b"") -> None:
        """Close it; say goodbye (``last``, and close_notify) as far as that needs no waiting."""
        try:
            if not self._closing and not self._sending:
                self._closing = True
                if last:
                    attempt(self._tls.send, last)
                attempt(self._tls.unwrap)
        finally:
            self._tls.close()

    def _explain(self, error: OSError) -> CutError | TlsError:
        if self._heard:
            return CutError(f"The connection to {self._endpoint} was cut ({plain(error)}).")
        return tls_error(error, self._endpoint, self._identity)


def _wanted(error: OSError) -> int | None:
    """The event of poll(2) that OpenSSL waits for; None if it is a failure."""
    if isinstance(error, ssl.SSLWantReadError):
        return select.POLLIN
    return select.POLLOUT if isinstance(error, ssl.SSLWantWriteError) else None


class WebSocketTransport:
    """Bytes over binary WebSocket messages."""

    def __init__(self, below: TlsTransport, endpoint: Endpoint) -> None:
        # Imported here: the command line loads it only for wss://.
        from wsproto import WSConnection
        from wsproto.connection import ConnectionType
        from wsproto.events import AcceptConnection, RejectConnection, RejectData, Request

        self._below = below
        self._endpoint = endpoint
        self._websocket: WSConnection = WSConnection(ConnectionType.CLIENT)
        self._buffer = bytearray()
        self._ended = False
        accepted = False
        request = Request(host=str(endpoint), target="/", subprotocols=[WEBSOCKET_SUBPROTOCOL])
        below.send(self._websocket.send(request))
        rejected = None
        deadline = time.monotonic() + CONNECT_SECONDS
        while not accepted:
            if (events := self._events()) is None and not below.wait(deadline - time.monotonic()):
                raise below.silent()
            for event in events or ():
                match event:
                    case AcceptConnection(subprotocol=subprotocol):
                        if subprotocol != WEBSOCKET_SUBPROTOCOL:
                            raise ConnectError(
                                f"{endpoint} speaks WebSocket, but not our protocol: check --server."
                            )
                        accepted = True
                    case RejectConnection(status_code=status, has_body=has_body):
                        rejected = f"{endpoint} refuses our WebSocket (HTTP status {status}): check --server."
                        if not has_body:
                            raise ConnectError(rejected)
                    case RejectData(body_finished=True):
                        raise ConnectError(rejected or "")
                    case _:
                        self._take(event)  # the first messages may come along with the acceptance

    def send(self, data: bytes) -> None:
        from wsproto.events import BytesMessage
        from wsproto.utilities import LocalProtocolError

        try:
            message = self._websocket.send(BytesMessage(data))
        except LocalProtocolError as error:
            raise CutError(f"{self._endpoint} has closed the connection.") from error
        self._below.send(message)

    def receive(self) -> bytes | None:
        while not self._buffer and not self._ended:
            if (events := self._events()) is None:
                return None
            for event in events:
                self._take(event)
        data, self._buffer = bytes(self._buffer), bytearray()
        return data

    def wait(self, timeout: float) -> bool:
        return self._below.wait(timeout)

    def has_room(self) -> bool:
        return self._below.has_room()

    def _take(self, event: "Event") -> None:
        from wsproto.events import BytesMessage, CloseConnection, Ping

        match event:
            case BytesMessage(data=data):
                self._buffer += data
            case Ping():
                self._below.send(self._websocket.send(event.response()))
            case CloseConnection():
                self._ended = True
                with contextlib.suppress(CutError):
                    self._below.send(self._websocket.send(event.response()))
            case _:
                pass

    def close(self) -> None:
        from wsproto.events import CloseConnection
        from wsproto.utilities import LocalProtocolError

        last = b""
        try:
            with contextlib.suppress(LocalProtocolError):
                last = self._websocket.send(CloseConnection(code=1000))
        finally:
            self._below.close(last)

    def _events(self) -> "list[Event] | None":
        """What has come, if anything has."""
        from wsproto.utilities import RemoteProtocolError

        data = self._below.receive()
        if data is None:
            return None
        if not data:
            raise CutError(f"The connection to {self._endpoint} was cut.")
        try:
            self._websocket.receive_data(data)
            return list(self._websocket.events())
        except RemoteProtocolError as error:
            raise ConnectError(f"{self._endpoint} does not answer as a WebSocket: check --server.") from error


def tls_context(endpoint: Endpoint, certs: Path, identity: str) -> ssl.SSLContext:
    """Our side of TLS.

    Raises:
        CertificatesError: they cannot be used.
    """
    try:
        alpn = ALPN_HTTP if endpoint.websocket else ALPN_NATIVE
        return client_context(certs, identity, alpn=alpn, here=endpoint.is_here)
    except ContextError as error:
        raise CertificatesError(*error.args) from error.__cause__


def tls_error(error: BaseException, endpoint: Endpoint, identity: str) -> TlsError:
    """Say why TLS failed, and whether it may have been no more than a cut."""
    sentence = refusal(error, identity=identity, server=str(endpoint))
    while not isinstance(error, OSError) and error.__cause__ is not None:
        error = error.__cause__
    cut = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError | TimeoutError)
    return TlsError(sentence[:1].upper() + sentence[1:], cut=cut)
