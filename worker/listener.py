"""Owns the way from an accepted TCP connection to a session: TLS, the certificate's role, the transport."""

import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from certs.contexts import ALPN_NATIVE
from certs.roles import Identity, RoleError, identity_of
from certs.trusted import Bearer
from wire.errors import ErrorCode, RequestError
from wire.trio_stream import ByteStream

from .audit import Event, Outcome, Trail
from .gate import Gate, Visit
from .log import Log
from .session import reason_of, refuse
from .trust import Trust
from .turns import Turns
from .websocket import ServerWebSocket

#: Longest orderly close, in seconds.
CLOSE_DEADLINE = 2.0
#: The most bytes that OpenSSL gets at a time.
SIP_BYTES = 4 * 1024
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


class _Sips(trio.abc.Stream):
    """A stream whose reader, OpenSSL, gets little at a time, and in a handshake each in a turn.

    What it then does is costly: a handshake's step takes milliseconds, and 64 KiB of KeyUpdate messages,
    which it takes as one step, 150. It is made in a turn, so the first time it has one.
    """

    def __init__(self, stream: trio.SocketStream, turns: Turns, source: str) -> None:
        self._stream = stream
        self._turns = turns
        self._source = source
        self._first = True
        self.handshaking = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(SIP_BYTES)
        if self.handshaking and not self._first:
            await self._turns.take(self._source)
        self._first = False
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Door:
    """What every connection passes on its way in.

    Args:
        trust: the certificates in force.
        arc: the OID below which roles are numbered.
        gate: counts connections, and bounds the time up to the hello.
        log: the server's log.
    """

    def __init__(self, trust: Trust, arc: str, gate: Gate, log: Log) -> None:
        self.trust = trust
        self.arc = arc
        self.gate = gate
        self.log = log

    async def let_in(self, tcp: trio.SocketStream, visit: Visit, trail: Trail, serve: Serve) -> None:
        """Take one TCP connection through TLS, the role and its transport to `serve`, and close it.

        Never raises for what a peer does: it is logged, and that connection ends.

        Args:
            tcp: the accepted connection.
            visit: the gate's view of it.
            trail: its audit trail.
            serve: called with the transport, the client's identity and what its certificate is worth once all
                are known; it must begin to hold the connection before it awaits anything.
        """
        entry = _Entry(self, tcp, visit, trail, serve)
        try:
            with self.gate.attend(visit):
                await entry.begin()
            if visit.late:
                entry.fail("it took too long")
            elif visit.dropped:
                entry.failed("there were too many, or the server ended")
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as errors:
            entry.cut(reason_of(errors))
        except* Exception:  # one connection must never end the server
            self.log.exception("a connection failed", peer=entry.peer)
            entry.failed("the server failed; see its log")
        finally:
            await trio.aclose_forcefully(tcp)


class _Entry:
    """One connection on its way in."""

    def __init__(self, door: Door, tcp: trio.SocketStream, visit: Visit, trail: Trail, serve: Serve) -> None:
        self.peer = peer_address(tcp)
        self._door = door
        self._tcp = tcp
        self._visit = visit
        self._trail = trail
        self._serve = serve
        self._told = False  # what became of it: it was denied, failed, or has a session that tells

    def fail(self, reason: str) -> None:
        """Tell that there is no session, because the peer did not do what opens one."""
        if not self._told:
            self._door.log.warning("a peer made no usable handshake", peer=self.peer, reason=reason)
        self.failed(reason)

    def cut(self, reason: str) -> None:
        """Tell that the connection is gone."""
        self._door.log.info("a connection was cut", peer=self.peer, reason=reason)
        self.failed(f"it was cut: {reason}")

    def failed(self, reason: str) -> None:
        """Record that there is no session, unless it is recorded already what became of it."""
        if not self._told:
            self._told = True
            self._trail.record(Event.HANDSHAKE_FAILED, Outcome.FAILED, cause=reason)

    async def begin(self) -> None:
        """Make the TLS handshake, and go on if it succeeds."""
        door = self._door
        # Who says nothing costs no more than this, and who is dropped before its turn neither.
        await trio.lowlevel.wait_readable(self._tcp.socket)
        await door.gate.turns.take(self._visit.source)
        for level, option, value in KEEPALIVE:
            self._tcp.setsockopt(level, option, value)
        context = door.trust.context
        tls = trio.SSLStream(_Sips(self._tcp, door.gate.turns, self._visit.source), context, server_side=True)
        outgoing = context.last_outgoing  # in the same step, before another connection takes its place
        try:
            try:
                await tls.do_handshake()
            except trio.BrokenResourceError as error:
                reason = str(error.__cause__ or error)
                self._door.log.warning("a TLS handshake was refused", peer=self.peer, reason=reason)
                self.failed(reason)
                if outgoing is not None:
                    await _send_alert(self._tcp, outgoing.read())
            else:
                await self._go_on(tls)
        finally:
            # An SSLStream refers to itself; without this, its 100 KB would wait for the garbage collector.
            vars(tls).clear()

    async def _go_on(self, tls: trio.SSLStream[_Sips]) -> None:
        # Now, as a connection that is cut meanwhile no longer tells.
        certificate = tls.getpeercert(binary_form=True)
        tls.transport_stream.handshaking = False
        if tls.selected_alpn_protocol() == ALPN_NATIVE:
            await self._enter(tls, certificate)
        else:
            websocket = ServerWebSocket(tls)
            if await websocket.upgrade():
                await self._enter(websocket, certificate)
                with trio.move_on_after(CLOSE_DEADLINE):
                    await websocket.aclose()
                return
            self._deny(self._trail, websocket.refusal)
        with trio.move_on_after(CLOSE_DEADLINE):
            await tls.aclose()

    async def _enter(self, stream: ByteStream, certificate: bytes) -> None:
        """Serve who may come in; tell the others why not."""
        door = self._door
        trail = self._trail
        try:
            identity = identity_of(certificate, door.arc)
            trail = trail.about(identity=identity.name, serial=identity.serial)
            bearer = door.trust.admit(certificate)
            door.gate.admit(self._visit, identity.name)
        except RoleError as error:
            self._deny(trail.about(identity=error.name, serial=error.serial), str(error))
            await _refuse(stream, ErrorCode.DENIED, _sentence(error))
        except RequestError as error:
            self._deny(trail, error.message)
            await _refuse(stream, error.code, error.message)
        else:
            self._told = True
            await self._serve(stream, identity, bearer)

    def _deny(self, trail: Trail, reason: str) -> None:
        self._told = True
        self._door.log.warning("denied", peer=self.peer, reason=reason)
        trail.record(Event.CONNECTION_DENIED, Outcome.DENIED, cause=reason)


async def _refuse(stream: ByteStream, code: ErrorCode, message: str) -> None:
    with trio.move_on_after(REFUSAL_DEADLINE):
        await refuse(stream, code, message)
        await stream.receive_some()


async def _send_alert(tcp: trio.SocketStream, alert: bytes) -> None:
    """Send OpenSSL's last word on a failed handshake, and let the peer read it.

    Closing while bytes of the peer are unread would reset the connection and take the alert with it.
    """
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(REFUSAL_DEADLINE), contextlib.suppress(trio.BrokenResourceError):
        await tcp.send_all(alert)
        await tcp.send_eof()
        while await tcp.receive_some(65536):
            pass


def peer_address(tcp: trio.SocketStream) -> str:
    """Where a connection comes from, as HOST:PORT."""
    try:
        host, port = tcp.socket.getpeername()[:2]
    except OSError:
        return "gone"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
