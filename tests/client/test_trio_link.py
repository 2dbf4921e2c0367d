"""Many tasks of the Trio client find the connection cut: one way back for all, whatever becomes of each."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from client.errors import ConnectError, CutError
from client.trio_client import Client, client_over
from tests.client.fake import HELLO, JOB, FakeServer, TrioLink
from tests.harness import PATIENCE
from wire import codec
from wire.jobs import JobReply
from wire.messages import Message, Reply, Request

RESULT = codec.to_map(JobReply(JOB))


def answer(message: Message) -> Iterable[Message]:
    if isinstance(message, Request):
        yield Reply(message.id, RESULT)


class Dial:
    """Opens transports to servers that answer, each when it is let.

    Args:
        error: what it raises instead.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.links: list[TrioLink] = []
        self.let = trio.Event()
        self._error = error

    async def __call__(self) -> TrioLink:
        self.begun += 1
        await self.let.wait()
        if self._error is not None:
            raise self._error
        self.links.append(TrioLink(FakeServer(answer)))
        return self.links[-1]


@asynccontextmanager
async def cut_client(dial: Dial, *, patience: float = 5) -> AsyncGenerator[Client]:
    """A client whose first connection is cut."""
    first = FakeServer()
    with trio.fail_after(PATIENCE):
        async with client_over(TrioLink(first), "fake:1", dial=dial, patience=patience) as client:
            first.close()
            await wait_all_tasks_blocked()
            yield client


async def test_all_wait_for_one_way_back() -> None:
    dial = Dial()
    answers = []

    async def ask() -> None:
        answers.append(await client.query("x"))

    async with cut_client(dial) as client, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert dial.begun == 1
        dial.let.set()
    assert answers == [JOB] * 10
    assert len(dial.links) == 1
    assert len([each for each in dial.links[0].server.heard if isinstance(each, Request)]) == 10


async def test_those_who_wait_for_their_turn_come_along() -> None:
    """Also a start, which nobody has sent yet."""
    first, dial = FakeServer(), Dial()
    dial.let.set()
    started = []

    async def start() -> None:
        started.append(await client.start(["true"]))

    with trio.fail_after(PATIENCE):
        async with (
            client_over(TrioLink(first), "fake:1", dial=dial, patience=5) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(HELLO.max_requests):
                nursery.start_soon(client.query, "x")
            await wait_all_tasks_blocked()
            nursery.start_soon(start)
            await wait_all_tasks_blocked()
            first.close()
    assert started == [JOB]
    assert len(dial.links) == 1


async def test_one_that_is_cancelled_takes_it_from_nobody() -> None:
    dial = Dial()
    answers = []

    async def ask() -> None:
        answers.append(await client.query("x"))

    async with cut_client(dial) as client, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await client.query("x")
        assert scope.cancelled_caught
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert dial.begun == 1
        dial.let.set()
    assert answers == [JOB]


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.parametrize("error", [ConnectError("Nobody."), ValueError("A bug.")])
async def test_all_learn_that_there_is_no_way_back(error: Exception) -> None:
    """Each with an exception of its own, whatever it is; and none comes out of the block as a group."""
    dial = Dial(error)
    dial.let.set()
    caught: list[Exception] = []

    async def ask() -> None:
        with pytest.raises(type(error), match=str(error)) as info:
            await client.query("x")
        caught.append(info.value)

    async with cut_client(dial, patience=0.05) as client, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert len(set(map(id, caught))) == 5


async def test_the_end_of_the_block_ends_it() -> None:
    """Also for a task outside, which is told."""
    dial = Dial()
    told = trio.Event()

    async def ask(client: Client) -> None:
        with pytest.raises(CutError, match="closed"):
            await client.query("x")
        told.set()

    async with trio.open_nursery() as nursery:
        async with cut_client(dial) as client:
            nursery.start_soon(ask, client)
            await wait_all_tasks_blocked()
            assert dial.begun == 1
        with trio.fail_after(PATIENCE):
            await told.wait()
    assert dial.links == []
    with pytest.raises(CutError):
        await client.query("x")
    assert dial.begun == 1


async def test_a_connection_that_comes_while_the_client_closes_is_not_used() -> None:
    """A task outside that waits for it would wait for ever."""

    class Slow(TrioLink):
        async def aclose(self) -> None:
            dial.let.set()
            await wait_all_tasks_blocked()

    dial = Dial()
    first = FakeServer()
    told = trio.Event()

    async def ask(client: Client) -> None:
        with pytest.raises(CutError, match="closed"):
            await client.query("x")
        told.set()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            async with client_over(Slow(first), "fake:1", dial=dial, patience=5) as client:
                first.close()
                nursery.start_soon(ask, client)
                await wait_all_tasks_blocked()
            await told.wait()
    assert dial.begun > 0
    assert all(link.closed for link in dial.links)
    assert not any(isinstance(each, Request) for link in dial.links for each in link.server.heard)


async def test_a_block_s_own_error_comes_out_while_it_is_looked_for() -> None:
    error = KeyError("ours")

    async def ask(client: Client) -> None:
        with pytest.raises(CutError):
            await client.query("x")

    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError) as caught:  # noqa: PT012
            async with cut_client(Dial()) as client:
                nursery.start_soon(ask, client)
                await wait_all_tasks_blocked()
                raise error
    assert caught.value is error


async def test_the_old_connection_is_closed_and_none_of_its_tasks_stays() -> None:
    dial = Dial()
    dial.let.set()
    async with cut_client(dial) as client:
        await client.query("x")
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            dial.links[-1].server.close()
            await client.query("x")
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert [link.closed for link in dial.links] == [True] * 20 + [False]
    assert dial.links[-1].closed


async def test_a_frozen_server_is_left_for_another(autojump_clock: MockClock) -> None:
    dial = Dial()
    dial.let.set()
    frozen = TrioLink(FakeServer(lambda message: []))
    before = trio.current_time()
    async with client_over(frozen, "fake:1", dial=dial, patience=5) as client:
        assert await client.query("x") == JOB
        assert 39 < trio.current_time() - before < 42
        assert frozen.closed


async def test_a_wait_outlives_any_number_of_cuts(autojump_clock: MockClock) -> None:
    """Patience is for each time that the server is away, not for all of them together."""
    servers = [FakeServer() for _ in range(20)]
    left = iter(servers)

    async def dial() -> TrioLink:
        await trio.lowlevel.checkpoint()
        return TrioLink(next(left))

    async def cut() -> None:
        for server in servers[:-1]:
            await trio.sleep(3600)
            server.close()
        await trio.sleep(1)
        servers[-1].say(Reply(1, RESULT))

    async with (
        client_over(await dial(), "fake:1", dial=dial, patience=5) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(cut)
        assert await client.wait("x") == JOB
