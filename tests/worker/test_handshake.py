"""A handshake's steps: in a thread, one at a time, when a whole record is there; and a turn is never lost."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from certs.contexts import client_context, server_context
from tests.harness import PATIENCE
from tests.worker.common import Woken, without_threads
from worker.handshake import (
    HEADER_BYTES,
    MAX_BYTES,
    MAX_STEPS,
    SIP_BYTES,
    Handshake,
    HandshakeQueue,
    Sips,
    Turn,
    missing_bytes,
)


@contextmanager
def connected() -> Iterator[tuple[trio.SocketStream, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with here, there:
        yield trio.SocketStream(trio.socket.from_stdlib_socket(here)), there


class Client:
    """A client's side, whose bytes are ours to send."""

    def __init__(self, certs: Path) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = client_context(certs, "admin")
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def flight(self, received: bytes = b"") -> bytes:
        self.incoming.write(received)
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()


@pytest.mark.parametrize(
    ("head", "need"),
    [
        (b"", HEADER_BYTES),
        (b"\x16\x03\x01\x02", HEADER_BYTES),
        (b"\x16\x03\x01\x00\x00", HEADER_BYTES),
        (b"\x16\x03\x01\x02\x00", HEADER_BYTES + 512),
        (b"\x17\x03\x03\x41\x00", SIP_BYTES),
        (b"\x17\x03\x03\x41\x01", 0),
        (b"\x16\x02\x01\x02\x00", 0),
        (b"GET /", 0),
    ],
)
def test_what_must_be_there_before_a_step(head: bytes, need: int) -> None:
    assert missing_bytes(head) == need


async def test_steps_run_in_a_thread_and_in_turns(
    shared_certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, threads = HandshakeQueue(), []
    context = server_context(shared_certificates)
    client = Client(shared_certificates)
    step = Handshake._step

    def counted(handshake: Handshake) -> bool:
        threads.append(threading.current_thread())
        return step(handshake)

    monkeypatch.setattr(Handshake, "_step", counted)
    with connected() as (tcp, there), trio.fail_after(PATIENCE):
        handshake = Handshake(tcp, context, queue, "a")
        there.sendall(client.flight())
        async with trio.open_nursery() as nursery:
            with await queue.wait_turn("a") as turn:
                nursery.start_soon(handshake.run, turn)
                await trio.testing.wait_all_tasks_blocked(0.01)
                flight = await trio.to_thread.run_sync(there.recv, 65536)
            busy = await queue.wait_turn("b")
            # A byte at a time: nothing is due before the last of them.
            data = client.flight(flight)
            for byte in data:
                there.sendall(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(threads) == 1
            busy.end()
        await handshake.stream.do_handshake()
        assert handshake.stream.getpeercert()
        handshake.close()
    assert 2 <= len(threads) <= 5  # a record each, at most
    assert threading.main_thread() not in threads


async def test_a_peer_that_trickles_wakes_nobody_up(shared_certificates: Path) -> None:
    context = server_context(shared_certificates)
    client = Client(shared_certificates)
    queue = HandshakeQueue()
    with connected() as (tcp, there), trio.fail_after(PATIENCE):
        handshake = Handshake(tcp, context, queue, "a")
        there.sendall(client.flight())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handshake.run, await queue.wait_turn("a"))
            flight = await trio.to_thread.run_sync(there.recv, 65536)
            await trio.testing.wait_all_tasks_blocked()
            data = client.flight(flight)
            woken = Woken()
            there.sendall(data[:HEADER_BYTES])
            await trio.testing.wait_all_tasks_blocked(0.01)
            trio.lowlevel.add_instrument(woken)
            for byte in data[HEADER_BYTES : HEADER_BYTES + int.from_bytes(data[3:5], "big") - 1]:
                there.sendall(bytes((byte,)))
                await trio.lowlevel.checkpoint()
            trio.lowlevel.remove_instrument(woken)
            assert woken.tasks == set()
            nursery.cancel_scope.cancel()
        handshake.close()


async def test_threads_that_hang_lock_nobody_out(shared_certificates: Path) -> None:
    queue, client = HandshakeQueue(), Client(shared_certificates)
    limiter = trio.to_thread.current_default_thread_limiter()
    hanging = [object() for _ in range(int(limiter.total_tokens))]
    for it in hanging:
        limiter.acquire_on_behalf_of_nowait(it)
    try:
        with connected() as (tcp, there), trio.fail_after(PATIENCE):
            handshake = Handshake(tcp, server_context(shared_certificates), queue, "a")
            there.sendall(client.flight())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handshake.run, await queue.wait_turn("a"))
                await trio.lowlevel.wait_readable(there)
                there.sendall(client.flight(there.recv(65536)))
            handshake.close()
    finally:
        for it in hanging:
            limiter.release_on_behalf_of(it)


