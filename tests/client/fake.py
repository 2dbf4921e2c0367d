"""Owns a server in memory for tests of the clients: no socket, no clock, a script for what it says."""

from collections.abc import Callable, Iterable

import trio

from wire.connection import CLOSED, NEED_DATA, Connection, Role, Signal
from wire.jobs import JobStatus, Status
from wire.messages import PROTOCOL_VERSION, Hello, Message, Ping, Pong

HELLO = Hello(PROTOCOL_VERSION, "fake", "admin", "Admin", max_frame=2**22, max_requests=4)
JOB = JobStatus("0b5c", Status.RUNNING, pid=7, argv=(b"yes",), owner="admin", started=1.5, output=0)


def silence(message: Message) -> Iterable[Message]:
    """Answer nothing but pings."""
    return [Pong(message.nonce)] if isinstance(message, Ping) else []


class FakeServer:
    """The server's end of a connection, sans-IO.

    Args:
        answer: given each message of the client, says what comes back.
        hello: what to begin with; None for nothing.
    """

    def __init__(
        self, answer: Callable[[Message], Iterable[Message]] = silence, *, hello: Hello | None = HELLO
    ) -> None:
        self.heard: list[object] = []
        self.outgoing = bytearray()
        self.closed = False
        self.changed = trio.Event()
        self._answer = answer
        self._connection = Connection(Role.SERVER)
        if hello is not None:
            self.say(hello)

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.outgoing += self._connection.send(message)
        self.changed.set()

    def say_bytes(self, data: bytes) -> None:
        self.outgoing += data
        self.changed.set()

    def close(self) -> None:
        self.closed = True
        self.changed.set()

    def take(self, data: bytes) -> None:
        if self.closed:  # nobody reads it
            return
        self._connection.receive_data(data)
        while (event := self._connection.next_event()) not in (NEED_DATA, CLOSED):
            if not isinstance(event, Signal):
                self.heard.append(event)
                self.say(*self._answer(event))

    def give(self) -> bytes:
        data, self.outgoing = bytes(self.outgoing), bytearray()
        return data


class BlockingLink:
    """A transport of the blocking client; a wait in which nothing can come is over at once."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.closed = False

    def send(self, data: bytes) -> None:
        self.server.take(data)

    def receive(self) -> bytes | None:
        return self.server.give() if self.wait(0) else None

    def wait(self, timeout: float) -> bool:
        return bool(self.server.outgoing) or self.server.closed

    def has_room(self) -> bool:
        return True

    def shut(self) -> None:
        self.server.close()

    def close(self) -> None:
        self.closed = True


class TrioLink:
    """A transport of the Trio client."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.closed = False
        self.heard_at = trio.current_time()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.server.take(data)

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.server.outgoing and not self.server.closed:
            self.server.changed = trio.Event()
            await self.server.changed.wait()
        self.heard_at = trio.current_time()
        return self.server.give()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True
