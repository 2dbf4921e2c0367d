"""One connection in memory: credit, cancels, ids, ends, and a peer that does not read."""

import itertools
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.roles import Identity
from certs.roles import Role as CertRole
from tests.harness import PATIENCE
from tests.worker.common import CancelAt, KeptLog, Other
from wire.connection import Connection, Role, Signal
from wire.errors import ErrorCode, RequestError
from wire.features import FEATURES
from wire.frames import MAX_FRAME_BYTES, encode_frame
from wire.jobs import JobReply, JobStatus, Status
from wire.messages import (
    STDOUT,
    Cancel,
    ClientHello,
    Credit,
    Failure,
    Hello,
    Message,
    Output,
    Ping,
    Pong,
    Reply,
    Request,
)
from wire.trio_stream import receive_event
from worker import intake
from worker import session as session_module
from worker.audit import Audit, Trail
from worker.bounds import SMALL_FRAME_BYTES, Bounds
from worker.call import Answer, Call
from worker.intake import LargeFrames
from worker.methods import METHODS, Method, methods_of
from worker.output import OutputLog
from worker.registry import Registry
from worker.requests import REPLY_BYTES, SEND_BYTES
from worker.session import Session, refuse
from worker.turns import Turns

BOB = Identity("bob", "01", CertRole.ADMIN)


@dataclass(eq=False)
class FakeJob:
    """As much of a job as sessions show."""

    id: str
    output: OutputLog = field(default_factory=OutputLog)
    ended: trio.Event = field(default_factory=trio.Event)

    def status(self) -> JobStatus:
        return JobStatus(self.id, Status.RUNNING, 1, (b"true",), "alice", 0.0, self.output.size)

    def measured(self) -> JobStatus:
        return self.status()

    def end(self) -> None:
        self.output.close()
        self.ended.set()


class FakeRegistry:
    """One job, named a."""

    instance = "6f1d1c0a-0f0e-4b62-8a53-3c1c5f8f2b77"

    def __init__(self) -> None:
        self.job = FakeJob("a")

    def __iter__(self) -> Iterator[FakeJob]:
        return iter((self.job,))

    async def find(self, name: str) -> FakeJob:
        await trio.lowlevel.checkpoint()
        if name != "a":
            raise RequestError(ErrorCode.NOT_FOUND, "There is no such job.")
        return self.job


