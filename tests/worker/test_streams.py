"""What of a job's output a `stream` sends, when it ends, and when it is given up."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from certs.roles import Role
from tests.worker.calls import LINES, FakeCall, FakeJob, FakeRegistry, answer, ended_job
from wire.errors import ErrorCode, RequestError
from wire.jobs import StreamParams
from wire.messages import STDERR, STDOUT, GapReason
from worker.output import Missing


@given(
    pieces=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=30)), max_size=12),
    grants=st.lists(st.integers(1, 60), max_size=12),
    place=st.floats(0, 1),
    data=st.randoms(use_true_random=False),
)
async def test_a_stream_is_the_log_from_its_offset(
    pieces: list[tuple[int, bytes]], grants: list[int], place: float, data: Any
) -> None:
    job = FakeJob("a")
    whole = b"".join(piece for _, piece in pieces)
    tags = [stream for stream, piece in pieces for _ in piece]
    offset = int(place * len(whole))
    call = FakeCall(FakeRegistry(job), Role.USER, available=0)
    steps: list[Callable[[], None]] = [partial(job.output.append, *piece) for piece in pieces]
    for grant in grants:
        steps.insert(data.randint(0, len(steps)), partial(call.grant, grant))
    replies = []

    async def stream() -> None:
        replies.append(await answer(call, "stream", id="a", offset=offset))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream)
        for step in steps:
            step()
            if data.random() < 0.5:
                await trio.testing.wait_all_tasks_blocked()
        job.output.close()
        job.ended.set()
        call.grant(len(whole))
    assert [reply.job.output for reply in replies] == [len(whole)]
    assert not job.output._subscribers
    at = offset
    for chunk in call.chunks:
        assert chunk.offset == at
        at += len(chunk.data)
        assert tags[chunk.offset : at] == [chunk.stream] * len(chunk.data)
    assert b"".join(chunk.data for chunk in call.chunks) == whole[offset:]


async def test_a_stream_ends_only_with_the_final_status() -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"x")
    job.output.close()
    done = SimpleNamespace(reply=None)

    async def stream() -> None:
        done.reply = await answer(FakeCall(FakeRegistry(job)), "stream", id="a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert done.reply is None
        job.ended.set()
    assert done.reply is not None


async def test_an_offset_beyond_the_end_is_told_so() -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"abc")
    job.output.close()
    job.ended.set()
    call = FakeCall(FakeRegistry(job))
    await answer(call, "stream", id="a", offset=3)
    with pytest.raises(RequestError, match="3 bytes, and 4 is beyond them: give a lower") as caught:
        await answer(call, "stream", id="a", offset=4)
    assert (caught.value.code, caught.value.field) == (ErrorCode.BAD_REQUEST, "offset")
    assert call.chunks == []


async def test_an_offset_beyond_the_end_is_told_at_once_to_who_does_not_follow() -> None:
    job = FakeJob("a")  # which runs
    job.output.append(STDOUT, b"abc")
    call = FakeCall(FakeRegistry(job))
    await answer(call, "stream", id="a", offset=3, follow=False)
    with pytest.raises(RequestError, match="3 bytes, and 4 is beyond them: give a lower") as caught:
        await answer(call, "stream", id="a", offset=4, follow=False)
    assert (caught.value.code, caught.value.field) == (ErrorCode.BAD_REQUEST, "offset")
    assert call.chunks == []


@pytest.mark.parametrize("params", [{"tail_bytes": 3}, {"tail_lines": 1}, {"since": 0.0}])
async def test_a_tail_says_where_it_begins_without_credit(
    params: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    call = FakeCall(FakeRegistry(ended_job(*LINES)), available=0, stall=7.0)
    with pytest.raises(RequestError) as caught:
        await answer(call, "stream", id="a", **params)
    (begins,) = call.chunks
    assert begins.data == b""
    assert (caught.value.code, caught.value.offset) == (ErrorCode.STALLED, begins.offset)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [(0, b"one\ntwo\n"), (8, b"oops\n"), (13, b"three\nfour")]),
        ({"offset": 10}, [(10, b"ps\n"), (13, b"three\nfour")]),
        ({"tail_bytes": 3}, [(20, b"our")]),
        ({"tail_bytes": 3, "stream": 2}, [(10, b"ps\n")]),
        ({"tail_bytes": 0}, []),
        ({"tail_bytes": 999}, [(0, b"one\ntwo\n"), (8, b"oops\n"), (13, b"three\nfour")]),
        ({"tail_lines": 1}, [(19, b"four")]),
        ({"tail_lines": 3}, [(8, b"oops\n"), (13, b"three\nfour")]),
        ({"tail_lines": 3, "stream": 1}, [(4, b"two\n"), (13, b"three\nfour")]),
        ({"stream": 2}, [(8, b"oops\n")]),
        ({"since": 0.0, "stream": 1}, [(0, b"one\ntwo\n"), (13, b"three\nfour")]),
        ({"since": 4e9}, []),
    ],
)
async def test_a_stream_begins_where_it_was_asked_to(
    params: dict[str, Any], expected: list[tuple[int, bytes]]
) -> None:
    for follow in (True, False):
        job = ended_job(*LINES)
        call = FakeCall(FakeRegistry(job), Role.USER)
        await answer(call, "stream", id="a", follow=follow, **params)
        found = [(chunk.offset, chunk.data) for chunk in call.chunks]
        if StreamParams("a", **params).relative:
            assert found.pop(0) == (expected[0][0] if expected else job.output.size, b"")
        assert found == expected


async def test_without_follow_a_stream_ends_where_the_log_does_now() -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"so far")
    call = FakeCall(FakeRegistry(job), available=3)

    async def grow() -> None:
        await trio.testing.wait_all_tasks_blocked()
        job.output.append(STDOUT, b", and more")
        call.grant(100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(grow)
        await answer(call, "stream", id="a", follow=False)
    assert b"".join(chunk.data for chunk in call.chunks) == b"so far"


@pytest.mark.parametrize("more", [(STDERR, STDOUT), (STDOUT,)])
async def test_without_follow_one_stream_ends_there_too(more: tuple[int, ...]) -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"so far")
    job.output.append(STDERR, b"oops")
    call = FakeCall(FakeRegistry(job), available=3)

    async def grow() -> None:
        await trio.testing.wait_all_tasks_blocked()
        for stream in more:
            job.output.append(stream, b", and a lot more")
        call.grant(100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(grow)
        await answer(call, "stream", id="a", follow=False, stream=STDOUT)
    assert [chunk.data for chunk in call.chunks] == [b"so ", b"far"]


async def test_what_the_other_stream_prints_makes_no_stream_stall(
    autojump_clock: trio.testing.MockClock,
) -> None:
    job = FakeJob("a")
    job.output.append(STDERR, b"oops")
    call = FakeCall(FakeRegistry(job), available=0, stall=7.0)

    async def print_late() -> None:
        await trio.sleep(100)
        job.output.append(STDERR, b"oops")
        job.output.append(STDOUT, b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(print_late)
        with pytest.raises(RequestError, match="goes on at byte 8") as caught:
            await answer(call, "stream", id="a", stream=STDOUT)
    assert caught.value.code is ErrorCode.STALLED
    assert trio.current_time() >= 107
    assert call.chunks == []


async def test_what_was_dropped_is_told_with_its_range() -> None:
    job = ended_job(*LINES)
    assert job.output.drop()
    call = FakeCall(FakeRegistry(job), available=1)
    await answer(call, "stream", id="a", offset=5)
    assert call.gaps == [Missing(5, 18, GapReason.DROPPED)]
    assert call.chunks == []


async def test_a_stream_without_credit_is_given_up_with_its_offset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"0123456789")
    call = FakeCall(FakeRegistry(job), available=4, stall=7.0)
    with pytest.raises(RequestError, match="goes on at byte 4") as caught:
        await answer(call, "stream", id="a")
    assert (caught.value.code, caught.value.offset) == (ErrorCode.STALLED, 4)
    assert trio.current_time() >= 7
    assert not job.output._subscribers


async def test_a_stream_that_has_nothing_to_send_is_never_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    call = FakeCall(FakeRegistry(FakeJob("a")), available=0, stall=7.0)
    with trio.move_on_after(1000) as scope:
        await answer(call, "stream", id="a")
    assert scope.cancelled_caught


@pytest.mark.parametrize("params", [{"tail_bytes": 6}, {"tail_lines": 1}])
async def test_what_is_removed_while_a_tail_is_looked_for_is_sent_yet(params: dict[str, int]) -> None:
    job = ended_job(*LINES)

    class Removed(FakeCall):
        async def turn(self) -> None:
            await super().turn()
            job.output.remove()

    call = Removed(FakeRegistry(job), Role.USER)
    await answer(call, "stream", id="a", follow=False, **params)
    whole = b"".join(data for _, data in LINES)
    assert b"".join(chunk.data for chunk in call.chunks) == whole[-4 if "tail_lines" in params else -6 :]
    assert not call.gaps
    assert job.output.dropped == job.output.size  # and then it is gone
