"""The Trio adapter over memory streams, bare and through a real WebSocket on both ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing
from trio_websocket import WebSocketConnection, wrap_client_stream, wrap_server_stream

from tests.harness import PATIENCE
from wire.connection import CLOSED, Connection, Role
from wire.errors import RemoteProtocolError
from wire.frames import MAX_FRAME_BYTES
from wire.messages import STDOUT, Hello, Output, Ping, Reply, Request
from wire.trio_stream import CLOSE_SECONDS, MAX_MESSAGE_BYTES, WebSocketStream, receive_event

HELLO = Hello(1, "worker-service/test", "alice", "Admin", MAX_FRAME_BYTES, 64)
SUBPROTOCOL = "worker.v1.msgpack"


#: What a client sends that is no more than bytes on a stream, so that it can be as silent as we like.
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@asynccontextmanager
async def raw_client(
    first: bytes,
) -> AsyncIterator[tuple[trio.abc.Stream, WebSocketStream]]:
    """A server's WebSocket whose client has sent these bytes, and sends nothing by itself."""
    client_end, server_end = trio.testing.memory_stream_pair()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await client_end.send_all(UPGRADE)
            websocket = await (await wrap_server_stream(nursery, server_end)).accept()
            await client_end.send_all(first)
            yield client_end, WebSocketStream(websocket)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def websockets() -> AsyncIterator[tuple[WebSocketConnection, WebSocketConnection]]:
    """A client and a server WebSocket, joined in memory."""
    client_end, server_end = trio.testing.memory_stream_pair()
    found: list[WebSocketConnection] = []

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                request = await wrap_server_stream(nursery, server_end, max_message_size=MAX_MESSAGE_BYTES)
                assert request.proposed_subprotocols == (SUBPROTOCOL,)
                found.append(await request.accept(subprotocol=SUBPROTOCOL))

            async with trio.open_nursery() as handshake:
                handshake.start_soon(serve)
                client = await wrap_client_stream(
                    nursery,
                    cast("trio.SocketStream", client_end),  # any stream will do
                    "localhost",
                    "/",
                    subprotocols=[SUBPROTOCOL],
                    max_message_size=MAX_MESSAGE_BYTES,
                )
            assert client.subprotocol == SUBPROTOCOL
            yield client, found[0]
            nursery.cancel_scope.cancel()


async def test_events_over_a_stream_that_splits_everywhere() -> None:
    client_end, server_end = trio.testing.lockstep_stream_pair()
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    output = Output(1, 0, STDOUT, bytes(range(256)) * 20)

    async def serve() -> None:
        await server_end.send_all(server.send(HELLO))
        assert await receive_event(server_end, server) == Request(1, "stream", {"id": "a"}, 10_000)
        for byte in server.send(output) + server.send(Reply(1)):
            await server_end.send_all(bytes([byte]))
        await server_end.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        assert await receive_event(client_end, client) == HELLO
        await client_end.send_all(client.send(Request(1, "stream", {"id": "a"}, 10_000)))
        assert await receive_event(client_end, client) == output
        assert await receive_event(client_end, client) == Reply(1)
        assert await receive_event(client_end, client) is CLOSED


async def test_a_stream_cut_within_a_frame() -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    await server_end.send_all(Connection(Role.SERVER).send(HELLO)[:-1])
    await server_end.aclose()
    with pytest.raises(RemoteProtocolError, match="cut in the middle of a frame"):
        await receive_event(client_end, Connection(Role.CLIENT))


async def test_a_cancelled_wait_loses_nothing() -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    client = Connection(Role.CLIENT)
    hello = Connection(Role.SERVER).send(HELLO)
    await server_end.send_all(hello[:10])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_event, client_end, client)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await server_end.send_all(hello[10:])
    assert await receive_event(client_end, client) == HELLO