class Peer:
    """The client's end: what it sends, and what it got, in order; `end` says how it ended."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self.stream = stream
        self.connection = Connection(Role.CLIENT)
        self.got: list[Message] = []

    async def send(self, *messages: Message) -> None:
        await self.stream.send_all(b"".join(map(self.connection.send, messages)))

    async def receive(self) -> Message:
        event = await receive_event(self.stream, self.connection)
        assert not isinstance(event, Signal), "the connection ended"
        self.got.append(event)
        return event

    async def receive_final(self, request_id: int) -> Reply | Failure:
        while True:
            message = await self.receive()
            if isinstance(message, Reply | Failure) and message.id == request_id:
                return message

    async def receive_end(self) -> None:
        """Everything up to the end."""
        while (event := await receive_event(self.stream, self.connection)) is not Signal.CLOSED:
            self.got.append(cast("Message", event))

    def finals(self) -> list[int]:
        return [message.id for message in self.got if isinstance(message, Reply | Failure)]

    def output(self, request_id: int) -> bytes:
        return b"".join(
            message.data for message in self.got if isinstance(message, Output) and message.id == request_id
        )


@dataclass
class World:
    """One session and its client."""

    session: Session
    peer: Peer
    job: FakeJob
    log: KeptLog
    ended: trio.Event
    server_end: trio.StapledStream[Any, Any]


def hello_to(role: CertRole, at: float | None) -> Hello:
    """What a session says to bob first."""
    most = MAX_FRAME_BYTES if role is CertRole.ADMIN else SMALL_FRAME_BYTES
    instance = FakeRegistry.instance
    return Hello(1, "test/1", "bob", role.value, most, 256, at, FEATURES, methods_of(role), instance)


@asynccontextmanager
async def serving(
    log: KeptLog, role: CertRole = CertRole.ADMIN, *, orderly: bool = True
) -> AsyncIterator[World]:
    """A session past its hello; at the end, the client leaves and the session must be over."""
    client_end, server_end = trio.testing.memory_stream_pair()
    registry = FakeRegistry()
    identity = Identity("bob", "01", role)
    session = Session(server_end, identity, cast("Registry", registry), log, "test/1")
    world = World(session, Peer(client_end), registry.job, log, trio.Event(), server_end)

    async def run() -> None:
        await session.run()
        await server_end.aclose()
        world.ended.set()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            hello = await world.peer.receive()
            assert isinstance(hello, Hello)
            assert hello == hello_to(role, hello.time)
            assert hello.time is not None
            assert abs(time.time() - hello.time) < PATIENCE
            yield world
            await client_end.aclose()
            await world.ended.wait()
    assert not registry.job.output._subscribers
    if orderly:
        assert [line for line in log.lines if line["level"] == "error"] == []


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Call], Awaitable[Answer]]], None]:
    """Makes ``query`` do what a test says."""

    def use(run: Callable[[Call], Awaitable[Answer]]) -> None:
        old = METHODS["query"]
        monkeypatch.setitem(METHODS, "query", Method(old.roles, old.params, lambda call, params: run(call)))

    return use


def stream(request_id: int, credit: int, offset: int = 0) -> Request:
    return Request(request_id, "stream", {"id": "a", "offset": offset}, credit)


def query(request_id: int) -> Request:
    return Request(request_id, "query", {"id": "a"})


WAIT = {"id": "a"}


# --- output and credit


@settings(max_examples=50)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 300)),
            st.tuples(st.just("credit"), st.integers(1, 300)),
            st.tuples(st.just("settle"), st.just(0)),
        ),
        max_size=25,
    ),
    first=st.integers(0, 300),
)
async def test_output_never_exceeds_credit(steps: list[tuple[str, int]], first: int) -> None:
    # The client's own state machine refuses what is beyond its credit, too.
    granted, whole = first, b""
    async with serving(KeptLog()) as world:
        await world.peer.send(stream(1, first))

        async def read() -> None:
            await world.peer.receive_final(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for what, number in steps:
                if what == "append":
                    piece = bytes([len(whole) % 256]) * number
                    world.job.output.append(STDOUT, piece)
                    whole += piece
                elif what == "credit":
                    granted += number
                    await world.peer.send(Credit(1, number))
                else:
                    await trio.testing.wait_all_tasks_blocked()
                    assert world.peer.output(1) == whole[:granted]
            await trio.testing.wait_all_tasks_blocked()
            assert world.peer.output(1) == whole[:granted]
            await world.peer.send(Credit(1, len(whole)))
            world.job.end()
        assert world.peer.output(1) == whole
        assert world.peer.finals() == [1]


async def test_a_client_that_says_hello_has_features(
    log: KeptLog, handler: Callable[[Callable[[Call], Awaitable[Answer]]], None]
) -> None:
    seen: list[frozenset[str]] = []

    async def look(call: Call) -> Answer:
        await trio.lowlevel.checkpoint()
        seen.append(call.features)
        return lambda: JobReply(FakeJob("a").status())

    handler(look)
    async with serving(log) as world:
        await world.peer.send(ClientHello((*FEATURES, "of a newer client")), query(1))
        await world.peer.receive_final(1)
    async with serving(log) as world:
        await world.peer.send(query(1))
        await world.peer.receive_final(1)
    assert seen == [set(FEATURES), set()]


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (CertRole.ADMIN, ("start", "stop", "query", "wait", "list", "stream", "remove")),
        (CertRole.USER, ("query", "wait", "list", "stream")),
    ],
)
def test_the_hello_names_the_methods_that_a_role_may_call(role: CertRole, names: tuple[str, ...]) -> None:
    assert methods_of(role) == names


async def test_a_stream_without_credit_holds_up_no_other_request(log: KeptLog) -> None:
    async with serving(log) as world:
        world.job.output.append(STDOUT, b"abc")
        await world.peer.send(stream(1, 0), stream(2, 2), query(3), Ping(7))
        seen = {type(await world.peer.receive()) for _ in range(3)}
        assert seen == {Output, Reply, Pong}
        assert (world.peer.output(1), world.peer.output(2)) == (b"", b"ab")


# --- cancels, ids, finals


async def test_a_cancelled_stream_ends_with_one_final_message(log: KeptLog) -> None:
    async with serving(log) as world:
        await world.peer.send(stream(1, 100))
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.job.output._subscribers or ()) == 1
        await world.peer.send(Cancel(1), Cancel(1), Cancel(99))
        final = await world.peer.receive_final(1)
        assert isinstance(final, Failure)
        assert final.code is ErrorCode.CANCELLED
        assert not world.job.output._subscribers
        await world.peer.send(Cancel(1), Credit(1, 5), query(1))  # crossed the final on the way
        assert isinstance(await world.peer.receive_final(1), Reply)
        assert world.peer.finals() == [1, 1]


async def test_a_cancel_beside_its_request(log: KeptLog) -> None:
    async with serving(log) as world:
        await world.peer.send(Request(1, "wait", WAIT), Cancel(1))
        final = await world.peer.receive_final(1)
        assert isinstance(final, Failure)
        assert final.code is ErrorCode.CANCELLED


async def test_a_cancel_ends_one_request_only(log: KeptLog) -> None:
    async with serving(log) as world:
        await world.peer.send(*(Request(number, "wait", WAIT) for number in (1, 2, 3)))
        await trio.testing.wait_all_tasks_blocked()
        await world.peer.send(Cancel(2))
        await world.peer.receive_final(2)
        world.job.end()
        await world.peer.receive_final(1 if world.peer.finals() == [2] else 3)
        while len(world.peer.finals()) < 3:
            await world.peer.receive()
        assert sorted(world.peer.finals()) == [1, 2, 3]


async def test_an_id_may_be_used_again_once_its_final_message_is_here(log: KeptLog) -> None:
    async with serving(log) as world:
        for _ in range(50):
            await world.peer.send(query(1))
            assert isinstance(await world.peer.receive_final(1), Reply)
        await world.peer.send(Request(1, "wait", WAIT))
        await trio.testing.wait_all_tasks_blocked()
        await world.peer.send(Cancel(1))
        await world.peer.receive_final(1)
        await world.peer.send(stream(1, 100))
        world.job.output.append(STDOUT, b"x")
        world.job.end()
        await world.peer.receive_final(1)
        assert world.peer.output(1) == b"x"
        assert len(world.peer.finals()) == 52


@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.builds(query, st.integers(1, 4)),
            st.builds(stream, st.integers(1, 4), st.integers(0, 50)),
            st.builds(lambda id_: Request(id_, "wait", WAIT), st.integers(1, 4)),
            st.builds(lambda id_: Request(id_, "reboot"), st.integers(1, 4)),
            st.builds(lambda id_: Request(id_, "query", {"id": "none"}), st.integers(1, 4)),
            st.builds(lambda id_: Request(id_, "query", {}), st.integers(1, 4)),
            st.builds(Cancel, st.integers(1, 4)),
            st.builds(Credit, st.integers(1, 4), st.integers(1, 50)),
            st.just(None),
        ),
        max_size=20,
    )
)
async def test_every_request_gets_exactly_one_final_message(messages: list[Message | None]) -> None:
    asked: list[int] = []
    async with serving(KeptLog()) as world:
        world.job.output.append(STDOUT, bytes(120))

        async def read() -> None:
            with trio.CancelScope() as reading:
                stop.append(reading)
                await world.peer.receive_end()

        stop: list[trio.CancelScope] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for message in messages:
                if message is None:
                    await trio.testing.wait_all_tasks_blocked()
                elif not isinstance(message, Request):
                    await world.peer.send(message)
                elif not world.peer.connection.is_open(message.id):
                    asked.append(message.id)
                    await world.peer.send(message)
            world.job.end()
            for number in range(1, 5):
                await world.peer.send(Credit(number, 200))
            await trio.testing.wait_all_tasks_blocked()
            stop[0].cancel()
        assert sorted(world.peer.finals()) == sorted(asked)
        assert world.peer.connection.open_requests == 0
        assert world.session.connection.open_requests == 0
        assert not world.session._requests.calls


async def test_too_many_requests_are_told_so(log: KeptLog) -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    registry = FakeRegistry()
    session = Session(
        server_end, BOB, cast("Registry", registry), log, "test/1", bounds=Bounds(max_requests=2)
    )
    peer = Peer(client_end)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            hello = await peer.receive()
            assert isinstance(hello, Hello)
            assert hello.max_requests == 2
            await peer.send(*(Request(number, "wait", WAIT) for number in (1, 2, 3)))
            busy = await peer.receive_final(3)
            assert isinstance(busy, Failure)
            assert busy.code is ErrorCode.BUSY
            await peer.send(Cancel(1))
            await peer.receive_final(1)
            await peer.send(query(3))
            assert isinstance(await peer.receive_final(3), Reply)
            await client_end.aclose()


async def test_too_many_requests_of_one_identity_are_told_so(log: KeptLog) -> None:
    counts, bounds, registry = Counter[str](), Bounds(max_requests_per_identity=3), FakeRegistry()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            peers = []
            for role in (CertRole.ADMIN, CertRole.ADMIN, CertRole.USER):
                client_end, server_end = trio.testing.memory_stream_pair()
                session = Session(
                    server_end,
                    Identity("bob", "01", role),
                    cast("Registry", registry),
                    log,
                    "test/1",
                    bounds=bounds,
                    requests=counts,
                )
                nursery.start_soon(session.run)
                peers.append(Peer(client_end))
                await peers[-1].receive()
            one, other, user = peers
            await one.send(*(Request(number, "wait", WAIT) for number in (1, 2, 3)))
            await trio.testing.wait_all_tasks_blocked()
            await other.send(query(1))
            busy = await other.receive_final(1)
            assert isinstance(busy, Failure)
            assert busy.code is ErrorCode.BUSY
            assert "bob has 3 requests under way" in busy.message
            await user.send(query(1))
            assert isinstance(await user.receive_final(1), Reply)
            await one.stream.aclose()  # a cut gives them back
            await trio.testing.wait_all_tasks_blocked()
            await other.send(query(2))
            assert isinstance(await other.receive_final(2), Reply)
            nursery.cancel_scope.cancel()
    assert not counts


def nested(depth: int) -> dict[str, object]:
    """A map of this depth, itself included."""
    return {"x": nested(depth - 1)} if depth > 1 else {}


@pytest.mark.parametrize(
    "params", [{"argv": [b"x" * 5000]}, {"x": nested(15)}], ids=["a frame too large", "nested too deep"]
)
async def test_bounds_on_frames_hold_for_what_comes_in(log: KeptLog, params: dict[str, object]) -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    bounds, peer = Bounds(max_frame=4096), Peer(client_end)
    session = Session(server_end, BOB, cast("Registry", FakeRegistry()), log, "test/1", bounds=bounds)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await peer.receive()
            await peer.send(Request(1, "query", {"id": "a", "x": nested(14)}))
            refused = await peer.receive_final(1)
            assert isinstance(refused, Failure)
            assert (refused.code, refused.field) == (ErrorCode.BAD_REQUEST, "x")
            request = {"type": "request", "id": 2, "method": "query", "params": params}
            await peer.stream.send_all(encode_frame(msgpack.packb(request)))  # not held to what it may send
            await peer.receive_end()
            last = peer.got[-1]
            assert isinstance(last, Failure)
            assert (last.id, last.code) == (0, ErrorCode.PROTOCOL)
            await client_end.aclose()


@pytest.mark.parametrize(
    "request_", [Request(1, "list"), query(1), Request(1, "start", {"argv": ["id"]}), Request(1, "reboot")]
)
async def test_each_final_message_waits_for_its_turn(log: KeptLog, request_: Request) -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    turns, peer, user = Turns(), Peer(client_end), Identity("bob", "01", CertRole.USER)
    session = Session(server_end, user, cast("Registry", FakeRegistry()), log, "test/1", turns=turns)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await peer.receive()
            await peer.send(request_)
            await trio.testing.wait_all_tasks_blocked()
            assert list(turns._line._waiting) == [(False, "User bob")]
            nursery.start_soon(turns.run)
            await peer.receive_final(1)
            nursery.cancel_scope.cancel()
    assert not turns._line._waiting


async def test_a_refusal_is_recorded_though_its_client_is_cut_before_it_is_told(
    log: KeptLog, tmp_path: Path
) -> None:
    audit = Audit(str(tmp_path / "audit.log"), log)
    client_end, server_end = trio.testing.memory_stream_pair()
    peer, user = Peer(client_end), Identity("bob", "01", CertRole.USER)
    turns, registry = Turns(), cast("Registry", FakeRegistry())
    session = Session(server_end, user, registry, log, "test/1", turns=turns, trail=Trail(audit))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await peer.receive()
            await peer.send(Request(1, "start", {"argv": ["id"]}))
            await trio.testing.wait_all_tasks_blocked()
            session.end(ErrorCode.REVOKED, "revoked")
            await client_end.aclose()
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    outcomes = [(line["event"], line["outcome"]) for line in lines]
    assert outcomes == [
        ("connection_accepted", "allowed"), ("request", "denied"), ("connection_ended", "done"),
    ]  # fmt: skip


# --- errors


async def test_an_error_of_ours_ends_one_request_and_is_logged(
    log: KeptLog, handler: Callable[[Callable[[Call], Awaitable[Answer]]], None]
) -> None:
    async def fail(call: Call) -> Answer:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("both", [ZeroDivisionError("secret"), KeyError(1)])

    handler(fail)
    async with serving(log, orderly=False) as world:
        await world.peer.send(query(1))
        final = await world.peer.receive_final(1)
        assert isinstance(final, Failure)
        assert final.code is ErrorCode.INTERNAL
        assert "secret" not in final.message
        await world.peer.send(Request(1, "wait", WAIT))
        world.job.end()
        assert isinstance(await world.peer.receive_final(1), Reply)
    (line,) = [line for line in log.lines if line["level"] == "error"]
    assert line["method"] == "query"
    assert "ZeroDivisionError: secret" in line["traceback"]


@pytest.mark.parametrize(
    "result",
    [
        JobReply(JobStatus("a", Status.RUNNING, 1, (bytes(MAX_FRAME_BYTES),), "alice", 0.0, 0)),
        JobReply(JobStatus("a", Status.RUNNING, 1, (b"",) * 100_000, "alice", 0.0, 0)),
        JobReply(JobStatus("a", Status.RUNNING, 1, (), "\udcff", 0.0, 0)),
    ],
    ids=["large", "long", "no text"],
)
async def test_a_result_that_the_wire_cannot_carry(
    log: KeptLog, handler: Callable[[Callable[[Call], Awaitable[Answer]]], None], result: JobReply
) -> None:
    async def reply(call: Call) -> Answer:
        await trio.lowlevel.checkpoint()
        return lambda: result

    handler(reply)
    async with serving(log, orderly=False) as world:
        await world.peer.send(query(1))
        final = await world.peer.receive_final(1)
        assert isinstance(final, Failure)
        assert final.code is ErrorCode.INTERNAL
        await world.peer.send(query(1), Ping(3))  # and it lives on
        await world.peer.receive_final(1)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Request(1, "start", {"argv": ["true"]}), ErrorCode.DENIED),
        (Request(1, "stop", {"id": "a"}), ErrorCode.DENIED),
        (Request(1, "reboot"), ErrorCode.UNKNOWN_METHOD),
        (Request(1, "query", {}), ErrorCode.BAD_REQUEST),
        (Request(1, "query", {"id": "none"}), ErrorCode.NOT_FOUND),
    ],
)
async def test_refusals_are_final_messages(log: KeptLog, message: Request, code: ErrorCode) -> None:
    async with serving(log, CertRole.USER) as world:
        await world.peer.send(message)
        final = await world.peer.receive_final(1)
        assert isinstance(final, Failure)
        assert final.code is code
        await world.peer.send(query(1))
        assert isinstance(await world.peer.receive_final(1), Reply)
    denied = [line for line in log.lines if line["message"] == "denied"]
    assert [(line["identity"], line["role"], line["method"]) for line in denied] == (
        [("bob", "User", message.method)] if code is ErrorCode.DENIED else []
    )


async def test_a_protocol_error_ends_all_with_error_zero(log: KeptLog) -> None:
    async with serving(log) as world:
        world.job.output.append(STDOUT, b"abc")
        await world.peer.send(Request(1, "wait", WAIT), stream(2, 100))
        await trio.testing.wait_all_tasks_blocked()
        await world.peer.stream.send_all(b"\0\0\0\1\xc1" + b"more that nobody reads" * 1000)
        await world.peer.receive_end()
        last = world.peer.got[-1]
        assert isinstance(last, Failure)
        assert (last.id, last.code) == (0, ErrorCode.PROTOCOL)
        assert world.peer.finals() == [0]
        assert world.peer.output(2) == b"abc"
    assert "a client broke the protocol" in log.messages


async def test_a_cut_within_a_frame_ends_the_session(log: KeptLog) -> None:
    async with serving(log) as world:
        await world.peer.send(Request(1, "wait", WAIT))
        await world.peer.stream.send_all(b"\0\0\0\x10x")
        await world.peer.stream.send_stream.aclose()
        await world.ended.wait()
    assert "a client broke the protocol" in log.messages


async def test_a_peer_that_leaves_ends_its_requests(log: KeptLog) -> None:
    async with serving(log) as world:
        await world.peer.send(Request(1, "wait", WAIT), stream(2, 100))
        await trio.testing.wait_all_tasks_blocked()
        await world.peer.stream.send_stream.aclose()
        await world.ended.wait()
        assert not world.job.output._subscribers
    assert log.messages == []


async def test_a_broken_stream_is_a_cut_and_no_error(log: KeptLog) -> None:
    async with serving(log) as world:
        await world.peer.send(stream(1, 100))
        await trio.testing.wait_all_tasks_blocked()
        await world.peer.stream.receive_stream.aclose()  # sending to it raises BrokenResourceError
        world.job.output.append(STDOUT, b"x")
        await world.ended.wait()
    assert log.messages == ["a connection was cut"]


async def test_refuse_speaks_in_place_of_the_hello() -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    await refuse(server_end, RequestError(ErrorCode.DENIED, "No role."))
    peer = Peer(client_end)
    assert await peer.receive() == Failure(0, ErrorCode.DENIED, "No role.")


# --- finish


async def test_finish_lets_requests_end_and_takes_no_more(log: KeptLog) -> None:
    async with serving(log) as world:
        await world.peer.send(stream(1, 100), Request(2, "wait", WAIT))
        await trio.testing.wait_all_tasks_blocked()
        world.session.finish()
        await world.peer.send(query(3))
        refused = await world.peer.receive_final(3)
        assert isinstance(refused, Failure)
        assert refused.code is ErrorCode.SHUTTING_DOWN
        world.job.output.append(STDOUT, b"last words")
        world.job.end()
        await world.peer.receive_end()
        last = world.peer.got[-1]
        assert isinstance(last, Failure)
        assert (last.id, last.code) == (0, ErrorCode.SHUTTING_DOWN)
        assert sorted(world.peer.finals()[1:3]) == [1, 2]
        assert all(
            isinstance(m, Reply) for m in world.peer.got if isinstance(m, Reply | Failure) and m.id in (1, 2)
        )
        assert world.peer.output(1) == b"last words"


async def test_a_flood_in_one_read_lets_others_run(log: KeptLog) -> None:
    other = Other()
    async with serving(log) as world:
        flood = b"".join(world.peer.connection.send(Credit(1, 0)) for _ in range(2000))
        flood = world.peer.connection.send(Request(1, "wait", WAIT)) + flood
        flood += world.peer.connection.send(Ping(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.run)
            await world.peer.stream.send_all(flood)
            assert await world.peer.receive() == Pong(1)
            nursery.cancel_scope.cancel()
    assert other.turns > 1000


async def test_a_client_that_stops_within_a_large_frame_gives_its_place_to_others(
    log: KeptLog, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(intake, "LARGE_FRAMES", 1)
    large, registry = LargeFrames(), cast("Registry", FakeRegistry())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            peers = []
            for _ in range(2):
                client_end, server_end = trio.testing.memory_stream_pair()
                session = Session(server_end, BOB, registry, log, "test/1", stall=1, large=large)
                nursery.start_soon(session.run)
                peers.append(Peer(client_end))
                await peers[-1].receive()
            stopped, waiting = peers
            frame = waiting.connection.send(Request(1, "query", {"id": "x" * 200_000}))
            for size in (70_000, 140_000):
                await stopped.stream.send_all(frame[size - 70_000 : size])
                await trio.sleep(0.9)  # slow, but it goes on
            await waiting.stream.send_all(frame)
            assert isinstance(await waiting.receive_final(1), Failure)  # there is no such job
            for peer in peers:
                await peer.stream.aclose()
    assert [line["message"] for line in log.lines] == ["a connection was cut"]


async def test_nothing_is_kept_of_a_large_request_that_has_ended(log: KeptLog) -> None:
    async with serving(log) as world:
        large = world.peer.connection.send(Request(1, "query", {"id": "x" * 3 * 2**20}))
        tracemalloc.start()
        try:
            await world.peer.stream.send_all(large)
            assert isinstance(await world.peer.receive_final(1), Failure)
            await trio.testing.wait_all_tasks_blocked()
            assert tracemalloc.get_traced_memory()[0] < 2**20
        finally:
            tracemalloc.stop()


async def test_finish_ends_an_idle_session_at_once(log: KeptLog) -> None:
    async with serving(log) as world:
        world.session.finish()
        world.session.finish()
        await world.peer.receive_end()
        assert world.peer.finals() == [0]


async def test_finish_before_the_start_counts(log: KeptLog) -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    session = Session(server_end, BOB, cast("Registry", FakeRegistry()), log, "test/1")
    session.finish()
    with trio.fail_after(PATIENCE):
        await session.run()
    peer = Peer(client_end)
    await server_end.aclose()
    await peer.receive_end()
    assert [type(message) for message in peer.got] == [Hello, Failure]


# --- a peer that does not read


class Tap:
    """A stream that counts what a session gave it, and takes no more than it is told to."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self.stream = stream
        self.sizes: list[int] = []
        self.open = trio.Event()

    async def send_all(self, data: bytes) -> None:
        self.sizes.append(len(data))
        await self.open.wait()
        await self.stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def stalled(log: KeptLog) -> AsyncIterator[tuple[Session, Peer, FakeJob, Tap]]:
    """A session whose peer reads nothing until its tap is opened."""
    client_end, server_end = trio.testing.memory_stream_pair()
    registry, tap = FakeRegistry(), Tap(server_end)
    session = Session(tap, BOB, cast("Registry", registry), log, "test/1")
    peer = Peer(client_end)
    peer.connection.receive_data(Connection(Role.SERVER).send(hello_to(CertRole.ADMIN, 0.5)))
    assert isinstance(peer.connection.next_event(), Hello)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await trio.testing.wait_all_tasks_blocked()
        yield session, peer, registry.job, tap
        nursery.cancel_scope.cancel()


