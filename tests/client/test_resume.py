"""From which byte a stream goes on, and when and how long to try."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import AddressError, ConnectError, CutError, TlsError
from client.resume import FIRST_PAUSE, LONGEST_PAUSE, STEADY_SECONDS, Backoff, Life, Place, may_pass, was_cut
from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.jobs import StreamParams
from wire.messages import Gap, GapReason, Output

STARTS = [{"tail_bytes": 3}, {"tail_lines": 0}, {"since": 0.0}]


def piece(offset: int, data: bytes = b"data", stream: int = 1) -> Output:
    return Output(1, offset, stream, data)


def gap(offset: int, size: int) -> Gap:
    return Gap(1, offset, size, GapReason.DROPPED)


def test_it_begins_where_it_was_asked_to() -> None:
    place = Place(StreamParams("x", 7, follow=False, stream=2))
    assert place.offset == 7
    assert place.params() == StreamParams("x", 7, follow=False, stream=2)


@pytest.mark.parametrize("start", STARTS)
def test_before_anything_came_the_same_is_asked_again(start: dict[str, float]) -> None:
    asked = StreamParams("x", follow=False, **start)  # type: ignore[arg-type]  # the names are those of fields
    place = Place(asked)
    assert place.offset is None
    assert place.params() == asked
    place.take(piece(100))
    assert place.offset == 104
    assert place.params() == StreamParams("x", 104, follow=False)


def test_it_goes_on_behind_output_and_gaps() -> None:
    place = Place(StreamParams("x", stream=1))
    place.take(gap(0, 1000))
    assert place.params() == StreamParams("x", 1000, stream=1)
    place.take(piece(1000))
    place.take(piece(1004, b""))
    assert place.params() == StreamParams("x", 1004, stream=1)


@pytest.mark.parametrize("bad", [piece(0), piece(99), piece(103), gap(0, 500), gap(103, 1)])
@pytest.mark.parametrize("stream", [None, 1])
def test_nothing_comes_twice(bad: Output | Gap, stream: int | None) -> None:
    place = Place(StreamParams("x", 100, stream=stream))
    place.take(piece(100))
    with pytest.raises(RemoteProtocolError):
        place.take(bad)
    assert place.offset == 104


def test_nothing_is_left_out_without_a_word() -> None:
    for early in (piece(105), gap(105, 5)):
        place = Place(StreamParams("x", 104))
        with pytest.raises(RemoteProtocolError, match="missing from byte 104 to 105"):
            place.take(early)


def test_of_one_stream_the_other_s_bytes_are_left_out() -> None:
    place = Place(StreamParams("x", 104, stream=1))
    place.take(piece(200))
    assert place.offset == 204


def pauses(backoff: Backoff, now: float = 0.0) -> list[float]:
    """All the pauses of a series of tries that fail at once."""
    found = []
    while (pause := backoff.pause(now)) is not None:
        found.append(pause)
        now += pause
    return found


@given(st.floats(0.001, 1000))
def test_pauses_grow_and_end_with_patience(patience: float) -> None:
    backoff = Backoff(patience)
    backoff.cut(0.0, worked=True)
    found = pauses(backoff)
    assert found[0] == 0
    assert sum(found) == pytest.approx(patience)
    assert all(pause <= LONGEST_PAUSE for pause in found)
    wanted = FIRST_PAUSE
    for pause in found[1:-1]:
        assert wanted / 2 <= pause <= wanted
        wanted = min(wanted * 2, LONGEST_PAUSE)
    assert backoff.pause(patience) is None


@pytest.mark.parametrize("suggested", [5.0, 0.25, None, -1.0])
def test_a_server_may_say_how_long_to_wait(suggested: float | None) -> None:
    backoff = Backoff(8)
    backoff.cut(0.0, worked=True)
    busy = RequestError(ErrorCode.BUSY, "Later.", retry_after=suggested)
    least = max(0.0, suggested or 0.0)
    assert backoff.pause(0.0, busy) == least
    assert least + FIRST_PAUSE / 2 <= (backoff.pause(0.0, busy) or 0) <= least + FIRST_PAUSE
    assert (backoff.pause(7.5, busy) or 0) <= 0.5  # patience has its end yet
    assert (backoff.pause(0.0) or 0) < 1  # and another error has no suggestion


def test_pauses_differ() -> None:
    """So that a server's clients do not all come back in the same moment."""
    seen = set()
    for _ in range(20):
        backoff = Backoff(30)
        backoff.cut(0.0, worked=True)
        seen.add(tuple(pauses(backoff)[1:3]))
    assert len(seen) > 10


def test_a_connection_that_did_not_work_ends_no_series() -> None:
    backoff = Backoff(10)
    backoff.cut(0.0, worked=True)
    for _ in range(6):
        backoff.pause(0.0)
    backoff.cut(5.0, worked=False)
    assert (backoff.pause(5.0) or 0) >= LONGEST_PAUSE / 2
    backoff.cut(9.9, worked=False)
    assert (backoff.pause(9.9) or 1) <= 0.1 + 1e-9
    assert backoff.pause(10.0) is None


def test_a_connection_that_worked_does() -> None:
    backoff = Backoff(10)
    backoff.cut(0.0, worked=True)
    pauses(backoff)
    backoff.cut(50.0, worked=True)
    assert backoff.pause(50.0) == 0
    assert backoff.pause(59.9) is not None


def test_after_giving_up_the_next_call_has_all_the_patience() -> None:
    backoff = Backoff(10)
    backoff.cut(0.0, worked=False)
    pauses(backoff)
    backoff.give_up()
    assert backoff.pause(0.0) is None
    backoff.cut(20.0, worked=False)
    assert backoff.pause(20.0) == 0


def test_what_makes_a_life_useful() -> None:
    short, busy, long = Life(0.0), Life(0.0), Life(0.0)
    busy.brought()
    long.ended(STEADY_SECONDS)
    for life in (short, busy):
        life.ended(STEADY_SECONDS - random.random() - 0.01)  # noqa: S311
    assert [life.worked for life in (short, busy, long)] == [False, True, True]


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (CutError("x"), True),
        (ConnectError("x"), True),
        (TlsError("x", cut=True), True),
        (TlsError("x"), False),
        (AddressError("x"), False),
        (RequestError(ErrorCode.DENIED, "x"), False),
        (RemoteProtocolError("x"), False),
    ],
)
def test_what_may_be_better_next_time(error: Exception, passing: bool) -> None:
    assert may_pass(error) is passing


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RequestError(ErrorCode.BUSY, "No."), True),
        (RequestError(ErrorCode.SHUTTING_DOWN, "No."), True),
        (RequestError(ErrorCode.DENIED, "No."), False),
        (RequestError(ErrorCode.REVOKED, "No."), False),
        (RequestError(ErrorCode.PROTOCOL, "No."), False),
        (RequestError(ErrorCode.INTERNAL, "No."), False),
        (RequestError("maintenance", "No.", category="retry"), True),
        (RequestError("suspended", "No.", category="forbidden"), False),
        (RequestError("a newer one", "No."), False),
    ],
)
def test_a_server_without_room_is_tried_again_and_one_that_refuses_is_not(
    error: RequestError, again: bool
) -> None:
    """A code that came later is known by its category."""
    assert may_pass(error) is was_cut(error) is again
