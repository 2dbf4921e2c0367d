"""The Trio client against a server in memory: pings, credit, cancels, ends, and their order."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from client.errors import CutError
from client.trio_client import Client, client_over
from tests.client.either import over
from tests.client.fake import HELLO, JOB, FakeServer, TrioLink, silence
from wire import codec
from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.flow import DEFAULT_WINDOW
from wire.jobs import JobReply
from wire.messages import Cancel, Credit, Failure, Output, Ping, Reply, Request

RESULT = codec.to_map(JobReply(JOB))


async def test_a_silent_server_is_given_up(autojump_clock: MockClock) -> None:
    """Every call under way learns of it, and every later one."""
    server = FakeServer(lambda message: [])
    caught = []
    async with client_over(TrioLink(server), "fake:1") as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(CutError, match="no longer answers") as info:
                await client.query("x")
            caught.append(info.value)

        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.sleep(39)
        assert not caught
        await trio.sleep(2)
        assert len(set(map(id, caught))) == 2
        await ask()
    assert sum(isinstance(message, Ping) for message in server.heard) == 1


async def test_a_quiet_server_that_answers_pings_is_kept(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with client_over(TrioLink(server), "fake:1") as client:
        with trio.move_on_after(1000) as scope:
            await client.wait("x")
        assert scope.cancelled_caught
    assert sum(isinstance(message, Ping) for message in server.heard) in range(20, 51)


async def test_no_hello(autojump_clock: MockClock) -> None:
    link = TrioLink(FakeServer(hello=None))
    with pytest.raises(CutError, match="does not answer"):
        async with client_over(link, "fake:1"):
            pytest.fail("it connected")
    assert link.closed
    assert trio.current_time() < 60


async def test_a_cancelled_call_is_cancelled_at_the_server_and_forgotten() -> None:
    server = FakeServer()
    async with over(server) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.wait, "x")
                await wait_all_tasks_blocked()
                scope.cancel()
        await wait_all_tasks_blocked()
        assert server.heard[-1] == Cancel(1)
        server.say(Failure(1, ErrorCode.CANCELLED, "As you wish."))
        await wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await client.query("x")
        await wait_all_tasks_blocked()
        assert server.heard[-1] == Cancel(1)


async def test_a_stream_that_is_left_is_forgotten() -> None:
    """What it had coming is dropped, and holds up nothing."""
    server = FakeServer(silence)
    async with over(server) as client:
        async with client.stream("x") as stream:
            await wait_all_tasks_blocked()
            server.say(Output(1, 0, 1, b"first"))
            assert (await anext(stream)).data == b"first"
        await wait_all_tasks_blocked()
        assert server.heard[-1] == Cancel(1)
        server.say(Output(1, 5, 1, b"second"), Failure(1, ErrorCode.CANCELLED, "As you wish."))
        await wait_all_tasks_blocked()
        assert [piece async for piece in stream] == []


async def test_credit_comes_back_as_pieces_are_taken() -> None:
    server = FakeServer()
    half = DEFAULT_WINDOW // 2
    async with over(server) as client, client.stream("x") as stream:
        await wait_all_tasks_blocked()
        server.say(Output(1, 0, 1, bytes(half)), Output(1, half, 1, bytes(half)))
        await wait_all_tasks_blocked()
        assert not any(isinstance(message, Credit) for message in server.heard)
        for count in (1, 2):
            await anext(stream)
            await wait_all_tasks_blocked()
            assert server.heard[-count:] == [Credit(1, half)] * count


async def test_a_stream_s_pieces_come_before_what_cut_it() -> None:
    server = FakeServer()
    async with over(server) as client, client.stream("x") as stream:
        await wait_all_tasks_blocked()
        server.say(Output(1, 0, 1, b"first"))
        server.close()
        await wait_all_tasks_blocked()
        assert (await anext(stream)).data == b"first"
        for _ in range(2):
            with pytest.raises(CutError):
                await anext(stream)


async def test_garbage_ends_every_call() -> None:
    server = FakeServer()
    async with over(server) as client:

        async def ask() -> None:
            with pytest.raises(RemoteProtocolError):
                await client.query("x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            server.say_bytes(bytes(4))
        await ask()


async def test_the_server_s_last_word_ends_every_call() -> None:
    server = FakeServer()
    async with over(server) as client:

        async def ask() -> None:
            with pytest.raises(RequestError) as caught:
                await client.query("x")
            assert caught.value.code is ErrorCode.SHUTTING_DOWN
            assert caught.value.message == "Good night."

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            server.say(Failure(0, ErrorCode.SHUTTING_DOWN, "Good night."))
        await ask()


async def test_a_closed_client_says_so() -> None:
    server = FakeServer()
    caught = []

    async def ask(client: Client) -> None:
        with pytest.raises(CutError, match="closed") as info:
            await client.query("x")
        caught.append(info.value)

    async with trio.open_nursery() as nursery:
        async with over(server) as client:
            nursery.start_soon(ask, client)
            await wait_all_tasks_blocked()
        await ask(client)
    assert len(caught) == 2


async def test_calls_beyond_what_the_server_takes_wait_for_their_turn() -> None:
    server = FakeServer()
    done: list[int] = []

    async with over(server) as client, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            await client.query("x")
            done.append(number)

        def asked() -> int:
            return sum(isinstance(message, Request) for message in server.heard)

        for number in range(HELLO.max_requests + 3):
            nursery.start_soon(ask, number)
        await wait_all_tasks_blocked()
        assert asked() == HELLO.max_requests
        # One that is cancelled in the queue takes nobody's turn, and none is taken before there is room.
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await client.query("x")
        assert asked() == HELLO.max_requests
        for request_id in range(1, HELLO.max_requests + 4):
            server.say(Reply(request_id, RESULT))
            await wait_all_tasks_blocked()
            assert len(done) == request_id
            assert asked() == min(HELLO.max_requests + request_id, HELLO.max_requests + 3)


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_the_end_reaches_those_who_wait_for_their_turn() -> None:
    server = FakeServer()
    async with over(server) as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(CutError):
                await client.query("x")

        for _ in range(HELLO.max_requests + 3):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        server.close()


@pytest.mark.parametrize("error", [KeyError("x"), ExceptionGroup("ours", [KeyError("x")])])
async def test_what_a_block_raises_comes_out_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        async with over(FakeServer()):
            raise error
    assert caught.value is error


async def test_a_block_s_cancelled_comes_out_as_it_is() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled):
            async with over(FakeServer()):
                pytest.fail("it connected")
    with trio.CancelScope() as scope, pytest.raises(trio.Cancelled):  # noqa: PT012
        async with over(FakeServer()) as client:
            scope.cancel()
            await client.query("x")
