"""The order of turns: newcomers, known sources and those who go on never wait behind a crowd."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import line as line_module
from worker.line import Line


def order(line: Line[str], most: int = 1000) -> list[str]:
    """Who gets the next turns."""
    got: list[str] = []
    while len(got) < most and (item := line.next()) is not None:
        got.append(item)
    return got


def crowd(sources: int, each: int) -> Line[str]:
    """A line in which some sources have waited long enough to be no newcomers."""
    line: Line[str] = Line()
    for source in range(sources):
        for number in range(each + 1):
            line.join(f"s{source}", f"s{source}.{number}")
    # Each of them, once: a turn of a newcomer is followed by one of the rest.
    order(line, 2 * sources)
    return line


def test_one_who_asks_seldom_goes_before_a_crowd() -> None:
    line = crowd(50, 10)
    line.join("alice", "alice")
    assert "alice" in order(line, 2)


def test_who_asks_again_at_once_is_no_newcomer() -> None:
    line = crowd(50, 10)
    line.join("alice", "first")
    assert "first" in order(line, 2)
    line.join("alice", "second")
    assert "second" not in order(line, 40)
    assert "second" in order(line, 60)


def test_a_known_source_goes_before_any_number_of_newcomers() -> None:
    line: Line[str] = Line()
    line.know("alice")
    for number in range(1000):
        line.join(f"s{number}", f"s{number}")
    order(line, 7)
    line.join("alice", "alice")
    assert "alice" in order(line, 4)


def test_the_known_who_come_least_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "KNOWN", 2)
    line: Line[str] = Line()
    for source in ("alice", "bob", "alice", "carol"):
        line.know(source)
    for number in range(10):
        line.join(f"s{number}", f"s{number}")
    for source in ("alice", "bob", "carol"):
        line.join(source, source)
    got = order(line)
    assert got.index("alice") < 4
    assert got.index("carol") < 6
    assert got.index("bob") > 6


def test_going_on_is_before_beginning_and_cannot_starve_it() -> None:
    line = crowd(50, 10)
    for number in range(100):
        line.join("s0", f"ahead{number}", ahead=True)
    got = order(line, 40)
    assert got[0] == "ahead0" or got[1] == "ahead0"
    assert 10 <= sum(item.startswith("ahead") for item in got) <= 20


def test_those_who_go_on_do_so_in_rotation_of_their_sources() -> None:
    line: Line[str] = Line()
    for number in range(100):
        line.join("s", f"s{number}", ahead=True)
    order(line, 5)
    line.join("alice", "alice", ahead=True)
    assert "alice" in order(line, 2)


def test_of_one_source_the_newest_or_the_oldest_goes_first() -> None:
    for newest_first, expected in ((False, ["0", "1", "2"]), (True, ["2", "1", "0"])):
        line: Line[str] = Line(newest_first=newest_first)
        for number in range(3):
            line.join("s", str(number))
        assert order(line) == expected


SOURCES = st.sampled_from("abcd")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("join"), SOURCES, st.booleans()),
            st.tuples(st.just("leave"), SOURCES, st.integers(0, 5)),
            st.tuples(st.just("next"), SOURCES, st.none()),
            st.tuples(st.just("know"), SOURCES, st.none()),
        )
    )
)
def test_nobody_is_lost_and_nobody_comes_twice(steps: list[tuple[str, str, int | bool | None]]) -> None:
    line: Line[str] = Line()
    waiting: list[tuple[str, str]] = []
    for number, (step, source, more) in enumerate(steps):
        if step == "join":
            waiting.append((source, str(number)))
            line.join(source, str(number), ahead=bool(more))
        elif step == "leave" and waiting:
            line.leave(*waiting.pop(int(more or 0) % len(waiting)))
        elif step == "know":
            line.know(source)
        elif step == "next":
            got = line.next()
            assert (got is None) == (not waiting)
            waiting = [(source, item) for source, item in waiting if item != got]
    assert sorted(order(line)) == sorted(item for _, item in waiting)
    assert line.next() is None
