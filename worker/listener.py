"""Owns the way from an accepted TCP connection to a session: TLS, the certificate's role, the transport."""

import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio
import trio_websocket

from certs.contexts import ALPN_NATIVE, AlertingContext
from certs.roles import Identity, RoleError, identity_of
from wire.errors import ErrorCode
from wire.frames import HEADER_BYTES, MAX_FRAME_BYTES
from wire.trio_stream import ByteStream, WebSocketStream

from .audit import NO_TRAIL, Event, Outcome, Trail
from .log import Log
from .session import refuse

#: Longest TLS or WebSocket handshake, and longest orderly close, in seconds.
HANDSHAKE_DEADLINE = 10.0
CLOSE_DEADLINE = 2.0
#: How long a refused client may take to read why, in seconds.
REFUSAL_DEADLINE = 1.0
_TOO_SLOW = f"no handshake within {HANDSHAKE_DEADLINE:g} s"
SUBPROTOCOL = "worker.v1.msgpack"
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
Serve: TypeAlias = Callable[[ByteStream, Identity], Awaitable[None]]


def acknowledged_bytes(tcp: trio.SocketStream) -> int:
    """How many bytes the peer's host has acknowledged so far (tcp(7), TCP_INFO); 0 once it is cut."""
    try:
        info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
    except OSError:
        return 0
    return int.from_bytes(info[_ACKED_AT : _ACKED_AT + 8], sys.byteorder)


async def serve_peer(
    tcp: trio.SocketStream,
    context: AlertingContext,
    arc: str,
    log: Log,
    serve: Serve,
    trail: Trail = NO_TRAIL,
) -> None:
    """Take one TCP connection through TLS, the role and its transport to `serve`, and close it.

    Never raises for what a peer does: it is logged, and that connection ends.

    Args:
        tcp: the accepted connection.
        context: the server's side of TLS.
        arc: the OID below which roles are numbered.
        log: the server's log.
        serve: called with the transport and the client's identity once both are known.
        trail: the connection's audit trail.
    """
    peer = peer_address(tcp)
    try:
        tls = trio.SSLStream(tcp, context, server_side=True)
        outgoing = context.last_outgoing  # in the same step, before another connection takes its place
        try:
            for level, option, value in KEEPALIVE:
                tcp.setsockopt(level, option, value)
            with trio.fail_after(HANDSHAKE_DEADLINE):
                await tls.do_handshake()
        except (trio.BrokenResourceError, OSError) as error:
            if outgoing is not None:
                await _send_alert(tcp, outgoing.read())
            reason = str(error.__cause__ or error)
            log.warning("a TLS handshake was refused", peer=peer, reason=reason)
            trail.record(Event.HANDSHAKE_FAILED, Outcome.FAILED, cause=reason)
        else:
            await _serve_tls(tls, arc, peer, log, serve, trail)
    except* trio.TooSlowError:
        log.warning("a peer made no usable handshake", peer=peer)
        trail.record(Event.HANDSHAKE_FAILED, Outcome.FAILED, cause=_TOO_SLOW)
    except* (
        OSError,
        trio.BrokenResourceError,
        trio.ClosedResourceError,
        trio_websocket.ConnectionClosed,
    ) as errors:
        log.info("a connection was cut", peer=peer, reason=str(errors.exceptions[0]))
    except* Exception:  # one connection must never end the server
        log.exception("a connection failed", peer=peer)
    finally:
        await trio.aclose_forcefully(tcp)


async def _serve_tls(
    tls: trio.SSLStream[trio.SocketStream], arc: str, peer: str, log: Log, serve: Serve, trail: Trail
) -> None:
    # Now, as a connection that is cut meanwhile no longer tells.
    certificate = tls.getpeercert(binary_form=True)

    async def serve_or_refuse(stream: ByteStream) -> None:
        try:
            identity = identity_of(certificate, arc)
        except RoleError as error:
            log.warning("denied", peer=peer, reason=str(error))
            about = trail.about(identity=error.name, serial=error.serial)
            about.record(Event.CONNECTION_DENIED, Outcome.DENIED, cause=str(error))
            with trio.move_on_after(REFUSAL_DEADLINE):
                await refuse(stream, ErrorCode.DENIED, _sentence(error))
                await stream.receive_some()
            return
        await serve(stream, identity)

    if tls.selected_alpn_protocol() == ALPN_NATIVE:
        await serve_or_refuse(tls)
        with trio.move_on_after(CLOSE_DEADLINE):
            await tls.aclose()
        return
    async with trio.open_nursery() as nursery:
        # wsproto buffers a message as it comes, so its size is bounded here, not by the frame decoder.
        websocket = None
        with trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_DEADLINE) as handshake:
            request = await trio_websocket.wrap_server_stream(
                nursery,
                _Watched(tls, handshake),
                message_queue_size=1,
                max_message_size=HEADER_BYTES + MAX_FRAME_BYTES,
                receive_buffer_size=64 * 1024,
            )
            websocket = await _upgrade(request, trail)
        if handshake.cancelled_caught:
            log.warning("a peer made no usable handshake", peer=peer)
            trail.record(Event.HANDSHAKE_FAILED, Outcome.FAILED, cause="it opened no WebSocket")
        elif websocket is not None:
            await serve_or_refuse(WebSocketStream(websocket))
            with trio.move_on_after(CLOSE_DEADLINE):
                await websocket.aclose()
        nursery.cancel_scope.cancel()


class _Watched(trio.abc.Stream):
    """A stream that ends the wait for a handshake when its peer ends: trio-websocket would wait on."""

    def __init__(self, stream: trio.abc.Stream, handshake: trio.CancelScope) -> None:
        self._stream = stream
        self._handshake = handshake

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._handshake.cancel()
            raise
        if not data:
            self._handshake.cancel()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        # Also trio-websocket's way out when what came is no HTTP.
        self._handshake.cancel()
        await self._stream.aclose()


async def _upgrade(
    request: trio_websocket.WebSocketRequest, trail: Trail
) -> trio_websocket.WebSocketConnection | None:
    """Accept a WebSocket that speaks our subprotocol; say no to any other, and to other sites' pages.

    A browser sends its user's certificate to whoever asks, so a page of another origin must not reach
    the server in its user's name.
    """
    headers = {name.lower(): value for name, value in request.headers}
    origin = headers.get(b"origin")
    host = headers.get(b"host", b"")
    if origin is not None and origin.lower() != b"https://" + host.lower():
        status, sentence = 403, "Pages of another origin may not use this server."
    elif request.path != "/":
        status, sentence = 404, "There is nothing here; the WebSocket is at /."
    elif SUBPROTOCOL not in request.proposed_subprotocols:
        status, sentence = 400, f"Ask for the WebSocket subprotocol {SUBPROTOCOL}."
    else:
        return await request.accept(subprotocol=SUBPROTOCOL)
    trail.record(Event.CONNECTION_DENIED, Outcome.DENIED, cause=f"{status}: {sentence}")
    await request.reject(status, body=f"{sentence}\n".encode())
    return None


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