async def test_no_thread_is_survived(shared_certificates: Path) -> None:
    queue, client = HandshakeQueue(), Client(shared_certificates)
    with connected() as (tcp, there), trio.fail_after(PATIENCE):
        handshake = Handshake(tcp, server_context(shared_certificates), queue, "a")
        there.sendall(client.flight())
        with without_threads():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handshake.run, await queue.wait_turn("a"))
                await trio.testing.wait_all_tasks_blocked(0.01)
                there.sendall(client.flight(there.recv(65536)))
        await handshake.stream.do_handshake()
        handshake.close()


async def test_a_handshake_of_crumbs_has_an_end(shared_certificates: Path) -> None:
    """Each record holds one byte of a ClientHello."""
    queue, client = HandshakeQueue(), Client(shared_certificates)
    hello = client.flight()[HEADER_BYTES:]
    assert len(hello) > MAX_STEPS
    with connected() as (tcp, there), trio.fail_after(PATIENCE):
        handshake = Handshake(tcp, server_context(shared_certificates), queue, "a")

        async def crumble() -> None:
            await trio.lowlevel.checkpoint()
            for byte in hello[: MAX_STEPS + 1]:
                there.sendall(b"\x16\x03\x01\x00\x01" + bytes((byte,)))
                await trio.testing.wait_all_tasks_blocked(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crumble)
            turn = await queue.wait_turn("a")
            with pytest.raises(ssl.SSLError):
                await handshake.run(turn)
        handshake.close()
    with trio.fail_after(PATIENCE):
        (await queue.wait_turn("b")).end()


async def test_a_handshake_of_many_bytes_has_an_end(shared_certificates: Path) -> None:
    """As if of a long chain of certificates: records that OpenSSL waits to have the rest of."""
    queue = HandshakeQueue()
    handshake_bytes = b"\x01" + (65_000).to_bytes(3, "big") + bytes(MAX_BYTES)
    with connected() as (tcp, there), trio.fail_after(PATIENCE):
        handshake = Handshake(tcp, server_context(shared_certificates), queue, "a")
        for begin in range(0, MAX_BYTES, SIP_BYTES // 2):
            part = handshake_bytes[begin : begin + SIP_BYTES // 2]
            there.sendall(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part)
        turn = await queue.wait_turn("a")
        with pytest.raises(ssl.SSLError, match="bytes and more before it was done"):
            await handshake.run(turn)
        handshake.close()


async def test_a_turn_ends_whatever_becomes_of_its_step(shared_certificates: Path) -> None:
    queue = HandshakeQueue()
    for garbage in (os.urandom(400), b""):
        with connected() as (tcp, there), trio.fail_after(PATIENCE):
            handshake = Handshake(tcp, server_context(shared_certificates), queue, "a")
            if garbage:
                there.sendall(garbage)
            else:
                there.shutdown(socket.SHUT_WR)
            turn = await queue.wait_turn("a")
            with pytest.raises(ssl.SSLError):
                await handshake.run(turn)
            handshake.close()
    with trio.fail_after(PATIENCE):
        (await queue.wait_turn("b")).end()


@pytest.mark.parametrize("turn_comes_first", [True, False])
async def test_who_is_cancelled_as_its_turn_comes_gives_it_on(turn_comes_first: bool) -> None:
    queue = HandshakeQueue()
    held = await queue.wait_turn("a")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def cancel_as_its_turn_comes() -> None:
                await trio.testing.wait_all_tasks_blocked()
                if turn_comes_first:
                    held.end()
                scope.cancel()
                held.end()

            nursery.start_soon(cancel_as_its_turn_comes)
            with scope, await queue.wait_turn("b"):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        (await queue.wait_turn("c")).end()


async def test_turns_that_were_given_up_are_passed_over() -> None:
    await trio.lowlevel.checkpoint()
    queue, begun = HandshakeQueue(), []

    def waiting(name: str) -> Turn:
        begin: Callable[[Turn], object] = lambda _: begun.append(name)  # noqa: E731
        turn = Turn(queue, name, begin)
        turn.join()
        return turn

    first, second, third = map(waiting, "abc")
    second.end()
    assert begun == ["a"]
    first.end()
    first.end()
    assert begun == ["a", "c"]
    third.end()
    waiting("d")
    assert begun == ["a", "c", "d"]


async def test_openssl_gets_little_at_a_time() -> None:
    with connected() as (tcp, there), trio.fail_after(PATIENCE):
        there.sendall(bytes(3 * SIP_BYTES))
        assert len(await Sips(tcp).receive_some(65536)) == SIP_BYTES
