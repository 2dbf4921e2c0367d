"""Both clients after a cut, against servers in memory: streams go on exactly, some calls are asked again."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from client.errors import ConnectError, CutError, GapError, TlsError
from client.resume import DEFAULT_PATIENCE
from tests.client.either import KINDS, Either, redialling
from tests.client.fake import JOB, FakeServer
from wire import codec
from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.flow import DEFAULT_WINDOW
from wire.jobs import JobReply, ListReply, Status
from wire.messages import (
    STDERR,
    STDOUT,
    Cancel,
    Credit,
    Failure,
    Gap,
    GapReason,
    Message,
    Output,
    Reply,
    Request,
)

pytestmark = pytest.mark.parametrize("kind", KINDS)
ENDED = replace(JOB, status=Status.EXITED, exit_code=0)
RESULT = codec.to_map(JobReply(ENDED))
LOG = bytes(range(256)) * 4
STALLED = "The stream was given up: ask for it again."


class LogServer(FakeServer):
    """Serves LOG, so much of it a piece.

    Args:
        size: of a piece.
        stop: the byte after which it cuts the connection, or, with a code, fails the stream; None for
            neither.
        code: see there.
        gap: the first byte that is there; a gap stands for what is before it.
    """

    def __init__(
        self, size: int = 100, stop: int | None = None, code: ErrorCode | None = None, gap: int = 0
    ) -> None:
        super().__init__(self._serve)
        self.asked: list[dict[str, Any]] = []
        self._size, self._stop, self._code, self._gap = size, stop, code, gap

    def _serve(self, message: Message) -> Iterable[Message]:
        if not isinstance(message, Request):
            return
        assert message.method == "stream"
        assert message.credit == DEFAULT_WINDOW
        self.asked.append({name: value for name, value in message.params.items() if name != "id"})
        offset = message.params.get("offset", 0)
        stop = len(LOG) if self._stop is None else self._stop
        if offset < self._gap:
            yield Gap(message.id, offset, self._gap - offset, GapReason.DROPPED)
            offset = self._gap
        while offset < stop:
            data = LOG[offset : min(offset + self._size, stop)]
            yield Output(message.id, offset, STDOUT, data)
            offset += len(data)
        if self._stop is None:
            yield Reply(message.id, RESULT)
        elif self._code is None:
            self.close()
        else:
            self._stop = None
            yield Failure(message.id, self._code, STALLED, offset)


def answering(*replies: Reply | Failure | Output | None) -> FakeServer:
    """Gives these answers, whose ids it corrects, and cuts where there is None."""
    left = iter(replies)

    def answer(message: Message) -> Iterable[Message]:
        if isinstance(message, Request):
            reply = next(left)
            if reply is None:
                server.close()
            else:
                yield replace(reply, id=message.id)

    server = FakeServer(answer)
    return server


def cutting() -> FakeServer:
    """Greets, and cuts the connection at the first request."""
    return answering(None)


async def read(client: Either, **options: Any) -> bytes:
    """A job's output to its end, of which each byte must come where it belongs."""
    got = bytearray()
    async with client.stream("x", **options) as stream:
        while (piece := await stream.piece()) is not None:
            assert piece.offset == len(got)
            got += piece.data
            assert stream.offset == len(got)
        assert stream.job == ENDED
    return bytes(got)


async def test_a_stream_goes_on_at_the_next_byte(kind: str) -> None:
    servers = [LogServer(stop=250), LogServer(size=7, stop=251), LogServer(stop=251), LogServer()]
    async with redialling(kind, servers) as client:
        assert await read(client) == LOG
    assert [server.asked[0].get("offset", 0) for server in servers] == [0, 250, 251, 251]


