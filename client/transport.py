"""Owns what carries the blocking client's bytes: TLS over a socket, and how it is opened.

The socket never blocks. All waiting is done in `sockets.Waiter`, which tells a time-out by its value, so that
a TimeoutError which a signal handler of the caller's raises is never taken for one.
"""

import errno
import os
import select
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Protocol

from certs.contexts import ALPN_HTTP, ALPN_NATIVE, client_context, default_directory
from certs.errors import ContextError
from certs.refusals import plain, refusal

from .endpoint import Endpoint
from .errors import CertificatesError, CutError, TlsError, WorkerServiceError
from .interruption import attempt, interruption
from .sockets import Waiter, connect_tcp

CONNECT_SECONDS = 10.0
#: More than a record of TLS holds: what is decrypted and left behind, poll(2) knows nothing of.
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

    def shut(self) -> None:
        """End it for both sides, from any thread; whoever waits for it wakes up, and is to close it."""

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
        if not endpoint.websocket:
            return tls
        # Imported here: the command line loads it only for wss://.
        from .websocket_transport import WebSocketTransport

        return WebSocketTransport(tls, endpoint, CONNECT_SECONDS)
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

    def shut(self) -> None:
        # Not the SSLSocket's own, which takes TLS off: the thread that reads would be given encrypted bytes.
        attempt(socket.socket.shutdown, self._tls, socket.SHUT_RDWR)

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
            # What OpenSSL says of a cut is no news to people.
            why = "" if isinstance(error, ssl.SSLError) else f" ({plain(error)})"
            return CutError(f"The connection to {self._endpoint} was cut{why}.")
        return tls_error(error, self._endpoint, self._identity)


def _wanted(error: OSError) -> int | None:
    """The event of poll(2) that OpenSSL waits for; None if it is a failure."""
    if isinstance(error, ssl.SSLWantReadError):
        return select.POLLIN
    return select.POLLOUT if isinstance(error, ssl.SSLWantWriteError) else None


def directory_of(certs: str | os.PathLike[str] | None) -> Path:
    """Where the certificates are; by default, where `certs init` makes them.

    Raises:
        CertificatesError: there is no home directory to look in.
    """
    if certs is not None:
        return Path(certs)
    try:
        return default_directory()
    except ContextError as error:
        raise CertificatesError(*error.args) from None


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
