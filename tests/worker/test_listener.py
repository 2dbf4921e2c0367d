"""A TCP connection's way to a session: handshakes take turns, and leave nothing behind."""

import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from certs.contexts import client_context
from certs.roles import DEFAULT_ARC, Identity
from certs.trusted import Bearer
from tests.worker.common import KeptLog
from wire.trio_stream import ByteStream
from worker.accept import accept_forever
from worker.audit import NO_TRAIL
from worker.bounds import DEFAULTS
from worker.gate import Gate, Visit
from worker.listener import SIP_BYTES, Door, _Sips
from worker.trust import Trust


class World:
    """A listener whose clients are greeted by their name."""

    def __init__(self, certs: Path, log: KeptLog, trust: Trust) -> None:
        self.gate = Gate(DEFAULTS, log)
        self.log = log
        self._certs = certs
        self._trust = trust
        self.port = 0

    async def handle(self, tcp: trio.SocketStream, visit: Visit) -> None:
        async def greet(stream: ByteStream, identity: Identity, bearer: Bearer) -> None:
            await stream.send_all(identity.name.encode())

        await Door(self._trust, DEFAULT_ARC, self.gate, self.log).let_in(tcp, visit, NO_TRAIL, greet)

    def greeted(self) -> bytes:
        """Connect as the admin, in a thread."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as tcp,
            client_context(self._certs, "admin").wrap_socket(tcp, server_hostname="localhost") as tls,
        ):
            return tls.recv(100)


@asynccontextmanager
async def listening(certs: Path, log: KeptLog, trust: Trust) -> AsyncIterator[World]:
    world = World(certs, log, trust)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    world.port = listener.socket.getsockname()[1]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, world.handle, nursery, world.gate, log)
            yield world
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a client in another thread brings about, of which no event tells."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.001)
    await trio.lowlevel.checkpoint()


async def test_each_step_of_a_handshake_takes_a_turn(
    shared_certificates: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    async with listening(shared_certificates, log, Trust(shared_certificates, log)) as world:
        take = world.gate.turns.take

        async def counted(source: str) -> None:
            turns.append(source)
            await take(source)

        monkeypatch.setattr(world.gate.turns, "take", counted)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, world.greeted, abandon_on_cancel=True))
            await until(lambda: bool(turns))
            await trio.testing.wait_all_tasks_blocked()
            assert turns == ["127.0.0.1"]  # nobody gives turns, so it goes no further
            nursery.start_soon(world.gate.run)
            await until(lambda: len(turns) > 1)
            nursery.cancel_scope.cancel()


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


async def test_openssl_gets_little_at_a_time() -> None:
    here, there = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(here))
    with there, trio.fail_after(5):
        there.sendall(bytes(3 * SIP_BYTES))
        sips = _Sips(stream, Gate(DEFAULTS, KeptLog()).turns, "a")
        assert len(await sips.receive_some()) == SIP_BYTES
        sips.handshaking = False
        assert len(await sips.receive_some(65536)) == SIP_BYTES
        await sips.aclose()
