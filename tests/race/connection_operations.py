"""Owns the operations of clients, connections and a whole server that are cancelled."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
import trio.testing

from certs.roles import DEFAULT_ARC, Identity, Role
from certs.trusted import Bearer
from client.errors import ClientError, CutError
from client.trio_client import Client, client_over, open_client
from tests.race.cancel import Cancelling, Operation
from tests.race.footprint import expect, private, until
from tests.race.signals import kept_signals
from tests.race.world import STUBBORN, World, read_until
from wire.errors import RequestError
from wire.messages import Output
from wire.trio_stream import ByteStream
from worker.accept import accept_forever
from worker.audit import NO_TRAIL
from worker.bounds import DEFAULTS
from worker.fate import Failures
from worker.gate import Gate, Visit
from worker.handshake import Turn
from worker.listener import Door
from worker.lobby import Lobby
from worker.server import Config, Server
from worker.session import Session
from worker.store import Budget
from worker.trust import Trust

NUMBERS = b"".join(b"%d\n" % number for number in range(1, 30001)) + b"end\n"
#: A job that prints NUMBERS, more than the store keeps in memory, and stays.
PRINTING = "seq 30000; echo end; exec sleep 600"


class MemoryTransport:
    """What a client needs of a transport, over a stream in memory."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.heard_at = trio.current_time()

    async def send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise CutError("cut") from error

    async def receive(self) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise CutError("cut") from error
        self.heard_at = trio.current_time()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


def session_of(world: World, stream: ByteStream) -> Session:
    return Session(stream, Identity("alice", "01", Role.ADMIN), world.registry, world.log, "test")


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[Client]:
    """A client of a session in memory, which must be over once the client has left."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await session_of(world, far).run()
            await trio.aclose_forcefully(far)

        nursery.start_soon(serve)
        async with client_over(MemoryTransport(near), "memory") as client:
            yield client


async def read_numbers(client: Client, job_id: str) -> bytes:
    """Read what a job prints, up to its last word."""
    data = bytearray()
    async with client.stream(job_id) as stream:
        async for piece in stream:
            assert isinstance(piece, Output)
            data += piece.data
            if data.endswith(b"end\n"):
                break
    return bytes(data)


async def talk(client: Client) -> None:
    """A client's day: a job is started, looked at, read and stopped."""
    job = await client.start(["sh", "-c", PRINTING])
    await client.query(job.id)
    expect(await read_numbers(client, job.id) == NUMBERS, "output was lost")
    await client.stop(job.id, grace=0.005)
    await client.wait(job.id)


async def assert_untouched(world: World) -> None:
    """The jobs of a connection that was cut go on, nobody reads them, and nothing of them is lost."""
    await world.started()
    for job in world.registry.jobs:
        expect(await read_until(job.output, b"end\n") == NUMBERS, "output was lost")
        await until(lambda output=job.output: not private(output, "_subscribers"))  # type: ignore[misc]


