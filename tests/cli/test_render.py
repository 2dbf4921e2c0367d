"""What people and programs read of jobs, and that a job's words can do nothing to a terminal."""

import json
import unicodedata
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cli import render
from wire.jobs import Cause, CauseKind, JobStatus, Status, Usage
from wire.limits import Limits

ID = "761db04c-0150-4f0b-a6fd-5cab9b9a48bf"
RUNNING = JobStatus(
    id=ID,
    status=Status.RUNNING,
    pid=123,
    argv=(b"sort", b"big file.txt"),
    owner="admin",
    started=0.0,
    output=0,
)


def ended(cause: Cause, *, code: int | None = None, signal: int | None = None) -> JobStatus:
    return JobStatus(
        id=ID,
        status=Status.EXITED if signal is None else Status.SIGNALED,
        pid=123,
        argv=(b"sort",),
        owner="admin",
        started=100.25,
        output=5 * 2**20,
        exit_code=code,
        signal=signal,
        cause=cause,
        ended=103.5,
        cwd=b"/tmp",
        user="nobody",
        limits=Limits(500, 500 * 2**20, 500, 50 * 2**20, 64, 50, 200),
        usage=Usage(1.5, 0.25, 3 * 2**20),
    )


def test_headline() -> None:
    assert render.headline(RUNNING) == f"job with id {ID} is running."
    assert render.headline(ended(Cause(CauseKind.EXITED), code=0)) == f"job with id {ID} has stopped."


def test_details() -> None:
    rows = [line.split(maxsplit=1) for line in render.details(RUNNING).splitlines()]
    assert [name for name, _ in rows] == ["command:", "status:", "pid:", "started:", "output:"]
    text = render.details(ended(Cause(CauseKind.STOPPED, by="admin"), signal=9))
    for line in (
        "  command:   sort\n",
        "  status:    signaled by SIGKILL (stopped by admin)\n",
        "  pid:       123\n",
        ", after 3.2 s\n",
        "  user:      nobody\n",
        "  directory: /tmp\n",
        "  output:    5.0 MiB\n",
        "  limits:    0.5 CPU, 500.0 MiB of memory, 500 disk operations/s, 50.0 MiB/s of disk, 64 tasks, "
        "CPU weight 50, disk weight 200\n",
        "  used:      1.75 s of CPU\n",
        "  memory:    3.0 MiB in its largest process\n",
    ):
        assert line in text


#: Each value of a usage, what `query` says of it, and in which row.
SAID: list[tuple[dict[str, float], str, str]] = [
    ({"throttled": 0.5}, "used", ", held back 0.50 s by its CPU limit"),
    ({"memory": 2**20}, "memory", "1.0 MiB now"),
    ({"memory_peak": 2 * 2**20}, "memory", "2.0 MiB at most"),
    ({"max_rss": 3 * 2**20}, "memory", "3.0 MiB in its largest process"),
    ({"disk_read": 4 * 2**20}, "disk", "4.0 MiB read"),
    ({"disk_written": 5 * 2**20}, "disk", "5.0 MiB written"),
    ({"disk_reads": 6}, "disk", "6 reads"),
    ({"disk_writes": 7}, "disk", "7 writes"),
    ({"tasks": 8}, "tasks", "8"),
]


@given(st.sets(st.integers(0, len(SAID) - 1)), st.sampled_from([RUNNING, replace(RUNNING, ended=9.0)]))
def test_only_what_is_known_of_the_usage_is_told(chosen: set[int], job: JobStatus) -> None:
    known = [SAID[index] for index in sorted(chosen)]
    usage = Usage(1.0, 0.25)
    for value, _, _ in known:
        usage = replace(usage, **value)  # type: ignore[arg-type]
    expected = {"used": "1.25 s of CPU"}
    for _, row, words in known:
        separator = ", " if row in expected and row != "used" else ""
        expected[row] = expected.get(row, "") + separator + words
    plain = render.details(job).splitlines()
    told = render.details(replace(job, usage=usage)).splitlines()
    assert told[: len(plain)] == plain
    assert told[len(plain) :] == [f"  {name + ':':11}{words}" for name, words in expected.items()]