async def test_what_came_before_a_cut_is_given_once(kind: str) -> None:
    """Pieces wait for their taker while the connection is cut and another call opens the next one."""
    last = LogServer()
    servers = [LogServer(stop=300), answering(Reply(1, RESULT), None), last]
    async with redialling(kind, servers) as client, client.stream("x") as stream:
        first = await stream.piece()
        assert first is not None
        assert await client.query("x") == ENDED
        got = bytearray(first.data)
        while (piece := await stream.piece()) is not None:
            assert piece.offset == len(got)
            got += piece.data
        assert bytes(got) == LOG
    assert last.asked[0]["offset"] == 300


@pytest.mark.parametrize(
    "options",
    [{"tail_lines": 5}, {"tail_bytes": 24}, {"since": 1.5}, {"offset": 1000, "follow": False, "stream": 1}],
)
async def test_before_anything_came_the_same_is_asked_again(kind: str, options: dict[str, Any]) -> None:
    servers = [cutting(), cutting(), answering(Output(1, 1000, STDOUT, b"data"), None), LogServer()]
    async with redialling(kind, servers) as client, client.stream("x", **options) as stream:
        assert stream.offset == options.get("offset")
        first = await stream.piece()
        assert first is not None
        assert stream.offset == 1004
    asked = [message for server in servers for message in server.heard if isinstance(message, Request)]
    assert [request.params for request in asked] == [{"id": "x", "offset": 0, "follow": True} | options] * 3


async def test_later_on_filter_and_follow_stay_and_the_start_does_not(kind: str) -> None:
    first, second = answering(Output(1, 1000, STDERR, b"data")), LogServer()
    wanted = {"follow": False, "stream": STDERR}
    async with (
        redialling(kind, [first, second]) as client,
        client.stream("x", tail_lines=5, **wanted) as stream,
    ):
        assert await stream.piece() is not None
        first.close()
        assert await stream.piece() is not None
    assert second.asked == [{"offset": 1004, **wanted}]


async def test_a_gap_raises_and_the_stream_can_be_taken_up_behind_it(kind: str) -> None:
    servers = [LogServer(stop=300, gap=200), LogServer(gap=400)]
    found = bytearray()
    async with redialling(kind, servers) as client, client.stream("x") as stream:
        for gap, size, offset in ((0, 200, 200), (300, 100, 400)):
            sentence = f"{size} bytes.*from byte {gap} on.*dropped"
            with pytest.raises(GapError, match=sentence) as caught:  # noqa: PT012
                while (piece := await stream.piece()) is not None:
                    found += piece.data
            assert (caught.value.gap.offset, caught.value.gap.size) == (gap, size)
            assert caught.value.offset == stream.offset == offset
        while (piece := await stream.piece()) is not None:
            found += piece.data
        assert stream.job.id == JOB.id
    assert found == LOG[200:300] + LOG[400:]


async def test_a_gap_is_told_and_counts(kind: str) -> None:
    servers = [LogServer(stop=300, gap=200), LogServer(gap=400)]
    async with redialling(kind, servers) as client, client.stream("x", gaps="yield") as stream:
        gap = await stream.piece()
        assert isinstance(gap, Gap)
        assert (gap.offset, gap.size, gap.data, gap.stream) == (0, 200, b"", 0)
        assert stream.offset == 200
        assert await stream.piece() == Output(1, 200, STDOUT, LOG[200:300])
        again = await stream.piece()
        assert isinstance(again, Gap)
        assert (again.offset, again.size) == (300, 100)
        assert await stream.piece() == Output(1, 400, STDOUT, LOG[400:500])


@pytest.mark.parametrize("offset", [0, 3, 5])
async def test_output_twice_or_left_out_breaks_the_protocol(kind: str, offset: int) -> None:
    def answer(message: Message) -> Iterable[Message]:
        if isinstance(message, Request):
            yield Output(message.id, 0, STDOUT, b"data")
            yield Output(message.id, offset, STDOUT, b"more")

    server = FakeServer(answer)
    async with redialling(kind, [server]) as client:
        async with client.stream("x") as stream:
            assert await stream.piece() is not None
            with pytest.raises(RemoteProtocolError):
                await stream.piece()
            assert await stream.piece() is None
        await wait_all_tasks_blocked()
        assert server.heard[-1] == Cancel(1)


