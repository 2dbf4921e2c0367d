"""Owns the live view of a job's usage: its readings, its columns, and how a terminal shows them."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from wire.jobs import JobStatus, Usage

from ..blocking import Client
from . import streams
from .render import utc

#: The columns and their least widths; a line of them fits into the 80 of a terminal.
COLUMNS: Final = {
    "TIME": 7,
    "CPU%": 5,
    "CPU": 7,
    "MEMORY": 6,
    "PEAK": 5,
    "TASKS": 5,
    "READ/s": 6,
    "WRITE/s": 7,
    "READ": 5,
    "WRITTEN": 7,
    "THROTTLED": 9,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """A job's status, with the server's Unix time and our monotonic clock when it came, in seconds."""

    job: JobStatus
    time: float
    clock: float


def readings(
    client: Client, job_id: str, clock: Callable[[], float] = time.time, *, interval: float, once: bool
) -> Iterator[Reading]:
    """Ask for a job's status again and again until it has ended; give every answer, the last included.

    Args:
        client: an open connection.
        job_id: the job's id or a unique prefix of it.
        clock: the server's.
        interval: seconds between two questions.
        once: ask but once.
    """
    while True:
        job = client.query(job_id)
        yield Reading(job, clock(), time.monotonic())
        if once or job.has_ended:
            return
        job_id = job.id  # a prefix may fit a later job too
        time.sleep(interval)


def header() -> str:
    """The names of the columns."""
    return _row(list(COLUMNS))


def line(now: Reading, before: Reading | None) -> str:
    """One reading in columns; what is not known, or not counted by the host, is ``-``.

    Rates are those since the reading before it. Without one, and once the job has ended, they are the
    averages since its start.
    """
    usage = now.job.usage
    if now.job.has_ended:
        before = None
    cpu = _rate(now, before, lambda usage: usage.cpu_user + usage.cpu_system)
    return _row(
        [
            _age(now),
            "-" if cpu is None else f"{100 * cpu:.{1 if cpu < 9.995 else 0}f}",
            _seconds(None if usage is None else usage.cpu_user + usage.cpu_system),
            _size(None if usage is None else usage.memory),
            _size(None if usage is None else usage.memory_peak),
            "-" if usage is None or usage.tasks is None else str(usage.tasks),
            _size(_rate(now, before, lambda usage: usage.disk_read)),
            _size(_rate(now, before, lambda usage: usage.disk_written)),
            _size(None if usage is None else usage.disk_read),
            _size(None if usage is None else usage.disk_written),
            _seconds(None if usage is None else usage.throttled),
        ]
    )


def as_json(reading: Reading) -> dict[str, Any]:
    """One reading as plain data for programs; what is not known is None."""
    usage = reading.job.usage
    names = [field.name for field in dataclasses.fields(Usage)]
    known = dict.fromkeys(names) if usage is None else dataclasses.asdict(usage)
    return {
        "id": reading.job.id,
        "status": str(reading.job.status),
        "time": utc(reading.time),
        **known,
    }


class Display:
    """Shows lines on stdout: each in place of the last on a terminal wide enough, below it elsewhere."""

    def __init__(self) -> None:
        self._shown = 0  # the length of the line that the next one goes over

    def show(self, words: str) -> None:
        """Show a line in place of the last one, or below it."""
        if _columns() > len(words):
            before, self._shown = self._shown, len(words)  # first: Ctrl-C may come as soon as it is written
            streams.put("\r" + words.ljust(before))
        else:
            self.finish()
            streams.put(words + "\n")

    def finish(self) -> None:
        """Leave what is shown on the terminal; what comes next goes below it."""
        if self._shown:
            self._shown = 0
            streams.put("\n")


def show(found: Iterable[Reading], display: Display) -> None:
    """Show readings as they come, below a header."""
    before = None
    try:
        for reading in found:
            if before is None:
                streams.put(header() + "\n")
            display.show(line(reading, before))
            before = reading
    finally:
        display.finish()


def _columns() -> int:
    """How wide the terminal is, or 0 if stdout is none."""
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 0


def _row(cells: list[str]) -> str:
    return " ".join(cell.rjust(width) for cell, width in zip(cells, COLUMNS.values(), strict=True))


def _elapsed(reading: Reading) -> float:
    """Seconds since a job's start, or from its start to its end."""
    job = reading.job
    return max(0.0, (reading.time if job.ended is None else job.ended) - job.started)


def _age(reading: Reading) -> str:
    minutes, seconds = divmod(int(_elapsed(reading)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _rate(now: Reading, before: Reading | None, count: Callable[[Usage], float | None]) -> float | None:
    """What a count grew by in a second, or None if that is not known."""
    if now.job.usage is None or (last := count(now.job.usage)) is None:
        return None
    if before is None:
        first, seconds = 0.0, _elapsed(now)
    elif before.job.usage is None or (known := count(before.job.usage)) is None:
        return None
    else:
        first, seconds = known, now.clock - before.clock
    # A count over processes that come and go may step back by a little.
    return max(0.0, last - first) / seconds if seconds > 0 else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.{2 if value < 999.995 else 0}f}s"


def _size(count: float | None) -> str:
    """Bytes in five characters, with the units of the limits: 512, 1.50K, 12.3M, 0.98G."""
    if count is None:
        return "-"
    unit = ""
    for unit in ("", "K", "M", "G", "T"):
        if count < 999.5 or unit == "T":
            break
        count /= 1024
    digits = 0 if not unit or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f}{unit}"