async def test_a_peer_that_does_not_read_costs_one_buffer(log: KeptLog) -> None:
    async with stalled(log) as (session, peer, job, tap):
        for _ in range(40):
            job.output.append(STDOUT, bytes(256 * 1024))
        await peer.send(*(stream(number, 2**30) for number in range(1, 20)))
        await trio.testing.wait_all_tasks_blocked()
        assert session._outbox.size <= 2 * SEND_BYTES
        assert sum(tap.sizes) <= SEND_BYTES


async def test_replies_that_nobody_reads_are_not_built(
    log: KeptLog, handler: Callable[[Callable[[Call], Awaitable[Answer]]], None]
) -> None:
    built = 0

    def build() -> JobReply:
        nonlocal built
        built += 1
        return JobReply(JobStatus("a", Status.RUNNING, 1, (bytes(100_000),), "alice", 0.0, 0))

    async def ask(call: Call) -> Answer:
        await trio.lowlevel.checkpoint()
        return build

    handler(ask)
    async with stalled(log) as (session, peer, _, _):
        await peer.send(*map(query, range(1, 257)))
        await trio.testing.wait_all_tasks_blocked()
        assert built == REPLY_BYTES // 100_000 + 1
        assert session._outbox.size < REPLY_BYTES + 101_000


async def test_what_waited_for_a_slow_peer_comes_whole(log: KeptLog) -> None:
    async with stalled(log) as (_, peer, job, tap):
        whole = b""
        for number in range(20):
            whole += bytes([number]) * 100_000
            job.output.append(STDOUT, whole[-100_000:])
        await peer.send(*(stream(number, 2**30) for number in (1, 2, 3)))
        await trio.testing.wait_all_tasks_blocked()
        job.end()
        tap.open.set()
        # The hello was given before; it comes first here too.
        peer.connection = Connection(Role.CLIENT)
        peer.connection.receive_data(Connection(Role.SERVER).send(hello_to(CertRole.ADMIN, 0.5)))
        hello = peer.connection.next_event()
        assert isinstance(hello, Hello)
        for number in (1, 2, 3):
            peer.connection.send(stream(number, 2**30))
        frame = len(Connection(Role.SERVER).send(hello))
        skipped = b""
        while len(skipped) < frame:
            skipped += bytes(await peer.stream.receive_some(frame - len(skipped)))
        while len(peer.finals()) < 3:
            await peer.receive()
        assert [peer.output(number) == whole for number in (1, 2, 3)] == [True] * 3
        assert max(tap.sizes) <= 2 * SEND_BYTES


