"""Owns TLS handshakes: what is costly in them is computed in a thread, for one connection at a time.

Theory of operation. A handshake's first step is a signature, 3 ms with an RSA key of 4096 bits, in which
OpenSSL needs no GIL. In a thread it holds up nobody who is connected. `HandshakeQueue` says whose step is
next; a `Turn` is the right to it, and must end, or nobody gets another. A step is due when the peer has sent
a whole TLS record: the kernel watches for that (SO_RCVLOWAT), so that a peer that trickles single bytes wakes
nobody up. Steps are driven here and not by trio.SSLStream, which computes where it stands.
"""

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Final, Self, cast

import trio

from certs.contexts import PROTOCOLS

from .client_hello import NO_APPLICATION_PROTOCOL, protocols
from .line import Line
from .threads import NoThreadError, run_in_thread

#: The size of a TLS record's header: its type, its version, its length (RFC 8446, 5.1).
HEADER_BYTES: Final = 5
_RECORD_TYPES: Final = range(20, 24)
_MAX_RECORD_BYTES: Final = 2**14 + 256
#: The most bytes that OpenSSL gets at a time: 64 KiB of KeyUpdate messages, which it takes as one step, cost
#: 150 ms.
SIP_BYTES: Final = 4 * 1024
#: The most steps of a handshake. Ours take two; a chain of certificates takes some more.
MAX_STEPS: Final = 32
#: The most bytes that a client may send before its handshake is done. A hello and a certificate take two or
#: three KiB, and those of two intermediate authorities as much again; a chain of 75 KiB holds up newcomers.
MAX_BYTES: Final = 8 * 1024


def missing_bytes(head: bytes) -> int:
    """How many bytes there must be before a step is worth it, given the first of them.

    0 if they are no TLS record: then OpenSSL may say so at once.
    """
    if len(head) < HEADER_BYTES:
        return HEADER_BYTES
    length = int.from_bytes(head[3:5], "big")
    if head[0] not in _RECORD_TYPES or head[1] != 3 or length > _MAX_RECORD_BYTES:
        return 0
    return min(HEADER_BYTES + length, SIP_BYTES)


class Turn:
    """A connection's place in the queue, and then its right to one step. Leave its ``with`` to end it.

    Args:
        queue: where it queues.
        source: whose it is.
        begin: called with this when it comes, which may be before `join` returns; an error there ends it.
    """

    def __init__(self, queue: "HandshakeQueue", source: str, begin: Callable[["Turn"], object]) -> None:
        self._queue = queue
        self.source = source
        self.begin = begin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end()

    def join(self, *, ahead: bool = False) -> None:
        """Queue; ahead, to go on with a handshake that has had a step."""
        self._queue.join(self, ahead=ahead)

    def end(self) -> None:
        """Give it up, or give it to the next; once more does nothing."""
        self._queue.release(self)


class HandshakeQueue:
    """Whose handshake goes on next."""

    def __init__(self) -> None:
        self._line: Line[Turn] = Line(newest_first=True)
        self._holder: Turn | None = None

    def know(self, source: str) -> None:
        """Rank a source before strangers from now on: somebody there has proved who it is."""
        self._line.know(source)

    def join(self, turn: Turn, *, ahead: bool = False) -> None:
        """See `Turn.join`."""
        self._line.join(turn.source, turn, ahead=ahead)
        self._give()

    def release(self, turn: Turn) -> None:
        """See `Turn.end`."""
        if turn is self._holder:
            self._holder = None
            self._give()
        else:
            self._line.leave(turn.source, turn)

    async def wait_turn(self, source: str) -> Turn:
        """Wait for another step of a handshake."""
        come = trio.Event()
        turn = Turn(self, source, lambda _: come.set())
        turn.join(ahead=True)
        with ExitStack() as stack:
            stack.enter_context(turn)
            await come.wait()
            stack.pop_all()  # it is the caller's to end now
            return turn

    def _give(self) -> None:
        if self._holder is None and (turn := self._line.next()) is not None:
            self._holder = turn
            try:
                turn.begin(turn)
            except BaseException:
                self._holder = None  # it has not begun, so nobody would end it
                raise


