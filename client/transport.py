"""Owns the blocking client's transports: TLS over a socket, and WebSocket inside it (wsproto, sans-IO)."""

import contextlib
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from certs.contexts import ALPN_HTTP, ALPN_NATIVE, client_context
from certs.errors import ContextError
from certs.refusals import refusal

from .endpoint import WEBSOCKET_SUBPROTOCOL, Endpoint
from .errors import CertificatesError, ConnectError, CutError, TlsError

if TYPE_CHECKING:
    from wsproto.events import Event

CONNECT_SECONDS = 10.0
RECEIVE_BYTES = 256 * 1024


class Transport(Protocol):
    """Bytes to and from the server."""

    def send(self, data: bytes) -> None: ...

    def receive(self, timeout: float | None) -> bytes:
        """Return some bytes, b"" at the end; TimeoutError after ``timeout`` seconds of silence."""

    def close(self) -> None: ...


def connect(endpoint: Endpoint, certs: Path, identity: str) -> Transport:
    """Open a transport to a server.

    Raises:
        CertificatesError: ours cannot be used.
        ConnectError, TlsError: there is no way to the server.
    """
    context = tls_context(endpoint, certs, identity)
    try:
        tcp = socket.create_connection((endpoint.host, endpoint.port), CONNECT_SECONDS)
    except OSError as error:
        raise ConnectError(unreachable(endpoint, error)) from error
    except ValueError as error:  # what IDNA says of a host that no name can be
        raise ConnectError(unreachable(endpoint, OSError("no such name"))) from error
    opened = tcp
    try:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Without the suppression that is its default, a cut raises, and is not taken for the server's end.
        # Once wrapped, the connection is no longer tcp's to close.
        opened = secure = context.wrap_socket(tcp, server_hostname=endpoint.host, suppress_ragged_eofs=False)
        tls = TlsTransport(secure, endpoint, identity)
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
        self._endpoint = endpoint
        self._identity = identity
        self._heard = False

    def send(self, data: bytes) -> None:
        try:
            self._tls.settimeout(None)
            self._tls.sendall(data)
        except OSError as error:
            if not self._heard:
                self.receive(CONNECT_SECONDS)  # its alert, which says more, may be waiting
            raise self._explain(error) from error

    def receive(self, timeout: float | None) -> bytes:
        try:
            self._tls.settimeout(timeout)
            data = self._tls.recv(RECEIVE_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._explain(error) from error
        if not data and not self._heard:
            raise self._explain(ssl.SSLEOFError())
        self._heard = True
        return data

    def close(self) -> None:
        # Say goodbye (close_notify), without waiting for the server to say it too.
        with contextlib.suppress(OSError, ValueError):
            self._tls.settimeout(0)
            self._tls.unwrap()
        self._tls.close()

    def _explain(self, error: OSError) -> CutError | TlsError:
        if self._heard:
            return CutError(f"The connection to {self._endpoint} was cut ({error.strerror or error}).")
        return tls_error(error, self._endpoint, self._identity)


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
        while not accepted:
            for event in self._events(CONNECT_SECONDS):
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

    def receive(self, timeout: float | None) -> bytes:
        while not self._buffer and not self._ended:
            for event in self._events(timeout):
                self._take(event)
        data, self._buffer = bytes(self._buffer), bytearray()
        return data

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

        with contextlib.suppress(CutError, LocalProtocolError):
            self._below.send(self._websocket.send(CloseConnection(code=1000)))
        self._below.close()

    def _events(self, timeout: float | None) -> "list[Event]":
        from wsproto.utilities import RemoteProtocolError

        data = self._below.receive(timeout)
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


def unreachable(endpoint: Endpoint, error: OSError) -> str:
    """Say that nobody answers, and what to do."""
    reason = error.strerror or str(error) or "no answer"
    return f"Cannot reach the server at {endpoint} ({reason}): check --server, and that it runs."


def tls_error(error: BaseException, endpoint: Endpoint, identity: str) -> TlsError:
    """Say why TLS failed, and whether it may have been no more than a cut."""
    sentence = refusal(error, identity=identity, server=str(endpoint))
    while not isinstance(error, OSError) and error.__cause__ is not None:
        error = error.__cause__
    cut = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError | TimeoutError)
    return TlsError(sentence[:1].upper() + sentence[1:], cut=cut)
