"""Both clients and a server that was restarted, or is being ended: what is asked again, and what is told."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from client.errors import ClientError, ConnectError, CutError, UncertainStartError
from client.resume import Backoff
from tests.client.either import KINDS, Either, redialling
from tests.client.fake import HELLO, JOB, FakeServer
from wire import codec
from wire.errors import CATEGORIES, Category, ErrorCode, RequestError
from wire.features import Feature
from wire.jobs import JobReply, ListReply, Status
from wire.messages import STDOUT, Failure, Hello, Message, Output, Reply, Request

pytestmark = pytest.mark.parametrize("kind", KINDS)
ID = "0d9b7e3a-6c1f-4f52-9a58-1be5a6d2c7f4"
A, B = (replace(HELLO, features=(Feature.START_ID,), instance=name) for name in "ab")
#: Servers that know no starts with an id, or only half of what it takes.
OLDER = [HELLO, replace(A, features=()), replace(A, instance=None)]
ENDED = replace(JOB, status=Status.EXITED, exit_code=0)
DONE = Reply(1, codec.to_map(JobReply(ENDED)))
GONE = "The server was restarted, its jobs are gone"
MAYBE_GONE = "No. The server was restarted since this client connected: if the job is of before, it is gone."


def refusing(code: ErrorCode | str) -> Failure:
    return Failure(1, code, "No.")


def server(hello: Hello, *says: Reply | Failure | Output | None) -> FakeServer:
    """Answers requests so, whose ids it corrects, and cuts where there is None."""
    left = iter(says)

    def answer(message: Message) -> Iterable[Message]:
        if isinstance(message, Request):
            word = next(left)
            if word is None:
                made.close()
            else:
                yield word if word.id == 0 else replace(word, id=message.id)

    made = FakeServer(answer, hello=hello)
    return made


def requests(*servers: FakeServer) -> list[Request]:
    return [each for one in servers for each in one.heard if isinstance(each, Request)]


# --- starts


@pytest.mark.parametrize("chosen", [None, ID])
async def test_a_start_is_asked_for_again_of_the_same_instance(kind: str, chosen: str | None) -> None:
    servers = [server(A, None), server(A, Failure(0, ErrorCode.SHUTTING_DOWN, "Soon.")), server(A, DONE)]
    async with redialling(kind, servers) as client:
        assert await client.start(["true"], id=chosen, env={"A": "1"}) == ENDED
    first, *others = requests(*servers)
    assert [(each.method, each.params) for each in others] == [("start", first.params)] * 2
    assert len(first.params["id"]) == len(ID)
    assert chosen in (None, first.params["id"])


async def test_each_start_has_an_id_of_its_own(kind: str) -> None:
    only = server(A, DONE, DONE)
    async with redialling(kind, [only]) as client:
        for _ in range(2):
            await client.start(["true"])
    assert len({request.params["id"] for request in requests(only)}) == 2


@pytest.mark.parametrize("other", [B, *OLDER])
async def test_a_start_is_not_asked_for_again_of_another_instance(kind: str, other: Hello) -> None:
    servers = [server(A, None), server(other, DONE)]
    async with redialling(kind, servers) as client:
        with pytest.raises(UncertainStartError, match="the job may have run") as caught:
            await client.start(["true"])
        (asked,) = requests(*servers)
        assert (caught.value.job_id, caught.value.restarted) == (asked.params["id"], True)
        assert asked.params["id"] in str(caught.value)
        assert await client.start(["true"]) == ENDED  # another one


#: What ends the way back, and how patient the client is.
ENDS: list[tuple[list[Exception | FakeServer], float]] = [
    ([], 0.0),
    ([], 0.2),
    ([ConnectError("Not yet."), RequestError(ErrorCode.DENIED, "You have no role.")], 5.0),
]


@pytest.mark.parametrize(("way", "patience"), ENDS)
async def test_a_start_that_was_cut_without_a_way_back_is_told_as_uncertain(
    kind: str, way: list[Exception | FakeServer], patience: float
) -> None:
    async with redialling(kind, [server(A, None), *way], patience=patience) as client:
        with pytest.raises(UncertainStartError, match=f"job {ID} was started is not known") as caught:
            await client.start(["true"], id=ID)
    assert (caught.value.job_id, caught.value.restarted) == (ID, False)


async def test_a_start_whose_connection_was_refused_meanwhile_is_told_as_uncertain(kind: str) -> None:
    revoking = server(A, Failure(0, ErrorCode.REVOKED, "Your certificate was revoked."))
    async with redialling(kind, [revoking]) as client:
        with pytest.raises(UncertainStartError, match="revoked"):
            await client.start(["true"], id=ID)


@pytest.mark.parametrize("code", ["queue_full", *ErrorCode])
async def test_what_a_refused_repeat_says_of_the_first(kind: str, code: str) -> None:
    """That of the start itself settles it; a server without room, a failure, a code of later do not."""
    refusal = Failure(1, code, "No.")
    async with redialling(kind, [server(A, None), server(A, refusal)], patience=0.2) as client:
        with pytest.raises((RequestError, UncertainStartError)) as caught:
            await client.start(["true"], id=ID)
    settled = CATEGORIES.get(code) == Category.CORRECT  # type: ignore[call-overload]
    assert isinstance(caught.value, RequestError) == settled


@pytest.mark.parametrize("cut", [False, True])
async def test_a_start_that_is_answered_with_nonsense_is_told_as_uncertain(kind: str, cut: bool) -> None:
    servers = [server(A, None)] * cut + [server(A, Reply(1, {"job": {"id": 3}}))]
    async with redialling(kind, servers) as client:
        with pytest.raises(UncertainStartError, match=f"makes no sense.*job {ID} was started is not known"):
            await client.start(["true"], id=ID)


@pytest.mark.parametrize("hello", OLDER)
async def test_an_older_server_gets_no_id_and_no_second_start(kind: str, hello: Hello) -> None:
    servers = [server(hello, None), server(hello, DONE)]
    async with redialling(kind, servers) as client:
        with pytest.raises(CutError) as caught:
            await client.start(["true"])
        assert type(caught.value) is CutError
        assert [request.params for request in requests(*servers)] == [{"argv": [b"true"], "merge": False}]
        with pytest.raises(ClientError, match="leave the id out"):
            await client.start(["true"], id=ID)
        assert len(requests(*servers)) == 1


@pytest.mark.parametrize("code", ["busy", "denied", "shutting_down", "start_failed", "internal", "newer"])
async def test_a_refusal_that_says_nothing_of_the_first_leaves_it_open(kind: str, code: str) -> None:
    async with redialling(kind, [server(A, None), server(A, refusing(code))]) as client:
        with pytest.raises(UncertainStartError, match="is not known"):
            await client.start(["true"])
    async with redialling(kind, [server(A, refusing(code))]) as client:
        with pytest.raises(RequestError) as caught:
            await client.start(["true"])
        assert caught.value.code == code


async def test_a_start_that_fails_fails_for_its_repeat_too(kind: str) -> None:
    servers = [server(A, None), server(A, refusing(ErrorCode.NO_SUCH_PROGRAM))]
    async with redialling(kind, servers) as client:
        with pytest.raises(RequestError) as caught:
            await client.start(["true"])
        assert caught.value.code is ErrorCode.NO_SUCH_PROGRAM


@pytest.mark.parametrize("end", [None, Failure(0, ErrorCode.SHUTTING_DOWN, "Good night.")])
async def test_a_start_after_a_restart_that_nobody_was_asked_in_is_a_plain_one(
    kind: str, end: Failure | None
) -> None:
    first, second = server(A, DONE), server(B, DONE)
    async with redialling(kind, [first, second]) as client:
        await client.start(["true"])
        if end is not None:
            first.say(end)
        first.close()
        await wait_all_tasks_blocked()
        assert await client.start(["true"]) == ENDED
    assert len(requests(first)) == len(requests(second)) == 1


# --- jobs of before


async def read(client: Either) -> None:
    async with client.stream("x") as stream:
        while await stream.piece() is not None:
            pass


CALLS: list[Callable[[Either], Any]] = [
    read,
    lambda client: client.query("x"),
    lambda client: client.wait("x"),
    lambda client: client.stop("x"),
    lambda client: client.remove("x"),
]


@pytest.mark.parametrize("call", CALLS)
async def test_what_was_asked_of_a_job_is_not_asked_of_a_server_that_was_restarted(
    kind: str, call: Callable[[Either], Any]
) -> None:
    """There, the beginning of an id may fit another job."""
    servers = [server(A, None), server(A, None), server(B, DONE)]
    async with redialling(kind, servers) as client:
        with pytest.raises(RequestError, match=GONE) as caught:
            await call(client)
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert not requests(servers[2])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [ErrorCode.NOT_FOUND, ErrorCode.AMBIGUOUS])
async def test_a_job_that_is_not_there_after_a_restart_may_be_one_of_before(
    kind: str, code: ErrorCode, call: Callable[[Either], Any]
) -> None:
    first, second = server(A, DONE), server(B, DONE, refusing(code))
    async with redialling(kind, [first, second]) as client:
        await client.query(ID)
        first.close()
        await client.query(ID)
        with pytest.raises(RequestError) as caught:
            await call(client)
    assert caught.value.code is code
    # It may also be one that was started since, and removed.
    assert str(caught.value) == caught.value.message == (MAYBE_GONE if code is ErrorCode.NOT_FOUND else "No.")


async def test_a_job_that_is_asked_for_by_its_whole_id_is_asked_for_again(kind: str) -> None:
    """A whole id fits no other job; the request may never have come to the server of before."""
    for word in (DONE, refusing(ErrorCode.NOT_FOUND)):
        servers = [server(A, None), server(B, word)]
        async with redialling(kind, servers) as client:
            if word is DONE:
                assert await client.query(ID) == ENDED
            else:
                with pytest.raises(RequestError, match=MAYBE_GONE):
                    await client.query(ID)


async def test_a_job_that_is_not_there_was_not_always_lost(kind: str) -> None:
    async with redialling(kind, [server(A, None), server(A, refusing(ErrorCode.NOT_FOUND))]) as client:
        with pytest.raises(RequestError) as caught:
            await client.query("x")
    assert caught.value.message == "No."


@pytest.mark.parametrize("id_", ["x", ID])
async def test_a_stream_does_not_go_on_in_a_job_of_another_instance(kind: str, id_: str) -> None:
    servers = [server(A, Output(1, 0, STDOUT, b"data")), server(B, Output(1, 4, STDOUT, b"other"))]
    async with redialling(kind, servers) as client, client.stream(id_) as stream:
        assert await stream.piece() is not None
        servers[0].close()
        with pytest.raises(RequestError, match=GONE):
            await stream.piece()


@pytest.mark.parametrize("second", [A, B])
async def test_a_list_begins_again_where_its_page_means_nothing(kind: str, second: Hello) -> None:
    jobs = tuple(replace(JOB, id=str(number)) for number in range(4))
    page = Reply(1, codec.to_map(ListReply(jobs[:2], "7")))
    rest = Reply(1, codec.to_map(ListReply(jobs[2:])))
    servers = [server(A, page, None), server(second, rest)]
    async with redialling(kind, servers) as client:
        assert await client.list() == jobs
    after = [request.params.get("after") for request in requests(*servers)]
    assert after == [None, "7", "7" if second is A else None]


# --- a server that is being ended


@pytest.mark.parametrize("call", CALLS)
async def test_a_client_comes_back_after_a_servers_end(kind: str, call: Callable[[Either], Any]) -> None:
    ending = server(HELLO, Failure(0, ErrorCode.SHUTTING_DOWN, "Good night."))
    refused = FakeServer(hello=None)
    refused.say(Failure(0, ErrorCode.SHUTTING_DOWN, "Good night."))
    back = server(HELLO, DONE)
    async with redialling(kind, [ending, ConnectError("Not yet."), refused, back]) as client:
        await call(client)
    assert len(requests(back)) == 1


@pytest.mark.parametrize("call", CALLS)
async def test_what_an_ending_server_takes_no_more_is_asked_again(
    kind: str, call: Callable[[Either], Any]
) -> None:
    ending = server(HELLO, *[refusing(ErrorCode.SHUTTING_DOWN)] * 2, None)
    async with redialling(kind, [ending, server(HELLO, DONE)]) as client:
        await call(client)
    assert len(requests(ending)) == 3


@pytest.mark.parametrize("call", CALLS)
async def test_without_patience_a_servers_end_is_told(kind: str, call: Callable[[Either], Any]) -> None:
    for number in (0, 1):
        end = Failure(number, ErrorCode.SHUTTING_DOWN, "No.")
        async with redialling(kind, [server(HELLO, end), server(HELLO, DONE)], patience=0) as client:
            with pytest.raises(RequestError, match="No"):
                await call(client)


async def test_an_ending_server_is_not_asked_for_ever(kind: str) -> None:
    ending = server(HELLO, *[refusing(ErrorCode.SHUTTING_DOWN)] * 1000)
    async with redialling(kind, [ending], patience=0.5) as client:
        with pytest.raises(RequestError, match="No"):
            await client.query("x")
    now, tries, most = 0.0, 1, Backoff(0.5)
    most.cut(now, worked=True)
    while (pause := most.pause(now)) is not None:
        now += max(pause, 0.01)
        tries += 1
    assert len(requests(ending)) < 2 * tries
