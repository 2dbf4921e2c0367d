"""A session that is ended from outside: at once, with its reason, and whatever was under way."""

import threading
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from certs.roles import Identity, Role
from tests.harness import PATIENCE
from tests.worker.common import KeptLog
from tests.worker.test_session import WAIT, FakeJob, FakeRegistry, Peer, query, serving, stream
from wire.errors import ErrorCode
from wire.jobs import JobReply
from wire.messages import STDOUT, Failure, Output, Request
from worker import windows
from worker.blocks import BLOCK_BYTES, Block
from worker.call import Answer, Call
from worker.methods import METHODS, Method
from worker.output import OutputLog
from worker.registry import Registry
from worker.session import Session
from worker.spill_file import Place, SpillFile
from worker.store import Budget, OutputStore

LAST_WORD = Failure(0, ErrorCode.REVOKED, "It was revoked.")


def end(session: Session) -> None:
    session.end(ErrorCode.REVOKED, LAST_WORD.message)


async def test_requests_end_at_once_and_nothing_follows_the_reason(log: KeptLog) -> None:
    async with serving(log) as world:
        world.job.output.append(STDOUT, b"abc")
        await world.peer.send(stream(1, 2), Request(2, "wait", WAIT))
        await world.peer.receive()
        assert world.job.output._subscribers
        end(world.session)
        end(world.session)  # once is enough
        world.session.finish()  # and a shutdown has nothing to add
        await world.peer.receive_end()
        assert not world.job.output._subscribers
        assert world.peer.got[-1] == LAST_WORD
        assert world.peer.finals() == [0]
        assert world.peer.output(1) == b"ab"
        assert not world.job.ended.is_set()
        assert log.messages == []


async def test_what_comes_after_the_end_is_not_done(log: KeptLog) -> None:
    """What the client had on its way is read, so that no reset takes the reason from it, but not done."""
    async with serving(log) as world:
        end(world.session)
        await world.peer.stream.send_all(world.peer.connection.send(query(1)))
        await world.peer.receive_end()
        assert world.peer.finals() == [0]


async def test_output_that_waits_to_be_sent_is_dropped(log: KeptLog) -> None:
    client_end, server_end = trio.testing.lockstep_stream_pair()
    registry = FakeRegistry()
    identity = Identity("bob", "01", Role.ADMIN)
    session = Session(server_end, identity, cast("Registry", registry), log, "test/1")
    peer = Peer(client_end)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await peer.receive()
            await peer.send(stream(1, 1000))
            registry.job.output.append(STDOUT, b"first")
            await trio.testing.wait_all_tasks_blocked()  # it is being sent
            registry.job.output.append(STDOUT, b"second")
            await trio.testing.wait_all_tasks_blocked()  # it waits for that
            end(session)
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(await peer.receive(), Output)
            assert await peer.receive() == LAST_WORD
            await client_end.aclose()
    assert peer.output(1) == b"first"


async def test_the_reason_does_not_wait_for_a_request_that_takes_its_time(
    log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = trio.Event()

    async def slow(call: Call, params: object) -> Answer:
        with trio.CancelScope(shield=True):
            await release.wait()
        return lambda: JobReply(FakeJob("a").status())

    monkeypatch.setitem(METHODS, "query", Method(METHODS["query"].roles, METHODS["query"].params, slow))
    async with serving(log) as world:
        await world.peer.send(query(1))
        await trio.testing.wait_all_tasks_blocked()
        end(world.session)
        assert await world.peer.receive() == LAST_WORD
        release.set()
        await world.peer.receive_end()
        assert world.peer.finals() == [0]


async def test_what_is_read_from_the_disk_when_the_session_ends_is_not_sent(
    log: KeptLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on, really = trio.Event(), threading.Event(), SpillFile.read

    def slow(file: SpillFile, places: list[Place]) -> list[Block]:
        trio.from_thread.run_sync(reading.set)
        assert go_on.wait(PATIENCE)
        return really(file, places)

    monkeypatch.setattr(SpillFile, "read", slow)
    monkeypatch.setattr(SpillFile, "read_cached", lambda *_: None)
    monkeypatch.setattr(windows, "WINDOWS_BYTES", 0)  # others have them all
    store = OutputStore(Budget(8 * BLOCK_BYTES, BLOCK_BYTES, None, tmp_path), log)
    async with serving(log) as world:
        world.job.output = OutputLog(store)
        for _ in range(4):
            world.job.output.append(STDOUT, bytes(BLOCK_BYTES))
            await world.job.output.make_room()
        await world.peer.send(stream(1, 1000))
        await reading.wait()
        end(world.session)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        await world.peer.receive_end()
        assert world.peer.finals() == [0]
        assert world.peer.output(1) == b""
        assert log.messages == []
    world.job.output.remove()
    store.close()


async def test_who_broke_the_protocol_is_told_that_alone(log: KeptLog) -> None:
    async with serving(log) as world:
        await world.peer.stream.send_all(b"\0\0\0\0")
        await trio.testing.wait_all_tasks_blocked()
        end(world.session)
        await world.peer.receive_end()
        assert [message.code for message in world.peer.got if isinstance(message, Failure)] == [
            ErrorCode.PROTOCOL
        ]