async def test_a_stalled_stream_is_asked_for_again(kind: str) -> None:
    server = LogServer(stop=300, code=ErrorCode.STALLED)
    async with redialling(kind, [server]) as client:
        assert await read(client) == LOG
    assert [asked.get("offset", 0) for asked in server.asked] == [0, 300]


async def test_a_stream_that_stalls_without_a_byte_is_not(kind: str) -> None:
    server = answering(*[Failure(0, ErrorCode.STALLED, STALLED, 0)] * 2)
    async with redialling(kind, [server]) as client:
        with pytest.raises(RequestError) as caught:
            await read(client)
    assert (caught.value.code, caught.value.offset) == (ErrorCode.STALLED, 0)


async def test_without_patience_nothing_is_tried(kind: str) -> None:
    cut, spare = LogServer(stop=300), LogServer()
    async with redialling(kind, [cut, spare], patience=0) as client:
        for _ in range(2):
            with pytest.raises(CutError):
                await read(client)
            with pytest.raises(CutError):
                await client.query("x")
    assert spare.heard == []
    stalling = LogServer(stop=300, code=ErrorCode.STALLED)
    async with redialling(kind, [stalling], patience=0) as client:
        with pytest.raises(RequestError):
            await read(client)


async def test_patience_has_an_end(kind: str) -> None:
    """What is raised is what went wrong last; and a later call tries anew."""
    async with redialling(kind, [cutting()], patience=0.4) as client:
        for _ in range(2):
            before = trio.current_time()
            with pytest.raises(ConnectError, match="Nobody is there any more"):
                await client.query("x")
            assert 0.3 < trio.current_time() - before < DEFAULT_PATIENCE


async def test_a_server_that_only_greets_is_given_up_too(kind: str) -> None:
    servers = [cutting() for _ in range(100)]
    async with redialling(kind, servers, patience=1) as client:
        with pytest.raises(CutError):
            await read(client)
    assert 2 < sum(bool(server.heard) for server in servers) < 10


async def test_data_renews_the_patience(kind: str) -> None:
    """A hundred cuts, each after a byte, with less patience than a hundred pauses would take."""
    servers = [LogServer(size=1, stop=number + 1) for number in range(100)]
    async with redialling(kind, [*servers, LogServer()], patience=1) as client:
        assert await read(client) == LOG


@pytest.mark.parametrize(
    "verdict",
    [TlsError("Your certificate is refused."), RequestError(ErrorCode.DENIED, "You have no role.")],
)
async def test_a_verdict_ends_it_at_once(kind: str, verdict: Exception) -> None:
    spare = LogServer()
    calls: list[FakeServer | Exception] = [
        LogServer(stop=300),
        ConnectError("Not yet."),
        TlsError("Cut.", cut=True),
        verdict,
        spare,
    ]
    async with redialling(kind, calls) as client:
        with pytest.raises(type(verdict), match=str(verdict)):
            await read(client)
        assert spare.heard == []
        assert await read(client) == LOG  # whoever asks again may have found a remedy


async def test_a_server_that_refuses_us_now_ends_it_at_once(kind: str) -> None:
    refusing = FakeServer(hello=None)
    refusing.say(Failure(0, ErrorCode.DENIED, "You have no role."))
    async with redialling(kind, [LogServer(stop=300), refusing, LogServer()]) as client:
        with pytest.raises(RequestError, match="You have no role"):
            await read(client)


async def test_a_job_that_is_gone_ends_it_at_once(kind: str) -> None:
    gone = answering(Failure(0, ErrorCode.NOT_FOUND, "There is no such job."))
    async with redialling(kind, [LogServer(stop=300), gone]) as client:
        with pytest.raises(RequestError) as caught:
            await read(client)
        assert caught.value.code is ErrorCode.NOT_FOUND


CALLS: list[Callable[[Either], Any]] = [
    lambda client: client.query("x"),
    lambda client: client.wait("x"),
    lambda client: client.stop("x", grace=1),
    lambda client: client.remove("x"),
]


