"""The server's end of a WebSocket in memory, against wsproto's client: messages, pings, closes, refusals."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import wsproto
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from tests.harness import PATIENCE
from wire.trio_stream import MAX_MESSAGE_BYTES
from worker.websocket import SUBPROTOCOL, ServerWebSocket

Memory = trio.StapledStream[Any, Any]


class Client:
    """The other end; it sends what wsproto lets it, or bytes."""

    def __init__(self, stream: Memory) -> None:
        self.stream = stream
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

    async def send(self, *events: Event) -> None:
        await self.stream.send_all(b"".join(map(self._protocol.send, events)))

    async def receive(self) -> Event:
        await trio.lowlevel.checkpoint()
        while (event := next(self._protocol.events(), None)) is None:
            self._protocol.receive_data(bytes(await self.stream.receive_some()))
        return event


@asynccontextmanager
async def joined(
    request: Request = Request(host="a.example", target="/", subprotocols=[SUBPROTOCOL]),  # noqa: B008
) -> AsyncIterator[tuple[Client, ServerWebSocket, bool]]:
    """Both ends after the upgrade, and whether the server accepted."""
    client_end, server_end = trio.testing.memory_stream_pair()
    client, server = Client(client_end), ServerWebSocket(server_end)
    with trio.fail_after(PATIENCE):
        await client.send(request)
        accepted = await server.upgrade()
        yield client, server, accepted


async def read_all(server: ServerWebSocket) -> None:
    await trio.lowlevel.checkpoint()
    while await server.receive_some():
        pass


async def test_messages_go_both_ways_and_empty_ones_mean_nothing() -> None:
    async with joined() as (client, server, accepted):
        assert accepted
        assert isinstance(await client.receive(), AcceptConnection)
        await client.send(BytesMessage(b""), BytesMessage(b"ab", message_finished=False), BytesMessage(b"c"))
        assert await server.receive_some() + await server.receive_some() == b"abc"
        await server.send_all(b"\0\0\0\2xy")
        assert await client.receive() == BytesMessage(b"\0\0\0\2xy")


async def test_a_ping_is_answered_between_a_message_and_the_next() -> None:
    async with joined() as (client, server, _):
        await client.receive()
        await client.send(Ping(b"1"), Ping(b"2"), BytesMessage(b"x"))
        assert await server.receive_some() == b"x"
        assert [await client.receive(), await client.receive()] == [Pong(b"1"), Pong(b"2")]


async def test_while_a_message_is_sent_the_newest_ping_waits_for_its_end() -> None:
    client_end, server_end = trio.testing.lockstep_stream_pair()
    client, server = Client(client_end), ServerWebSocket(server_end)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, Request(host="a.example", target="/", subprotocols=[SUBPROTOCOL]))
            nursery.start_soon(server.upgrade)
            await client.receive()
            nursery.start_soon(server.send_all, b"\0\0\0\1x")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(server.receive_some)
            await client.send(Ping(b"1"), Ping(b"2"))
            await trio.testing.wait_all_tasks_blocked()
            assert await client.receive() == BytesMessage(b"\0\0\0\1x")
            assert await client.receive() == Pong(b"2")
            nursery.cancel_scope.cancel()


async def test_fragments_without_end_keep_nothing_and_let_others_run() -> None:
    async with joined() as (client, server, _):
        turns = 0
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(watch)
            nursery.start_soon(server.receive_some)
            await client.stream.send_all(b"\x02\x80" + bytes(4) + (b"\x00\x80" + bytes(4)) * 10_000)
            while turns < 10_000:
                await trio.lowlevel.checkpoint()
            assert not server._message_bytes
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([TextMessage("hello")], 1003),
        ([BytesMessage(bytes(MAX_MESSAGE_BYTES), message_finished=False), BytesMessage(b"x")], 1009),
    ],
)
async def test_what_is_refused_is_told_by_code(events: list[Event], code: int) -> None:
    async with joined() as (client, server, _):
        await client.receive()
        await client.send(*events)
        with pytest.raises(trio.BrokenResourceError):
            await read_all(server)
        close = await client.receive()
        assert isinstance(close, CloseConnection)
        assert close.code == code
        await server.aclose()


async def test_a_frame_that_breaks_the_protocol() -> None:
    async with joined() as (client, server, _):
        await client.receive()
        await client.stream.send_all(b"\x02\x01x")  # not masked
        with pytest.raises(trio.BrokenResourceError, match="unmasked"):
            await server.receive_some()
        close = await client.receive()
        assert isinstance(close, CloseConnection)
        assert close.code == 1002


@pytest.mark.parametrize(("code", "orderly"), [(1000, True), (1001, True), (1011, False), (4000, False)])
async def test_a_close_is_an_end_or_a_cut_by_its_code(code: int, orderly: bool) -> None:
    async with joined() as (client, server, _):
        await client.receive()
        await client.send(CloseConnection(code))
        if orderly:
            assert await server.receive_some() == b""
        else:
            with pytest.raises(trio.BrokenResourceError, match=str(code)):
                await server.receive_some()
        assert isinstance(await client.receive(), CloseConnection)
        assert await server.receive_some() == b""
        await server.aclose()


async def test_a_close_while_a_message_is_sent_is_an_end_and_no_cut() -> None:
    client_end, server_end = trio.testing.lockstep_stream_pair()
    client, server = Client(client_end), ServerWebSocket(server_end)
    got = list[bytes]()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, Request(host="a.example", target="/", subprotocols=[SUBPROTOCOL]))
            nursery.start_soon(server.upgrade)
            await client.receive()

            async def receive() -> None:
                got.append(await server.receive_some())

            async def send() -> None:
                for _ in range(3):
                    await server.send_all(b"\0\0\0\1x")

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(receive)
            await client.send(Ping(b"1"), CloseConnection(1000))
            await trio.testing.wait_all_tasks_blocked()
            assert await client.receive() == BytesMessage(b"\0\0\0\1x")
            while not isinstance(event := await client.receive(), CloseConnection):
                assert isinstance(event, Pong)
    assert got == [b""]


async def test_an_end_of_file_is_a_cut() -> None:
    async with joined() as (client, server, _):
        await client.stream.send_eof()
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()


async def test_aclose_waits_for_the_clients_close() -> None:
    async with joined() as (client, server, _), trio.open_nursery() as nursery:
        await client.receive()
        nursery.start_soon(server.aclose)
        close = await client.receive()
        assert isinstance(close, CloseConnection)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        await client.send(close.response())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request(host="a.example", target="/x", subprotocols=[SUBPROTOCOL]), 404),
        (Request(host="a.example", target="/"), 400),
        (
            Request(
                host="a.example",
                target="/",
                subprotocols=[SUBPROTOCOL],
                extra_headers=[(b"Origin", b"https://b.example")],
            ),
            403,
        ),
    ],
)
async def test_upgrades_that_are_refused(request_: Request, status: int) -> None:
    async with joined(request_) as (client, _, accepted):
        assert not accepted
        refusal = await client.receive()
        assert isinstance(refusal, RejectConnection)
        assert refusal.status_code == status
        assert isinstance(await client.receive(), RejectData)


async def test_a_page_of_our_own_origin_may() -> None:
    headers = [(b"Origin", b"https://a.example")]
    request = Request(host="a.example", target="/", subprotocols=[SUBPROTOCOL], extra_headers=headers)
    async with joined(request) as (_, _, accepted):
        assert accepted


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000,
    ],
)
async def test_what_is_no_upgrade_at_all(head: bytes) -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    with trio.fail_after(PATIENCE):
        await client_end.send_all(head)
        assert not await ServerWebSocket(server_end).upgrade()
        assert (await client_end.receive_some()).startswith(b"HTTP/1.1 4")
