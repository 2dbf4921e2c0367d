"""Owns the connections that wait: for their first message to be whole, and then for their handshake.

Theory of operation. They may come by the thousand each second, so none of them is a task, or has anything
but its socket. An epoll of our own watches them; the kernel tells of one once a whole TLS record has come
(SO_RCVLOWAT), however slowly it is written. Then it queues, and gets a task at its turn. Meanwhile the kernel
tells if it leaves, or says more than anybody has to say before an answer.
"""

import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, TypeAlias

import trio

from .carry_on import carry_on
from .gate import Gate, Visit
from .handshake import HEADER_BYTES, Turn, missing_bytes
from .log import Log

#: The most connections heard each time the event loop comes round.
BATCH = 64
#: Unread bytes, from which on a connection that queues is dropped.
_TOO_MUCH = 20 * 1024
_PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

#: Goes on with a connection that has said something, at its turn, which must be ended.
Handle: TypeAlias = Callable[[trio.SocketStream, Visit, Turn], Awaitable[None]]
#: Told of a connection that has ended in here, and why if that was not the gate's doing.
Lost: TypeAlias = Callable[[Visit, str], None]


@dataclass(eq=False, slots=True)
class _Waiting:
    """A connection in here; it queues if it has a turn."""

    sock: socket.socket
    visit: Visit
    turn: Turn | None = None


class Lobby:
    """Where connections wait for their handshake; `run` it.

    Args:
        gate: counts them.
        handle: run as a task, which closes the connection.
        lost: told of those that never get so far.
        nursery: where tasks run.
        log: where it is told what fails in here.
    """

    def __init__(self, gate: Gate, handle: Handle, lost: Lost, nursery: trio.Nursery, log: Log) -> None:
        self._log = log
        self._gate = gate
        self._handle = handle
        self._lost = lost
        self._nursery = nursery
        self._epoll = select.epoll()
        self._waiting: dict[int, _Waiting] = {}

    def enter(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Take an accepted connection in, and own it from now on.

        Args:
            sock: the connection; its listener has SO_RCVLOWAT set to HEADER_BYTES, which it inherits.
            address: where it comes from.
        """
        try:
            waiting = _Waiting(sock, self._gate.arrive(*address))
        except BaseException:
            sock.close()
            raise
        if waiting.visit.dropped:  # the server ends
            self._end(waiting)
            return
        try:
            self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
        except (OSError, ValueError) as error:  # the kernel has no memory, or the lobby has closed
            self._end(waiting, f"it cannot be watched: {error}")
            return
        self._waiting[sock.fileno()] = waiting
        waiting.visit.end = partial(self._end, waiting)

    async def run(self) -> None:
        """Hear connections until cancelled, whatever fails; those that are still in here are closed then."""
        with closing(self._epoll):
            try:
                await carry_on("lobby", self._hear_all, self._log)
            finally:
                for waiting in tuple(self._waiting.values()):
                    self._end(waiting)

    async def _hear_all(self) -> NoReturn:
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for number, events in self._epoll.poll(0, BATCH):
                if (waiting := self._waiting.get(number)) is not None:
                    self._hear(waiting, bool(events & _ENDED))

    def _hear(self, waiting: _Waiting, ended: bool) -> None:
        if waiting.turn is not None:
            self._end(waiting, "it left" if ended else "it said too much before its turn")
            return
        try:
            head = waiting.sock.recv(HEADER_BYTES, _PEEK)
            need = missing_bytes(head)
            whole = not need or len(waiting.sock.recv(need, _PEEK)) >= need
            if not ended:
                lowat = _TOO_MUCH if whole else need
                waiting.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowat)
        except OSError as error:
            self._end(waiting, f"it was cut: {error.strerror}")
            return
        except MemoryError:
            self._end(waiting, "the server has no memory for it")
            return
        if ended and need:  # it can take part in no handshake any more
            self._end(waiting, "it left before its handshake" if head else "it left and said nothing")
        elif whole:
            if ended:
                self._forget(waiting)  # or we would be told of its end again and again
            waiting.turn = Turn(self._gate.handshakes, waiting.visit.source, partial(self._begin, waiting))
            waiting.turn.join()

    def _begin(self, waiting: _Waiting, turn: Turn) -> None:
        self._forget(waiting)
        waiting.visit.end = lambda: None  # it is seen once the task has begun
        try:
            self._gate.begin(waiting.visit)
            self._nursery.start_soon(self._take, waiting, turn)
        except BaseException:
            self._drop(waiting)
            raise

    async def _take(self, waiting: _Waiting, turn: Turn) -> None:  # noqa: ASYNC910  # a task, not called
        try:
            with turn:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(waiting.sock))
                await self._handle(stream, waiting.visit, turn)
        except Exception:  # noqa: BLE001  # such as no memory to tell of a failure; it is this connection's
            self._drop(waiting)
            with suppress(Exception):
                self._log.exception("a connection failed", peer=waiting.visit.peer)

    def _drop(self, waiting: _Waiting) -> None:
        waiting.sock.close()
        self._gate.forget(waiting.visit)

    def _end(self, waiting: _Waiting, reason: str = "") -> None:
        self._forget(waiting)
        waiting.sock.close()
        if waiting.turn is not None:
            waiting.turn.end()
        self._gate.forget(waiting.visit)
        self._lost(waiting.visit, reason)

    def _forget(self, waiting: _Waiting) -> None:
        if self._waiting.pop(waiting.sock.fileno(), None):
            self._epoll.unregister(waiting.sock)
