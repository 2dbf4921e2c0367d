"""Owns the way from an accepted TCP connection to a session: TLS, the certificate's role, the transport."""

import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import TypeAlias

import trio

from certs.contexts import ALPN_NATIVE
from certs.refusals import plain
from certs.roles import Identity, RoleError, identity_of
from certs.trusted import Bearer
from wire.errors import ErrorCode, RequestError
from wire.trio_stream import ByteStream

from .audit import Trail
from .fate import Failures, Fate
from .gate import Gate, Visit
from .handshake import Handshake, Sips, Turn
from .log import Log
from .session import reason_of, refuse
from .trust import Trust
from .websocket import ServerWebSocket

#: Longest orderly close, in seconds.
CLOSE_DEADLINE = 2.0
#: How long a refused client may take to read why, in seconds.
REFUSAL_DEADLINE = 1.0
#: A client that vanished without a word is found out by the kernel: first probe, interval, probes, and
#: the longest time that sent bytes may stay unacknowledged (tcp(7)); seconds, but the last in ms.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)


#: Where struct tcp_info has tcpi_bytes_acked, since Linux 4.1.
_ACKED_AT = 120

#: What serves a client whose transport is ready.
Serve: TypeAlias = Callable[[ByteStream, Identity, Bearer], Awaitable[None]]


def acknowledged_bytes(tcp: trio.SocketStream) -> int:
    """How many bytes the peer's host has acknowledged so far (tcp(7), TCP_INFO); 0 once it is cut."""
    try:
        info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
    except OSError:
        return 0
    return int.from_bytes(info[_ACKED_AT : _ACKED_AT + 8], sys.byteorder)


class Door:
    """What every connection passes on its way in.

    Args:
        trust: the certificates in force.
        arc: the OID below which roles are numbered.
        gate: counts connections, and bounds the time up to the hello.
        failures: counts those that come to nothing.
        log: the server's log.
    """

    def __init__(self, trust: Trust, arc: str, gate: Gate, failures: Failures, log: Log) -> None:
        self.trust = trust
        self.arc = arc
        self.gate = gate
        self.failures = failures
        self.log = log

    async def let_in(
        self, tcp: trio.SocketStream, visit: Visit, turn: Turn, trail: Trail, serve: Serve
    ) -> None:
        """Take one TCP connection through TLS, the role and its transport to `serve`, and close it.

        Never raises for what a peer does: it is logged, and that connection ends.

        Args:
            tcp: the accepted connection.
            visit: the gate's view of it.
            turn: for the first step of its handshake, for which the bytes have come.
            trail: its audit trail.
            serve: called with the transport, the client's identity and what its certificate is worth once all
                are known; it must begin to hold the connection before it awaits anything.
        """
        fate = Fate(self.failures, visit, trail)
        try:
            with self.gate.attend(visit):
                await _Entry(self, tcp, visit, fate, serve).begin(turn)
            fate.left()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as errors:
            fate.cut(reason_of(errors))
        except* Exception:  # one connection must never end the server
            self.log.exception("a connection failed", peer=visit.peer)
            fate.failed("the server failed; see its log")
        finally:
            await trio.aclose_forcefully(tcp)

    def lose(self, visit: Visit, trail: Trail, reason: str) -> None:
        """Tell of a connection that ended before its handshake began: that it was dropped, or this reason."""
        fate = Fate(self.failures, visit, trail)
        if visit.dropped:
            fate.left()
        else:
            fate.cut(reason)


class _Entry:
    """One connection on its way in."""

    def __init__(self, door: Door, tcp: trio.SocketStream, visit: Visit, fate: Fate, serve: Serve) -> None:
        self._door = door
        self._tcp = tcp
        self._visit = visit
        self._fate = fate
        self._serve = serve

    async def begin(self, turn: Turn) -> None:
        """Make the TLS handshake, and go on if it succeeds."""
        door = self._door
        for level, option, value in KEEPALIVE:
            self._tcp.setsockopt(level, option, value)
        handshake = Handshake(self._tcp, door.trust.context, door.gate.handshakes, self._visit.source)
        with closing(handshake):
            try:
                await handshake.run(turn)
            except ssl.SSLError as error:
                self._fate.refused(plain(error))
                await _send_alert(self._tcp, handshake.alert)
            else:
                await self._go_on(handshake.stream)

    async def _go_on(self, tls: trio.SSLStream[Sips]) -> None:
        # Now, as a connection that is cut meanwhile no longer tells.
        await tls.do_handshake()  # it is done, and the stream learns of it
        certificate = tls.getpeercert(binary_form=True)
        if tls.selected_alpn_protocol() == ALPN_NATIVE:
            await self._enter(tls, certificate)
        else:
            websocket = ServerWebSocket(tls)
            if await websocket.upgrade():
                await self._enter(websocket, certificate)
                with trio.move_on_after(CLOSE_DEADLINE):
                    await websocket.aclose()
                return
            self._fate.denied(self._fate.trail, websocket.refusal)
        with trio.move_on_after(CLOSE_DEADLINE):
            await tls.aclose()

    async def _enter(self, stream: ByteStream, certificate: bytes) -> None:
        """Serve who may come in; tell the others why not."""
        door = self._door
        trail = self._fate.trail
        try:
            identity = identity_of(certificate, door.arc)
            trail = trail.about(identity=identity.name, serial=identity.serial)
            bearer = door.trust.admit(certificate)
            door.gate.admit(self._visit, identity)
        except RoleError as error:
            self._fate.denied(trail.about(identity=error.name, serial=error.serial), str(error))
            await _refuse(stream, RequestError(ErrorCode.DENIED, _sentence(error)))
        except RequestError as error:
            self._fate.denied(trail, error.message)
            await _refuse(stream, error)
        else:
            self._fate.told = True
            await self._serve(stream, identity, bearer)


async def _refuse(stream: ByteStream, error: RequestError) -> None:
    with trio.move_on_after(REFUSAL_DEADLINE):
        await refuse(stream, error)
        await stream.receive_some()


async def _send_alert(tcp: trio.SocketStream, alert: bytes) -> None:
    """Send OpenSSL's last word on a failed handshake, and let the peer read it.

    Closing while bytes of the peer are unread would reset the connection and take the alert with it.
    """
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(REFUSAL_DEADLINE), suppress(trio.BrokenResourceError):
        await tcp.send_all(alert)
        await tcp.send_eof()
        while await tcp.receive_some(65536):
            pass


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
