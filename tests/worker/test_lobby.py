"""Connections that have said nothing whole yet: what they cost, when they are heard, how they end."""

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.harness import PATIENCE
from tests.worker.common import KeptLog, Woken
from worker import accept as accept_module
from worker import carry_on as carry_on_module
from worker.accept import accept_forever
from worker.bounds import Bounds
from worker.gate import Gate, Visit
from worker.handshake import Turn
from worker.lobby import Lobby

HELLO = b"\x16\x03\x01\x00\x0a0123456789"


class Hall:
    """A lobby behind a port, and what comes out of it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.came: list[bytes] = []
        self.lost: list[str] = []
        self.may_end = trio.Event()
        self.failing: Exception | None = None
        self.port = 0

    async def handle(self, tcp: trio.SocketStream, visit: Visit, turn: Turn) -> None:
        if self.failing is not None:
            raise self.failing
        with self.gate.attend(visit):
            self.came.append(bytes(await tcp.receive_some(100)))
            turn.end()
            await self.may_end.wait()
        await tcp.aclose()

    def lose(self, visit: Visit, reason: str) -> None:
        self.lost.append("late" if visit.late else "dropped" if visit.dropped else reason)

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(data)
        return sock


@asynccontextmanager
async def hall(log: KeptLog, bounds: Bounds | None = None) -> AsyncIterator[Hall]:
    gate = Gate(bounds or Bounds(), log)
    it = Hall(gate)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    it.port = listener.socket.getsockname()[1]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            lobby = Lobby(gate, it.handle, it.lose, nursery, log)
            nursery.start_soon(gate.run)
            nursery.start_soon(lobby.run)
            nursery.start_soon(accept_forever, listener, lobby, gate, log)
            await trio.testing.wait_all_tasks_blocked()
            yield it
            nursery.cancel_scope.cancel()


async def quiet() -> None:
    """Wait until nothing is left to do; a step over loopback may take a moment."""
    await trio.testing.wait_all_tasks_blocked(0.02)


async def test_the_silent_and_the_slow_have_no_task_and_stand_in_nobodys_way(log: KeptLog) -> None:
    async with hall(log) as it:
        with ExitStack() as stack:
            before = trio.lowlevel.current_statistics().tasks_living
            for _ in range(50):
                stack.enter_context(it.connect())
                stack.enter_context(it.connect(HELLO[:3]))
                stack.enter_context(it.connect(HELLO[:-1]))
            await quiet()
            assert trio.lowlevel.current_statistics().tasks_living == before
            stack.enter_context(it.connect(HELLO))
            await quiet()
            assert it.came == [HELLO]
            it.may_end.set()


async def test_one_byte_at_a_time_wakes_nobody_up_before_the_last(log: KeptLog) -> None:
    async with hall(log) as it:
        it.may_end.set()
        with it.connect() as sock:
            await quiet()
            for part in (HELLO[:4], HELLO[5:-1]):
                woken = Woken()
                trio.lowlevel.add_instrument(woken)
                for byte in part:
                    sock.sendall(bytes((byte,)))
                    await quiet()
                trio.lowlevel.remove_instrument(woken)
                assert woken.tasks == set()
                sock.sendall(HELLO[4:5] if part == HELLO[:4] else b"")
                await quiet()
            sock.sendall(HELLO[-1:])
            await quiet()
            assert it.came == [HELLO]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it left and said nothing"),
        (HELLO[:3], "it left before its handshake"),
        (HELLO[:-1], "it left before its handshake"),
        (HELLO, "it left before its handshake"),
    ],
)
async def test_who_leaves_before_it_said_anything_whole(log: KeptLog, data: bytes, reason: str) -> None:
    async with hall(log) as it:
        with it.connect(data) as sock:
            sock.shutdown(socket.SHUT_WR)
            await quiet()
        assert it.lost == [reason]
        assert it.came == []


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"no TLS"])
async def test_who_speaks_no_tls_is_heard_though_it_says_no_more(log: KeptLog, data: bytes) -> None:
    async with hall(log) as it:
        it.may_end.set()
        busy = await it.gate.handshakes.wait_turn("192.0.2.1")
        with it.connect(data) as sock:
            sock.shutdown(socket.SHUT_WR)
            await quiet()
            busy.end()
            await quiet()
        assert it.came == [data]
        assert it.lost == []


async def test_the_newest_gets_in_and_the_dropped_are_cut(log: KeptLog) -> None:
    async with hall(log, Bounds(max_waiting=4)) as it:
        with ExitStack() as stack:
            socks = [stack.enter_context(it.connect()) for _ in range(6)]
            await quiet()
            assert it.lost == ["dropped", "dropped"]
            assert socks[0].recv(1) == b""
            socks[-1].sendall(HELLO)
            await quiet()
            assert it.came == [HELLO]
            it.may_end.set()


async def test_who_queues_for_its_handshake_has_no_task_and_can_be_dropped(log: KeptLog) -> None:
    async with hall(log, Bounds(max_waiting=4)) as it:
        busy = await it.gate.handshakes.wait_turn("192.0.2.1")
        with ExitStack() as stack:
            before = trio.lowlevel.current_statistics().tasks_living
            for _ in range(6):
                stack.enter_context(it.connect(HELLO))
                await quiet()
            assert trio.lowlevel.current_statistics().tasks_living == before
            assert it.lost == ["dropped", "dropped"]
            busy.end()
            it.may_end.set()
            await quiet()
            assert it.came == [HELLO] * 4


@pytest.mark.parametrize(
    ("more", "reason"), [(b"", "it left"), (bytes(64 * 1024), "it said too much before its turn")]
)
async def test_who_leaves_while_it_queues_costs_no_handshake(log: KeptLog, more: bytes, reason: str) -> None:
    async with hall(log) as it:
        it.may_end.set()
        busy = await it.gate.handshakes.wait_turn("192.0.2.1")
        with it.connect(HELLO) as sock:
            await quiet()
            assert it.lost == []
            if more:
                sock.sendall(more)
            else:
                sock.shutdown(socket.SHUT_WR)
            await quiet()
            assert it.lost == [reason]
            busy.end()
            await quiet()
            assert it.came == []


async def test_the_newest_of_one_source_goes_first(log: KeptLog) -> None:
    async with hall(log) as it:
        it.may_end.set()
        busy = await it.gate.handshakes.wait_turn("192.0.2.1")
        with ExitStack() as stack:
            hellos = [HELLO[:-1] + bytes((number,)) for number in range(3)]
            for hello in hellos:
                stack.enter_context(it.connect(hello))
                await quiet()
            busy.end()
            await quiet()
            assert it.came == hellos[::-1]


async def test_who_is_late_is_cut(log: KeptLog) -> None:
    async with hall(log, Bounds(handshake_timeout=0.05)) as it:
        with it.connect() as sock:
            assert await trio.to_thread.run_sync(sock.recv, 1) == b""
        assert it.lost == ["late"]


async def test_at_the_end_all_are_cut(log: KeptLog) -> None:
    async with hall(log) as it:
        busy = await it.gate.handshakes.wait_turn("192.0.2.1")
        with it.connect() as silent, it.connect(HELLO) as queueing:
            await quiet()
            it.gate.drop_all()
            assert it.lost == ["dropped", "dropped"]
            busy.end()
            for sock in (silent, queueing, it.connect()):
                with sock, pytest.raises(ConnectionError) if sock is queueing else ExitStack():
                    assert await trio.to_thread.run_sync(sock.recv, 1) == b""


async def test_a_lobby_that_is_cancelled_closes_what_it_holds(log: KeptLog) -> None:
    with ExitStack() as stack:
        async with hall(log) as it:
            sock = stack.enter_context(it.connect())
            await quiet()
        assert sock.recv(1) == b""


async def test_a_failure_in_accept_or_lobby_ends_neither(
    log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry_on_module, "PAUSE", 0)
    monkeypatch.setattr(accept_module, "PAUSE", 0)
    left: dict[str, list[Exception]] = {}

    def let_fail(owner: type, name: str) -> None:
        work = getattr(owner, name)

        def run(*given: object) -> Any:
            if left.get(name):
                raise left[name].pop()
            return work(*given)

        monkeypatch.setattr(owner, name, run)

    for owner, name in ((Lobby, "_hear"), (Gate, "begin"), (Gate, "arrive")):
        let_fail(owner, name)
    async with hall(log) as it:
        it.may_end.set()
        for name in ("_hear", "begin", "arrive"):
            left[name] = [MemoryError(), OSError(errno.ENOMEM, "no memory"), ValueError("bug")]
            with ExitStack() as stack:
                # The connection in whose service it fails may be lost; those that come later are not.
                for _ in range(3):
                    stack.enter_context(it.connect(HELLO))
                    await quiet()
                assert not left[name]
                it.came.clear()
                stack.enter_context(it.connect(HELLO))
                await quiet()
                assert it.came == [HELLO]


async def test_a_failure_in_one_connection_ends_no_other(log: KeptLog) -> None:
    async with hall(log) as it:
        with it.connect(HELLO) as first:
            await quiet()
            it.failing = MemoryError()
            with it.connect(HELLO) as second, pytest.raises(ConnectionError):
                await trio.to_thread.run_sync(second.recv, 1)
            it.failing = None
            with it.connect(HELLO) as third:
                await quiet()
                assert it.came == [HELLO] * 2
                it.may_end.set()
                for sock in (first, third):
                    assert await trio.to_thread.run_sync(sock.recv, 1) == b""
        assert it.lost == []
    assert log.messages == ["a connection failed"]
