"""Both clients against a server in memory: lists that come in pages, streams, and silence."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from client import blocking
from client.errors import CutError
from tests.client.either import over
from tests.client.fake import JOB, BlockingLink, FakeServer
from wire import codec
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobReply, ListReply
from wire.messages import Cancel, Failure, Message, Output, Ping, Reply, Request

JOBS = [replace(JOB, id=f"job-{number}") for number in range(7)]


def paging(message: Message) -> Iterable[Message]:
    """Answer `list` with pages of three."""
    if isinstance(message, Request) and message.method == "list":
        ids = [job.id for job in JOBS]
        after = message.params.get("after")
        begin = 0 if after is None else ids.index(after) + 1
        page = tuple(JOBS[begin : begin + 3])
        more = page[-1].id if page and page[-1] is not JOBS[-1] else None
        yield Reply(message.id, codec.to_map(ListReply(page, more)))


def empty(message: Message) -> Iterable[Message]:
    if isinstance(message, Request):
        yield Reply(message.id, codec.to_map(ListReply(())))


async def test_a_list_comes_page_by_page() -> None:
    server = FakeServer(paging)
    async with over(server) as client:
        assert [job async for job in client.list()] == JOBS
        asked = [message.params for message in server.heard if isinstance(message, Request)]
        assert asked == [{}, {"after": "job-2"}, {"after": "job-5"}]
        jobs = client.list()
        assert [await anext(jobs) for _ in range(2)] == JOBS[:2]
        assert [job async for job in jobs] == JOBS[2:]
        with pytest.raises(StopAsyncIteration):
            await anext(jobs)


async def test_an_empty_list() -> None:
    async with over(FakeServer(empty)) as client:
        assert [job async for job in client.list()] == []


def test_a_list_comes_page_by_page_to_the_blocking_client() -> None:
    link = BlockingLink(FakeServer(paging))
    with blocking.Client(link, "fake:1") as client:
        assert list(client.list()) == JOBS
    assert link.closed
    with blocking.Client(BlockingLink(FakeServer(empty)), "fake:1") as client:
        assert list(client.list()) == []


def test_a_blocking_stream_left_early_is_cancelled() -> None:
    def answer(message: Message) -> Iterable[Message]:
        if isinstance(message, Request):
            yield Output(message.id, 0, 1, b"first")
            yield Output(message.id, 5, 1, b"second")
        if isinstance(message, Cancel):
            yield Failure(message.id, ErrorCode.CANCELLED, "As you wish.")

    server = FakeServer(answer)
    with blocking.Client(BlockingLink(server), "fake:1") as client:
        with client.stream("x") as stream:
            assert next(stream).data == b"first"
        assert [type(message) for message in server.heard] == [Request, Cancel]
        assert list(stream) == []
        with pytest.raises(RuntimeError):
            _ = stream.job


def ended(message: Message) -> Iterable[Message]:
    """A job's output and its end, which come together."""
    if isinstance(message, Request):
        if message.method == "stream":
            yield Output(message.id, 0, 1, b"first")
            yield Output(message.id, 5, 1, b"second")
        yield Reply(message.id, codec.to_map(JobReply(JOB)))


def test_a_blocking_stream_whose_end_has_come_is_left() -> None:
    server = FakeServer(ended)
    with blocking.Client(BlockingLink(server), "fake:1") as client:
        with client.stream("x") as stream:
            assert next(stream).data == b"first"
        assert client.query("x") == JOB
        assert [type(message) for message in server.heard] == [Request, Request]


async def test_a_stream_whose_end_has_come_is_left() -> None:
    server = FakeServer(ended)
    async with over(server) as client:
        async with client.stream("x") as stream:
            assert (await anext(aiter(stream))).data == b"first"
            await wait_all_tasks_blocked()
        assert await client.query("x") == JOB


def test_a_silent_server_is_given_up_by_the_blocking_client() -> None:
    server = FakeServer(lambda message: [])
    with blocking.Client(BlockingLink(server), "fake:1") as client:
        with pytest.raises(CutError, match="no longer answers"):
            client.query("x")
        assert [type(message) for message in server.heard] == [Request, Ping]


def test_a_server_that_greets_and_is_silent_is_no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it was silent: or a query would never end."""
    monkeypatch.setattr("client.resume.STEADY_SECONDS", 0)
    links = [BlockingLink(FakeServer(lambda message: [])) for _ in range(100)]
    left = iter(links)
    with blocking.Client(next(left), "fake:1", dial=lambda: next(left), patience=1) as client:
        with pytest.raises(CutError, match="no longer answers"):
            client.query("x")
        used = [link for link in links if link.server.heard]
        assert 2 <= len(used) < 10
        assert all(link.closed for link in used[:-1])


def test_what_the_server_said_last_is_read_also_when_nothing_can_be_sent() -> None:
    class Deaf(BlockingLink):
        def send(self, data: bytes) -> None:
            self.server.say(Failure(0, ErrorCode.SHUTTING_DOWN, "Good night."))
            raise CutError("It has gone.")

    with (
        blocking.Client(Deaf(FakeServer()), "fake:1") as client,
        pytest.raises(RequestError, match="Good night"),
    ):
        client.query("x")


def test_what_cannot_be_sent_is_a_cut() -> None:
    class Deaf(BlockingLink):
        def send(self, data: bytes) -> None:
            raise CutError("It has gone.")

    with blocking.Client(Deaf(FakeServer()), "fake:1") as client, pytest.raises(CutError, match="has gone"):
        client.query("x")


async def test_two_tasks_share_a_stream() -> None:
    server = FakeServer()
    got: list[bytes] = []
    async with over(server) as client, client.stream("x") as stream:

        async def read() -> None:
            got.extend([piece.data async for piece in stream])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            server.say(Output(1, 0, 1, b"a"), Output(1, 1, 1, b"b"), Reply(1, codec.to_map(JobReply(JOB))))
        assert sorted(got) == [b"a", b"b"]
        assert stream.job == JOB


async def test_a_stream_needs_its_block() -> None:
    async with over(FakeServer()) as client:
        with pytest.raises(RuntimeError):
            await anext(client.stream("x"))