async def _compute(step: Callable[[], bool]) -> bool:
    """Run a step where it holds up nobody."""
    try:
        # A limiter of our own: threads stuck on a hung disk can fill Trio's default one, and handshakes
        # must not wait for them.
        return await run_in_thread(step, limiter=trio.CapacityLimiter(1))
    except NoThreadError:
        return step()  # noqa: ASYNC910  # there is nothing to wait for


class Sips(trio.abc.Stream):
    """A stream whose reader, OpenSSL, gets little at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(SIP_BYTES)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Parts:
    """Stands in for a context, to see what an SSLStream is made of."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    tls: ssl.SSLObject

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool,
        server_hostname: str | bytes | None,
    ) -> ssl.SSLObject:
        self.incoming, self.outgoing = incoming, outgoing
        self.tls = self._context.wrap_bio(incoming, outgoing, server_side, server_hostname)
        return self.tls


class Handshake:
    """The server's side of one. `stream` is the connection, secured once `run` has returned.

    Args:
        tcp: the connection.
        context: the server's certificate, and whom it trusts.
        queue: where its steps queue.
        source: whose they are.
    """

    def __init__(
        self, tcp: trio.SocketStream, context: ssl.SSLContext, queue: HandshakeQueue, source: str
    ) -> None:
        self._tcp = tcp
        self._queue = queue
        self._source = source
        self._hello = b""  # what the client said before it had an answer
        self._answered = False
        self._alert = b""
        self._parts = _Parts(context)
        self.stream = trio.SSLStream(Sips(tcp), cast(ssl.SSLContext, self._parts), server_side=True)

    async def run(self, turn: Turn) -> None:
        """Make the handshake.

        Args:
            turn: for its first step, for which the bytes are there; it is ended.

        Raises:
            ssl.SSLError: it failed, and the peer was not told yet: see `alert`.
            trio.BrokenResourceError: the connection was cut.
        """
        size = 0
        for number in range(MAX_STEPS):
            if size >= MAX_BYTES:
                raise ssl.SSLError(f"it sent {MAX_BYTES} bytes and more before it was done")
            if number:
                await self._wait_record()
                turn = await self._queue.wait_turn(self._source)
            with turn:
                data = await self._tcp.receive_some(SIP_BYTES)
                size += len(data)
                if not self._answered:
                    self._hello += data
                if data:
                    self._parts.incoming.write(data)
                else:
                    self._parts.incoming.write_eof()
                done = await _compute(self._step)
            if self._parts.outgoing.pending:
                self._check_protocol()
                await self._tcp.send_all(self._parts.outgoing.read())
            if done:
                return
        raise ssl.SSLError("it took too many steps")

    @property
    def alert(self) -> bytes:
        """What is left to say to the peer, by us or by OpenSSL."""
        return self._alert or self._parts.outgoing.read()

    def _check_protocol(self) -> None:
        """Refuse, before the first answer, a client that asks for protocols of which we speak none."""
        asked = () if self._answered else protocols(self._hello)
        self._hello, self._answered = b"", True
        if asked and not PROTOCOLS.intersection(asked):
            self._alert = NO_APPLICATION_PROTOCOL
            raise ssl.SSLError(f"it speaks none of our protocols, but {b', '.join(asked)!r:.60}")

    def close(self) -> None:
        """Let go of OpenSSL's memory: an SSLStream refers to itself, and its 100 KB would wait for the
        garbage collector.
        """
        vars(self.stream).clear()
        vars(self._parts).clear()

    def _step(self) -> bool:
        with suppress(ssl.SSLWantReadError):
            self._parts.tls.do_handshake()
            return True
        return False

    async def _wait_record(self) -> None:
        """Wait until a whole record has come, or the connection has ended."""
        sock = self._tcp.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, HEADER_BYTES)
        await trio.lowlevel.wait_readable(sock)
        if need := missing_bytes(await sock.recv(HEADER_BYTES, socket.MSG_PEEK)):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, need)
            await trio.lowlevel.wait_readable(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