async def test_small_pieces_coalesce_under_load(log: KeptLog) -> None:
    async with stalled(log) as (_, peer, job, tap):
        await peer.send(stream(1, 2**30))
        for _ in range(100):
            job.output.append(STDOUT, b"x" * 100)
            await trio.testing.wait_all_tasks_blocked()
        tap.open.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(tap.sizes) == 2  # the hello, on which the peer stalled, and all that came since


async def test_a_stalled_peer_does_not_hold_up_the_end(
    log: KeptLog, autojump_clock: trio.testing.MockClock
) -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    tap = Tap(server_end)
    session = Session(tap, BOB, cast("Registry", FakeRegistry()), log, "test/1")
    session.finish()
    begin = trio.current_time()
    await session.run()
    assert trio.current_time() - begin == session_module.CLOSE_DEADLINE
    await client_end.aclose()


# --- cancelled anywhere


async def test_a_session_cancelled_at_any_step_leaves_nothing(log: KeptLog) -> None:  # noqa: ASYNC910
    for k in itertools.count(1):
        client_end, server_end = trio.testing.memory_stream_pair()
        registry = FakeRegistry()
        session = Session(server_end, BOB, cast("Registry", registry), log, "test/1")
        peer = Peer(client_end)

        async def converse(scope: trio.CancelScope, peer: Peer = peer, job: FakeJob = registry.job) -> None:
            await peer.receive()
            await peer.send(stream(1, 5), Request(2, "wait", WAIT), query(3), Request(4, "reboot"))
            job.output.append(STDOUT, b"0123456789")
            await peer.receive()
            await peer.send(Credit(1, 50), Cancel(2), Ping(1))
            job.output.append(STDOUT, b"abc")
            job.end()
            while len(peer.finals()) < 4:
                await peer.receive()
            scope.cancel()

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                instrument = CancelAt(nursery.cancel_scope, k)
                trio.lowlevel.add_instrument(instrument)
                try:
                    nursery.start_soon(session.run)
                    await converse(nursery.cancel_scope)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
        assert not registry.job.output._subscribers
        finals = peer.finals()
        assert len(finals) == len(set(finals))
        if instrument.left > 0:  # it had come to its end before
            assert sorted(finals) == [1, 2, 3, 4]
            break
    assert k > 30
    assert [line for line in log.lines if line["level"] == "error"] == []
