"""Owns the operations that are cancelled at every checkpoint, and what must hold after each."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial

import trio
import trio.testing

from certs.roles import DEFAULT_ARC, Identity, Role
from certs.trusted import Bearer
from client.errors import ClientError, CutError
from client.trio_client import Client, client_over, open_client
from tests.harness import alive
from tests.race.cancel import Cancelling, Operation
from tests.race.footprint import LeftError, private, until
from tests.race.world import ALICE, World, read_until, spec_of
from wire.errors import RequestError
from wire.jobs import Cause, CauseKind
from wire.messages import STDOUT, Output
from wire.trio_stream import ByteStream
from worker.accept import accept_forever
from worker.audit import NO_TRAIL
from worker.blocks import Chunk
from worker.bounds import DEFAULTS
from worker.fate import Failures
from worker.gate import Gate, Visit
from worker.handshake import Turn
from worker.hierarchy import open_hierarchies
from worker.job import Job
from worker.listener import Door
from worker.lobby import Lobby
from worker.output import Missing, OutputLog
from worker.reader import Reader
from worker.registry import Registry
from worker.server import Config, Server
from worker.session import Session
from worker.spawner import ProcessSpec, Spawner, SpawnError
from worker.store import Budget, OutputStore, Overflow
from worker.trust import Trust
from worker.windows import WINDOWS_BYTES

OPERATIONS: dict[str, Operation] = {}
#: Those that depend on which cgroups a host has.
HOST_OPERATIONS = ("start", "start_that_fails", "life", "stop", "drain", "restart")
PIECE = 64 * 1024
SHUTDOWN = Cause(CauseKind.STOPPED, by="server")
NUMBERS = b"".join(b"%d\n" % number for number in range(1, 30001)) + b"end\n"
#: A job that prints NUMBERS, more than the store keeps in memory, and stays.
PRINTING = "seq 30000; echo end; exec sleep 600"
#: A job that leaves a daemon behind, and that TERM does not end.
STUBBORN = "trap '' TERM; setsid sleep 600 & echo ready; while :; do sleep 0.01; done"


def operation(run: Operation) -> Operation:
    """Add an operation to the table, by its name."""
    OPERATIONS[run.__name__] = run
    return run


def expect(condition: object, otherwise: str) -> None:
    """Check what must hold."""
    if not condition:
        raise LeftError(otherwise)


# --- a job


@operation
async def start(world: World, cancelling: Cancelling) -> None:
    """Whoever asks for a job goes away: either there is a job that is listed, or there is nothing."""
    with cancelling:
        await world.start("echo out; exec sleep 600", limits=world.limits)
    await world.started()
    jobs = list(world.registry)
    expect(len(jobs) <= 1, f"{len(jobs)} jobs for one start")
    for job in jobs:
        expect(job.pid and alive(job.pid), "a job is listed that does not run")
        expect(await read_until(job.output, b"out\n") == b"out\n", "output was lost")


@operation
async def start_that_fails(world: World, cancelling: Cancelling) -> None:
    """There is no such program: no job comes of it, whoever waits for the answer."""
    spec = ProcessSpec((b"/no/such/program",), {}, b"/", merge=False)
    with cancelling, suppress(RequestError):
        await world.registry.start(spec, owner="alice", limits=world.limits, seconds=None)
    await world.started()
    expect(not list(world.registry), "a phantom job is listed")


@operation
async def life(world: World, cancelling: Cancelling) -> None:
    """A job's scope is cancelled, as by a hard end of the server."""
    job = Job("life", spec_of("echo out; sleep 600 & exit 0"), "alice", world.limits, None, 1, world.log)
    ran: list[bool] = []
    with cancelling:
        await job.run(world.hierarchies, world.spawner, lambda: ran.append(True))
    expect(job.ended.is_set() == bool(ran), "it ran and has no end" if ran else "it ended and never ran")
    expect(job.output.closed == bool(ran), "its output was not closed")