def test_notes_have_a_row_each_and_do_nothing_to_the_terminal() -> None:
    text = render.details(replace(RUNNING, notes=("One is\x1b[31m red.", "Two is not.")))
    assert text.endswith("  note:      One is\\x1b[31m red.\n  note:      Two is not.\n")


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (RUNNING, "running"),
        (ended(Cause(CauseKind.EXITED), code=3), "exited with code 3"),
        (
            ended(Cause(CauseKind.STOPPED, by="ad\x1bmin"), code=0),
            r"exited with code 0 (stopped by ad\x1bmin)",
        ),
        (ended(Cause(CauseKind.SIGNALED, detail="Killed"), signal=9), "signaled by SIGKILL (Killed)"),
        (
            ended(Cause(CauseKind.OOM, detail="at its limit"), signal=9),
            "signaled by SIGKILL (oom: at its limit)",
        ),
        (ended(Cause(CauseKind.SIGNALED), signal=40), "signaled by signal 40"),
    ],
)
def test_status(job: JobStatus, words: str) -> None:
    assert render.status(job) == words


def test_json() -> None:
    assert render.as_json(RUNNING) == {
        "id": ID,
        "status": "running",
        "pid": 123,
        "exit_code": None,
        "signal": None,
        "cause": None,
        "command": ["sort", "big file.txt"],
        "owner": "admin",
        "user": None,
        "started": "1970-01-01T00:00:00.000Z",
        "ended": None,
        "cwd": None,
        "output_bytes": 0,
        "dropped_bytes": 0,
        "limits": {},
        "usage": None,
        "notes": [],
    }
    found = render.as_json(ended(Cause(CauseKind.TIMEOUT, detail="too long"), signal=15))
    assert found["cause"] == {"kind": "timeout", "by": None, "detail": "too long"}
    assert (found["started"], found["ended"]) == ("1970-01-01T00:01:40.250Z", "1970-01-01T00:01:43.500Z")
    assert found["limits"] == {
        "cpu": 500,
        "memory": 500 * 2**20,
        "disk_ops": 500,
        "disk_bytes": 50 * 2**20,
        "pids": 64,
        "cpu_weight": 50,
        "disk_weight": 200,
    }
    unknown = dict.fromkeys(field.name for field in fields(Usage))
    assert found["usage"] == unknown | {"cpu_user": 1.5, "cpu_system": 0.25, "max_rss": 3 * 2**20}
    assert len(found["usage"]) == 11
    assert render.as_json(replace(RUNNING, notes=("A note.",)))["notes"] == ["A note."]


@given(st.lists(st.binary(max_size=6), min_size=1), st.text(max_size=6))
def test_nothing_of_a_job_reaches_the_terminal_as_control(argv: list[bytes], owner: str) -> None:
    job = JobStatus(ID, Status.RUNNING, 1, tuple(argv), owner, 0.0, 0, cwd=b"/" + argv[0])
    assert render.details(job).count("\n") == 6
    assert render.table([job]).count("\n") == 2
    for shown in (render.details(job), render.table([job])):
        assert not [
            char
            for char in shown
            if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        ]
    line = render.json_line(render.as_json(job))
    assert line.isascii()
    assert line.count("\n") == 1
    assert [word.encode("utf-8", "surrogateescape") for word in json.loads(line)["command"]] == argv


def test_what_is_escaped_and_what_is_not() -> None:
    assert render.text("ünï☃ 'x'") == "ünï☃ 'x'"
    assert render.text("a\x1b[31m\n\r\t\x9b\u202e\udcff") == r"a\x1b[31m\n\r\t\x9b\u202e\udcff"


def test_table() -> None:
    header, first, second = render.table([RUNNING, ended(Cause(CauseKind.EXITED), code=0)]).splitlines()
    assert header.split() == ["ID", "STATUS", "PID", "STARTED", "OUTPUT", "COMMAND"]
    assert first.endswith("sort 'big file.txt'")
    assert header.index("COMMAND") == first.index("sort") == second.index("sort")
    assert render.table([]).count("\n") == 1


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1.5 * 2**30, "1.5 GiB"), (2**60, "1048576.0 TiB")],
)
def test_sizes(count: float, words: str) -> None:
    assert render.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(0, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s")],
        *[(3600, "1 h 0 min"), (47 * 3600, "47 h 0 min"), (49 * 3600, "2 days")],
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert render.duration(seconds) == words