async def test_events_over_a_websocket() -> None:
    async with websockets() as (client_socket, server_socket):
        client_stream, server_stream = WebSocketStream(client_socket), WebSocketStream(server_socket)
        client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
        await server_stream.send_all(server.send(HELLO))
        assert await receive_event(client_stream, client) == HELLO
        await client_stream.send_all(client.send(Request(1, "stream", {"id": "a"}, 2**20)))
        assert isinstance(await receive_event(server_stream, server), Request)
        output = Output(1, 0, STDOUT, bytes(2**20))
        await server_stream.send_all(server.send(output) + server.send(Reply(1)))
        assert await receive_event(client_stream, client) == output
        assert await receive_event(client_stream, client) == Reply(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server_stream.aclose)
            assert await receive_event(client_stream, client) is CLOSED


async def test_messages_hold_whole_frames_and_no_more_than_the_peer_takes() -> None:
    async with websockets() as (client_socket, server_socket):
        stream = WebSocketStream(server_socket)
        frame = (3 * 2**20).to_bytes(4, "big") + bytes(3 * 2**20)
        small = (1).to_bytes(4, "big") + b"x"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, small + frame + small + frame + small)
            assert await client_socket.get_message() == small + frame + small
            assert await client_socket.get_message() == frame + small


async def test_empty_messages_are_not_the_end() -> None:
    async with websockets() as (client_socket, server_socket):
        server = Connection(Role.SERVER)
        server.send(HELLO)
        client = Connection(Role.CLIENT)
        client.receive_data(Connection(Role.SERVER).send(HELLO))
        client.next_event()
        await client_socket.send_message(b"")
        await client_socket.send_message(client.send(Ping(1)))
        assert await receive_event(WebSocketStream(server_socket), server) == Ping(1)


async def test_a_text_message_is_refused() -> None:
    async with websockets() as (client_socket, server_socket):
        await client_socket.send_message("hello")
        with pytest.raises(trio.BrokenResourceError, match="a text message came"):
            await WebSocketStream(server_socket).receive_some()
        with pytest.raises(trio.BrokenResourceError, match="the WebSocket was cut"):
            await WebSocketStream(client_socket).receive_some()
        assert client_socket.closed is not None
        assert client_socket.closed.code == 1003


async def test_refusing_text_does_not_wait_for_a_stalled_peer(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client(b"\x81\x82\x00\x00\x00\x00hi") as (_, stream):
        begin = trio.current_time()
        with pytest.raises(trio.BrokenResourceError, match="a text message came"):
            await stream.receive_some()
        assert trio.current_time() - begin <= CLOSE_SECONDS


@pytest.mark.parametrize("code", [1000, 1001])
async def test_an_orderly_close_is_the_end(code: int) -> None:
    async with websockets() as (client_socket, server_socket):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client_socket.aclose, code)
            assert await WebSocketStream(server_socket).receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await WebSocketStream(server_socket).send_all(b"\x00\x00\x00\x01x")


async def test_a_close_without_a_code_is_the_end() -> None:
    async with raw_client(b"\x88\x80\x00\x00\x00\x00") as (_, stream):  # what a browser's close() sends
        assert await stream.receive_some() == b""


@pytest.mark.parametrize("code", [1002, 1011, 3000])
async def test_any_other_close_is_a_cut(code: int) -> None:
    async with websockets() as (client_socket, server_socket), trio.open_nursery() as nursery:
        nursery.start_soon(client_socket.aclose, code)
        with pytest.raises(trio.BrokenResourceError, match="the WebSocket was cut"):
            await WebSocketStream(server_socket).receive_some()


async def test_a_vanished_peer_is_a_cut() -> None:
    async with raw_client(b"\x82") as (client_end, stream):
        await client_end.aclose()
        with pytest.raises(trio.BrokenResourceError, match="the WebSocket was cut"):
            await stream.receive_some()


async def test_after_our_own_close_it_is_closed_not_broken() -> None:
    async with websockets() as (client_socket, server_socket):
        stream = WebSocketStream(client_socket)

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(WebSocketStream(server_socket).receive_some)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"\x00\x00\x00\x01x")