@pytest.mark.parametrize("call", CALLS)
async def test_what_changes_nothing_twice_is_asked_again(kind: str, call: Callable[[Either], Any]) -> None:
    servers = [cutting(), cutting(), answering(Reply(1, RESULT))]
    async with redialling(kind, servers) as client:
        assert await call(client) == ENDED
    asked = [each for server in servers for each in server.heard if isinstance(each, Request)]
    assert [(each.method, each.params) for each in asked] == [(asked[0].method, asked[0].params)] * 3


async def test_a_list_goes_on_with_its_page(kind: str) -> None:
    jobs = [replace(JOB, id=str(number)) for number in range(4)]
    pages = [
        Reply(1, codec.to_map(ListReply(tuple(jobs[:2]), "1"))),
        Reply(1, codec.to_map(ListReply(tuple(jobs[2:])))),
    ]
    servers = [answering(pages[0], None), answering(pages[1])]
    async with redialling(kind, servers) as client:
        assert await client.list() == tuple(jobs)


async def test_a_start_without_an_id_is_never_asked_again(kind: str) -> None:
    servers = [cutting(), answering(Reply(1, RESULT), Reply(2, RESULT))]
    async with redialling(kind, servers) as client:
        with pytest.raises(CutError):
            await client.start(["true"])
        assert servers[1].heard == []
        # What comes later goes over a new connection, a start too.
        assert await client.start(["true"]) == ENDED
        assert await client.query("x") == ENDED


async def test_the_server_s_last_word_is_a_verdict(kind: str) -> None:
    def answer(message: Message) -> Iterable[Message]:
        if isinstance(message, Request):
            yield Failure(0, ErrorCode.REVOKED, "Good bye.")

    async with redialling(kind, [FakeServer(answer), answering(Reply(1, RESULT))]) as client:
        for _ in range(2):
            with pytest.raises(RequestError, match="Good bye"):
                await client.query("x")


async def test_leaving_a_stream_whose_connection_was_cut_is_no_error(kind: str) -> None:
    servers = [answering(Output(1, 0, STDOUT, b"data"), None), answering(Reply(1, RESULT))]
    async with redialling(kind, servers) as client:
        async with client.stream("x") as stream:
            assert await stream.piece() is not None
            servers[0].close()
        assert await client.query("x") == ENDED


async def test_a_new_connection_has_a_new_window(kind: str) -> None:
    """What was taken of the old one's is owed to nobody; what is taken of the new one's, is."""
    half = bytes(DEFAULT_WINDOW // 2)

    def answer(message: Message) -> Iterable[Message]:
        if isinstance(message, Request):
            yield Output(message.id, len(half), STDOUT, half)
            yield Output(message.id, 2 * len(half), STDOUT, half)
        if isinstance(message, Credit):
            granted.append(message.amount)

    granted: list[int] = []
    first = answering(Output(1, 0, STDOUT, half))
    async with redialling(kind, [first, FakeServer(answer)]) as client, client.stream("x") as stream:
        assert await stream.piece() is not None
        first.close()
        assert await stream.piece() is not None
        assert await stream.piece() is not None
        if kind == "trio":  # which grants when a piece is taken, the other one when more is wanted
            await wait_all_tasks_blocked()
            assert granted == [len(half)] * 2
        else:
            assert granted == [len(half)]


class Full(FakeServer):
    """A server that has no room, and says when there may be some."""

    def __init__(self) -> None:
        super().__init__(hello=None)
        self.say(Failure(0, ErrorCode.BUSY, "Later.", retry_after=7.0))


async def test_a_server_without_room_says_when_to_come_again(
    kind: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    began = trio.current_time()
    async with redialling(kind, [LogServer(stop=100), Full(), LogServer()]) as client:
        async with client.stream("x") as stream:
            whole = b""
            while (piece := await stream.piece()) is not None:
                whole += piece.data
        assert whole == LOG
        assert max([trio.current_time() - began, *slept]) >= 7
