"""The lines and the JSON of `stats`, from made-up statuses: rates, averages, columns, what is not known."""

import dataclasses
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.cli import live
from client.cli.live import Display, Reading
from wire.jobs import JobStatus, Status, Usage

ID = "761db04c-0150-4f0b-a6fd-5cab9b9a48bf"
RUNNING = JobStatus(ID, Status.RUNNING, 7, (b"yes",), "admin", started=1000.0, output=0)
FULL = Usage(
    cpu_user=3.5,
    cpu_system=0.5,
    memory=1536,
    memory_peak=2**20,
    tasks=3,
    disk_read=40 * 2**20,
    disk_written=8192,
    disk_reads=10,
    disk_writes=2,
    throttled=0.25,
)
UNKNOWN = ["-"] * 10
COUNTS = st.none() | st.integers(0, 2**49)
SPANS = st.floats(0, 99_999)
USAGES = st.none() | st.builds(
    Usage,
    SPANS,
    st.just(0.0),
    memory=COUNTS,
    memory_peak=COUNTS,
    tasks=st.none() | st.integers(0, 99_999),
    disk_read=COUNTS,
    disk_written=COUNTS,
    throttled=st.none() | SPANS,
)


def reading(usage: Usage | None, *, after: float = 8.0, clock: float = 0.0) -> Reading:
    """A running job's usage, so many seconds after its start by our time."""
    return Reading(dataclasses.replace(RUNNING, usage=usage), 1000.0 + after, clock)


def cells(now: Reading, before: Reading | None = None) -> dict[str, str]:
    return dict(zip(live.header().split(), live.line(now, before).split(), strict=True))


def test_the_first_line_has_averages_since_the_start() -> None:
    assert cells(reading(FULL)) == {
        "TIME": "0:00:08",
        "CPU%": "50.0",
        "CPU": "4.00s",
        "MEMORY": "1.50K",
        "PEAK": "1.00M",
        "TASKS": "3",
        "READ/s": "5.00M",
        "WRITE/s": "1.00K",
        "READ": "40.0M",
        "WRITTEN": "8.00K",
        "THROTTLED": "0.25s",
    }


def test_the_next_has_the_rates_of_its_interval() -> None:
    later = dataclasses.replace(FULL, cpu_system=3.5, disk_read=41 * 2**20, disk_written=8192)
    found = cells(reading(later, after=10, clock=52.0), reading(FULL, clock=50.0))
    assert (found["CPU%"], found["CPU"]) == ("150.0", "7.00s")
    assert (found["READ/s"], found["READ"]) == ("512K", "41.0M")
    assert (found["WRITE/s"], found["WRITTEN"]) == ("0", "8.00K")


def test_the_last_has_the_averages_of_the_whole_run_by_the_servers_clock() -> None:
    ended = dataclasses.replace(RUNNING, status=Status.EXITED, exit_code=0, ended=1016.0, usage=FULL)
    found = cells(Reading(ended, 5000.0, 60.0), reading(FULL, clock=59.0))
    assert (found["TIME"], found["CPU%"], found["READ/s"]) == ("0:00:16", "25.0", "2.50M")


def test_what_is_not_known_is_a_dash() -> None:
    assert live.line(reading(None), None).split() == ["0:00:08", *UNKNOWN]
    assert live.line(reading(None, clock=9), reading(FULL, clock=8)).split() == ["0:00:08", *UNKNOWN]
    found = cells(reading(Usage(1.0, 1.0)))
    assert [name for name, cell in found.items() if cell != "-"] == ["TIME", "CPU%", "CPU"]


def test_there_is_no_rate_without_something_to_compare_with() -> None:
    for before in (reading(None, clock=8), reading(FULL, clock=9)):  # nothing was known; no time went by
        found = cells(reading(FULL, clock=9), before)
        assert [name for name, cell in found.items() if cell == "-"] == ["CPU%", "READ/s", "WRITE/s"]


def test_a_clock_that_is_behind_the_servers_makes_no_negative_time() -> None:
    found = cells(reading(FULL, after=-5.0))
    assert (found["TIME"], found["CPU%"]) == ("0:00:00", "-")


def test_a_count_that_steps_back_makes_no_negative_rate() -> None:
    assert cells(reading(Usage(1.0, 0.0), clock=9), reading(Usage(2.0, 0.0), clock=8))["CPU%"] == "0.0"


def ends(line: str) -> list[int]:
    return [word.end() for word in re.finditer(r"\S+", line)]


@given(USAGES, USAGES, st.floats(0, 360_000), st.floats(0.1, 3600))
def test_columns_stand_below_their_names(
    first: Usage | None, second: Usage | None, after: float, interval: float
) -> None:
    before, now = reading(first, clock=0.0), reading(second, after=after, clock=interval)
    header = live.header()
    assert len(header) < 80
    for shown in (live.line(before, None), live.line(now, before)):
        assert len(shown.split()) == len(header.split())
        if len(shown) == len(header):  # a rate may burst its column, and is told all the same
            assert ends(shown) == ends(header)


@given(st.integers(0, 2**50 - 1))
@example(1023)
@example(1023 * 2**20)
def test_sizes_have_five_characters_and_three_digits(count: int) -> None:
    shown = cells(reading(Usage(0.0, 0.0, memory=count)))["MEMORY"]
    scale = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}.get(shown[-1], 1)
    assert len(shown) <= 5
    assert sum(map(str.isdigit, shown)) <= (4 if shown.endswith("T") else 3)
    assert float(shown.rstrip("KMGT")) * scale == pytest.approx(count, rel=0.006)


@given(USAGES)
def test_json_has_every_field(usage: Usage | None) -> None:
    found = live.as_json(reading(usage, after=8.25))
    expected = {"id": ID, "status": "running", "time": "1970-01-01T00:16:48.250Z"}
    names = [field.name for field in dataclasses.fields(Usage)]
    assert found == expected | {name: getattr(usage, name, None) for name in names}


@pytest.mark.parametrize(
    ("widths", "shown"),
    [
        ([0, 0, 0], "long\nmid\nend\n"),
        ([5, 5, 5], "\rlong\rmid \rend\n"),
        ([4, 4, 4], "long\n\rmid\rend\n"),
        ([5, 5, 3], "\rlong\rmid \nend\n"),
    ],
    ids=["no terminal", "wide", "one column short", "made narrower"],
)
def test_a_line_is_refreshed_where_it_fits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], widths: list[int], shown: str
) -> None:
    display = Display()
    for words, width in zip(("long", "mid", "end"), widths, strict=True):
        monkeypatch.setattr(live, "_columns", lambda width=width: width)
        display.show(words)
    display.finish()
    display.finish()
    assert capfd.readouterr().out == shown
