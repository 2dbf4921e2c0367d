"""A TCP connection's way to a session: handshakes take turns, and leave nothing behind."""

import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from certs.contexts import client_context
from certs.roles import DEFAULT_ARC, Identity
from certs.trusted import Bearer
from tests.harness import PATIENCE
from tests.worker.common import KeptLog
from wire.trio_stream import ByteStream
from worker.accept import accept_forever
from worker.audit import NO_TRAIL
from worker.bounds import DEFAULTS
from worker.fate import Failures
from worker.gate import Gate, Visit
from worker.handshake import Turn
from worker.listener import Door
from worker.lobby import Lobby
from worker.trust import Trust


class World:
    """A listener whose clients are greeted by their name."""

    def __init__(self, certs: Path, log: KeptLog, trust: Trust) -> None:
        self.gate = Gate(DEFAULTS, log)
        self.log = log
        self._certs = certs
        self._trust = trust
        self.port = 0
        self.lost: list[tuple[Visit, str]] = []

    async def handle(self, tcp: trio.SocketStream, visit: Visit, turn: Turn) -> None:
        async def greet(stream: ByteStream, identity: Identity, bearer: Bearer) -> None:
            await stream.send_all(identity.name.encode())

        await Door(self._trust, DEFAULT_ARC, self.gate, Failures(self.log, NO_TRAIL), self.log).let_in(
            tcp, visit, turn, NO_TRAIL, greet
        )

    def lose(self, visit: Visit, reason: str) -> None:
        self.lost.append((visit, reason))

    def greeted(self) -> bytes:
        """Connect as the admin, in a thread."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as tcp,
            client_context(self._certs, "admin").wrap_socket(tcp, server_hostname="localhost") as tls,
        ):
            return tls.recv(100)


@asynccontextmanager
async def listening(certs: Path, log: KeptLog, trust: Trust) -> AsyncIterator[World]:
    world = World(certs, log, trust)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    world.port = listener.socket.getsockname()[1]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            lobby = Lobby(world.gate, world.handle, world.lose, nursery, log)
            nursery.start_soon(lobby.run)
            nursery.start_soon(accept_forever, listener, lobby, world.gate, log)
            yield world
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a client in another thread brings about, of which no event tells."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.001)
    await trio.lowlevel.checkpoint()


async def test_a_connection_that_has_ended_leaves_no_tls_state_for_the_collector(
    shared_certificates: Path, log: KeptLog
) -> None:
    made: list[weakref.ref[ssl.SSLObject]] = []

    class Watched(ssl.SSLObject):
        def __init__(self) -> None:
            raise AssertionError("made by the context")

    trust = Trust(shared_certificates, log)
    context = trust.context
    context.sslobject_class = Watched
    wrap = context.wrap_bio

    def wrap_bio(*arguments: object, **keywords: object) -> ssl.SSLObject:
        made.append(weakref.ref(wrapped := wrap(*arguments, **keywords)))  # type: ignore[arg-type]
        return wrapped

    context.wrap_bio = wrap_bio  # type: ignore[method-assign]
    gc.disable()
    try:
        async with listening(shared_certificates, log, trust) as world, trio.open_nursery() as nursery:
            nursery.start_soon(world.gate.run)
            assert await trio.to_thread.run_sync(world.greeted) == b"admin"
            await until(lambda: made[0]() is None)
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()