@operation
async def stop(world: World, cancelling: Cancelling) -> None:
    """Whoever stops a job goes away: it is stopped all the same."""
    job = await world.start(STUBBORN)
    await read_until(job.output, b"ready\n")
    with cancelling:
        await job.stop(ALICE, 0.005)
    await job.ended.wait()
    expect(job.cause == ALICE, f"a stopped job ended by {job.cause}")


@operation
async def drain(world: World, cancelling: Cancelling) -> None:
    """The jobs' end at a shutdown is cut short: they are killed then."""
    async with trio.open_nursery() as jobs:
        # Its own registry: one that was closed starts no more.
        registry = Registry(jobs, world.hierarchies, world.spawner, world.log, 10.0)
        start = partial(registry.start, owner="alice", limits=None, seconds=None)

        async def start_late() -> None:
            await trio.lowlevel.checkpoint()
            with suppress(RequestError):
                await start(spec_of("exec sleep 600"))

        await read_until((await start(spec_of(STUBBORN))).output, b"ready\n")
        jobs.start_soon(start_late)
        with cancelling:
            await registry.stop_all(SHUTDOWN, 0.005)
            await trio.sleep(0.02)  # what it may have missed has time to show
            for job in registry:
                expect(job.ended.is_set(), "a job outlived the end of all")
        jobs.cancel_scope.cancel()  # as Server.run does on its way out
    for job in registry:
        expect(job.ended.is_set(), "a job has no end")


@operation
async def restart(world: World, cancelling: Cancelling) -> None:
    """The spawner is killed while a job starts, and another one comes."""
    with open_hierarchies() as hierarchies:
        spawner = Spawner(hierarchies, world.log)
        with cancelling:
            async with trio.open_nursery() as link:
                await link.start(spawner.run)
                os.kill(spawner.pid, signal.SIGKILL)
                for number in range(100):
                    job = Job(str(number), spec_of("echo out"), "alice", None, None, 1, world.log)
                    with suppress(SpawnError):  # it was lost with the first one
                        await job.run(hierarchies, spawner, lambda: None)
                    if job.end is not None and not job.end.lost:
                        break
                else:
                    raise LeftError("no new spawner runs a job")
                link.cancel_scope.cancel()
        expect(not private(spawner, "_children"), "the link waits for a process of a dead spawner")


# --- a connection


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
    for job in world.registry:
        expect(await read_until(job.output, b"end\n") == NUMBERS, "output was lost")
        await until(lambda output=job.output: not private(output, "_subscribers"))  # type: ignore[misc]


@operation
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


@operation
async def request(world: World, cancelling: Cancelling) -> None:
    """A client's requests are cancelled; its connection is as good as before."""
    async with connected(world) as client:
        with cancelling:
            await talk(client)
        job = await client.start(["sh", "-c", PRINTING])
        expect(await read_numbers(client, job.id) == NUMBERS, "output was lost")
    await assert_untouched(world)


@operation
async def stream(world: World, cancelling: Cancelling) -> None:
    """A client's stream is cancelled; another one on the same connection gets all of it."""
    job = await world.start(PRINTING)
    async with connected(world) as client:
        with cancelling:
            await read_numbers(client, job.id)
        expect(await read_numbers(client, job.id) == NUMBERS, "output was lost")
    await assert_untouched(world)


@operation
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
        lobby = Lobby(port.gate, port.handle, lambda visit, reason: None, nursery)
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


@operation
async def native_connection(world: World, cancelling: Cancelling) -> None:
    """A connection is cancelled from its handshake on."""
    await _connection(world, cancelling, "")


@operation
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


@operation
async def native_client(world: World, cancelling: Cancelling) -> None:
    """A client's block is cancelled from its connect on."""
    await _client(world, cancelling, "")


@operation
async def websocket_client(world: World, cancelling: Cancelling) -> None:
    """Likewise, over a WebSocket."""
    await _client(world, cancelling, "wss://")


# --- a server