async def session(world: World, cancelling: Cancelling) -> None:
    """A connection's scope is cancelled while its client talks."""
    near, far = trio.testing.memory_stream_pair()

    async def client() -> None:
        await trio.lowlevel.checkpoint()
        with suppress(ClientError):
            async with client_over(MemoryTransport(near), "memory") as client:
                await talk(client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        with cancelling:
            await session_of(world, far).run()
        await trio.aclose_forcefully(far)
        nursery.cancel_scope.cancel()
    await assert_untouched(world)


async def request(world: World, cancelling: Cancelling) -> None:
    """A client's requests are cancelled; its connection is as good as before."""
    async with connected(world) as client:
        with cancelling:
            await talk(client)
        job = await client.start(["sh", "-c", PRINTING])
        expect(await read_numbers(client, job.id) == NUMBERS, "output was lost")
    await assert_untouched(world)


async def stream(world: World, cancelling: Cancelling) -> None:
    """A client's stream is cancelled; another one on the same connection gets all of it."""
    job = await world.start(PRINTING)
    async with connected(world) as client:
        with cancelling:
            await read_numbers(client, job.id)
        expect(await read_numbers(client, job.id) == NUMBERS, "output was lost")
    await assert_untouched(world)


async def remove(world: World, cancelling: Cancelling) -> None:
    """A job is removed while another client reads it, who gets all of it; it is gone, or there as before."""
    job = await world.start("seq 30000; echo end")
    await job.ended.wait()
    got: list[bytes] = []
    async with connected(world) as client, connected(world) as other, trio.open_nursery() as nursery:

        async def read() -> None:
            await trio.lowlevel.checkpoint()
            try:
                got.append(await read_numbers(other, job.id))
            except RequestError:  # it was removed before
                got.append(NUMBERS)

        nursery.start_soon(read)
        with cancelling:
            await client.remove(job.id)
    expect(got == [NUMBERS], "a reader lost output to a remove")
    await assert_untouched(world)


class Port:
    """What stands between a port and the world: it takes a connection to a session, as a server does."""

    def __init__(self, world: World) -> None:
        self.gate = Gate(DEFAULTS, world.log)
        self._world = world
        self._trust = Trust(world.certs, world.log)
        self._door = Door(self._trust, DEFAULT_ARC, self.gate, Failures(world.log, NO_TRAIL), world.log)

    async def handle(self, tcp: trio.SocketStream, visit: Visit, turn: Turn) -> None:
        async def serve(stream: ByteStream, identity: Identity, bearer: Bearer) -> None:
            world = self._world
            session = Session(stream, identity, world.registry, world.log, "test", turns=self.gate.turns)
            with self._trust.hold(bearer, session.end):
                await session.run()

        await self._door.let_in(tcp, visit, turn, NO_TRAIL, serve)


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[str]:
    """A port on loopback whose connections are served; they end with the block."""
    port = Port(world)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.gate.run)
        lobby = Lobby(port.gate, port.handle, lambda visit, reason: None, nursery, world.log)
        nursery.start_soon(lobby.run)
        nursery.start_soon(accept_forever, listener, lobby, port.gate, world.log)
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _connection(world: World, cancelling: Cancelling, scheme: str) -> None:
    port = Port(world)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"{scheme}127.0.0.1:{listener.socket.getsockname()[1]}"

    async def client() -> None:
        await trio.lowlevel.checkpoint()
        with suppress(ClientError):
            async with open_client(address, certs=world.certs, identity="admin", patience=0) as client:
                await talk(client)

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(client)
        nursery.start_soon(port.gate.run)
        async with await listener.accept() as tcp:
            with cancelling:
                await trio.lowlevel.wait_readable(tcp.socket)  # the lobby's part
                with await port.gate.handshakes.wait_turn("127.0.0.1") as turn:
                    await port.handle(tcp, port.gate.arrive("127.0.0.1"), turn)
        nursery.cancel_scope.cancel()
    await assert_untouched(world)


async def native_connection(world: World, cancelling: Cancelling) -> None:
    """A connection is cancelled from its handshake on."""
    await _connection(world, cancelling, "")


async def websocket_connection(world: World, cancelling: Cancelling) -> None:
    """Likewise, over a WebSocket."""
    await _connection(world, cancelling, "wss://")


async def _client(world: World, cancelling: Cancelling, scheme: str) -> None:
    async with listening(world) as address:
        with cancelling:
            async with open_client(
                scheme + address, certs=world.certs, identity="admin", patience=0
            ) as client:
                await talk(client)
    await assert_untouched(world)


async def native_client(world: World, cancelling: Cancelling) -> None:
    """A client's block is cancelled from its connect on."""
    await _client(world, cancelling, "")


async def websocket_client(world: World, cancelling: Cancelling) -> None:
    """Likewise, over a WebSocket."""
    await _client(world, cancelling, "wss://")


async def serve(world: World, cancelling: Cancelling) -> None:
    """A whole server, from its start over a client's day to its end by SIGTERM."""
    said = len(world.log.lines)
    over = trio.Event()

    async def client() -> None:
        await until(lambda: "listening" in world.log.messages[said:])
        port = next(line["port"] for line in world.log.lines[said:] if line["message"] == "listening")
        with suppress(ClientError):
            async with open_client(
                f"127.0.0.1:{port}", certs=world.certs, identity="admin", patience=0
            ) as client:
                await client.start(["sh", "-c", STUBBORN])
                await talk(client)
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    async with kept_signals(), trio.open_nursery() as nursery:
        nursery.start_soon(client)
        with cancelling:
            budget = Budget(folder=world.folder)
            config = Config("127.0.0.1", 0, world.certs, grace=0.005, budget=budget)
            await Server(config, world.log).run()
        over.set()
        nursery.cancel_scope.cancel()


OPERATIONS: tuple[Operation, ...] = (
    session,
    request,
    stream,
    remove,
    native_connection,
    websocket_connection,
    native_client,
    websocket_client,
    serve,
)