@operation
async def serve(world: World, cancelling: Cancelling) -> None:
    """A whole server, from its start over a client's day to its end by SIGTERM."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
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

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            with cancelling:
                budget = Budget(folder=world.folder)
                config = Config("127.0.0.1", 0, world.certs, grace=0.005, budget=budget)
                await Server(config, world.log).run()
            over.set()
            nursery.cancel_scope.cancel()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# --- output


def small_store(
    world: World, *, disk: int, overflow: Overflow, nursery: trio.Nursery | None = None
) -> OutputStore:
    return OutputStore(Budget(3 * PIECE, 2 * PIECE, disk, world.folder, overflow), world.log, nursery)


class Pump:
    """Appends to a log as a job's pump does, and knows what it has appended."""

    def __init__(self, store: OutputStore) -> None:
        self.log = OutputLog(store)
        self.appended = b""

    async def run(self, count: int) -> None:
        await trio.lowlevel.checkpoint()
        for _ in range(count):
            piece = bytes([len(self.appended) // PIECE % 251]) * PIECE
            self.log.append(STDOUT, piece)
            self.appended += piece
            await self.log.make_room()

    async def check(self, *, dropped: bool = False) -> None:
        """What was appended can be read; or, once some was dropped, exactly the rest of it."""
        reader = Reader(self.log, 0)
        data, missing = bytearray(), 0
        while piece := await reader.next():
            if isinstance(piece, Missing):
                expect(dropped and not data, "output is missing")
                missing += piece.size
            else:
                data += piece.data
        expect(bytes(data) == self.appended[missing:], "output was lost")
        expect(missing == self.log.dropped, "a gap was not told")
        expect(not self.log.waiting, "a log waits for room, and nobody for it")


async def _make_room(world: World, cancelling: Cancelling, store: OutputStore, *, dropped: bool) -> None:
    pumps = [Pump(store), Pump(store)]
    with cancelling:
        async with trio.open_nursery() as nursery:
            for pump in pumps:
                nursery.start_soon(pump.run, 8)
    for pump in pumps:
        await pump.check(dropped=dropped)
        await pump.run(3)
        await pump.check(dropped=dropped)
    for pump in pumps:
        pump.log.remove()
    expect((store.resident, store.spilled) == (0, 0), f"{store.resident}, {store.spilled} bytes are held")


@operation
async def make_room(world: World, cancelling: Cancelling) -> None:
    """Output moves to the disk."""
    store = small_store(world, disk=2**24, overflow=Overflow.BLOCK)
    await _make_room(world, cancelling, store, dropped=False)


@operation
async def make_room_by_dropping(world: World, cancelling: Cancelling) -> None:
    """The disk is full, and the oldest goes."""
    store = small_store(world, disk=5 * PIECE, overflow=Overflow.DROP)
    await _make_room(world, cancelling, store, dropped=True)


@operation
async def wait_for_room(world: World, cancelling: Cancelling) -> None:
    """The disk is full, and a job waits until another is removed."""
    store = small_store(world, disk=7 * PIECE + PIECE // 2, overflow=Overflow.BLOCK)
    first, second = Pump(store), Pump(store)
    await first.run(5)

    async def free() -> None:
        await until(lambda: second.log.waiting)
        first.log.remove()

    with cancelling:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(free)
            nursery.start_soon(second.run, 7)
    first.log.remove()
    await second.check()
    second.log.remove()
    expect((store.resident, store.spilled) == (0, 0), f"{store.resident}, {store.spilled} bytes are held")


@operation
async def read_back(world: World, cancelling: Cancelling) -> None:
    """Output is read back from the disk while more moves there; a reader goes on where it was."""
    async with trio.open_nursery() as ahead:
        store = small_store(world, disk=2**24, overflow=Overflow.BLOCK, nursery=ahead)
        pump = Pump(store)
        await pump.run(8)
        reader, data = Reader(pump.log, 0), bytearray()

        async def read() -> None:
            with closing(reader):
                while isinstance(piece := await reader.next(PIECE // 2), Chunk):
                    data.extend(piece.data)

        with cancelling:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(pump.run, 4)
        await read()
    expect(bytes(data) == pump.appended, "a reader lost its place")
    expect(store.windows.readers == 0, "a reader that has left is counted")
    expect(store.windows.left == WINDOWS_BYTES, f"{WINDOWS_BYTES - store.windows.left} bytes are counted")
    pump.log.remove()
