"""`stats` against a server: its lines until a job's end, Ctrl-C, terminals; and the notes of a start."""

import dataclasses
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client import cli as program
from client.blocking import Client
from client.cli import live
from tests.cli.program import PROGRAM, Program, finish
from tests.client.fake import JOB, BlockingLink, FakeServer
from tests.harness import PATIENCE, next_line, serve
from wire import codec
from wire.jobs import JobReply, JobStatus, Status, Usage
from wire.messages import Message, Output, Reply, Request

FAST = ("--interval", "0.1")
KEYS = {"id", "status", "time"} | {field.name for field in dataclasses.fields(Usage)}
HEADER = live.header() + "\n"
#: A loop that keeps one CPU busy.
SPIN = ("sh", "-c", "while :; do :; done")


def objects(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


@contextmanager
def on_terminal(cli: Program, columns: int, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command line whose stdout is a terminal; the number is the other end of that."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    modes = termios.tcgetattr(theirs)
    modes[1] &= ~termios.OPOST  # or a newline comes as two characters
    termios.tcsetattr(theirs, termios.TCSANOW, modes)
    with subprocess.Popen(
        [*PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=cli.environment
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def read_terminal(ours: int, enough: str | None = None) -> str:
    """What a terminal shows until a pattern is there, or until nobody has it open."""
    found = b""
    while enough is None or not re.search(enough, found.decode()):
        try:
            found += os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            assert enough is None, found
            break
    return found.decode()


def test_an_ended_job_is_one_line(cli: Program, admin: Client) -> None:
    job = admin.start(["true"])
    ended = admin.wait(job.id)
    result = cli("stats", job.id[:18])
    assert (result.code, result.err) == (0, b"")
    assert result.text == HEADER + live.line(live.Reading(ended, 0.0, 0.0), None) + "\n"
    (found,) = objects(cli("stats", "--json", job.id).text)
    assert found.keys() == KEYS
    assert (found["id"], found["status"]) == (job.id, "exited")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    assert ended.usage is not None
    assert {name: found[name] for name in KEYS - {"id", "status", "time"}} == dataclasses.asdict(ended.usage)


def test_a_running_job_is_followed_to_its_end(cli: Program, admin: Client) -> None:
    job = admin.start(["sleep", "600"])
    with cli.begin("stats", *FAST, job.id) as plain, cli.begin("stats", *FAST, "--json", job.id) as machine:
        assert next_line(plain).decode() == HEADER
        first = [next_line(plain).decode() for _ in range(3)]
        found = [json.loads(next_line(machine)) for _ in range(3)]
        assert [len(line.split()) for line in first] == [11] * 3
        assert {line["status"] for line in found} == {"running"}
        assert all(line.keys() == KEYS for line in found)
        assert found[0]["time"] < found[1]["time"] < found[2]["time"]
        admin.stop(job.id)
        stopped = time.monotonic()
        results = finish(plain), finish(machine)
    assert time.monotonic() - stopped < PATIENCE / 4
    assert [(result.code, result.err) for result in results] == [(0, b"")] * 2
    assert objects(results[1].text)[-1]["status"] == "signaled"
    ended = live.line(live.Reading(admin.query(job.id), 0.0, 0.0), None)
    assert results[0].text.splitlines()[-1] == ended


def test_once_is_once_and_for_users_too(user: Program, admin: Client) -> None:
    job = admin.start(["sleep", "600"])
    result = user("stats", "--once", "--interval", "3600", job.id)
    assert (result.code, result.err, result.text.count("\n")) == (0, b"", 2)
    (found,) = objects(user("stats", "--once", "--json", job.id).text)
    assert (found["id"], found["status"]) == (job.id, "running")
    admin.stop(job.id)


def test_the_usage_of_a_running_job_is_live(cli: Program, admin: Client) -> None:
    """Needs a server that measures running jobs, on a host that counts their CPU time."""
    job = admin.start(SPIN)
    with cli.begin("stats", *FAST, "--json", job.id) as process:
        cpu: list[float] = []
        while not cpu or cpu[-1] < 0.2:
            line = json.loads(next_line(process))
            cpu.append(line["cpu_user"] + line["cpu_system"])
        assert cpu == sorted(cpu)
        assert line["status"] == "running"
        assert line["max_rss"] is None
        for name in ("memory", "memory_peak", "tasks"):
            assert line[name] is None or line[name] > 0
    details = cli("query", job.id).text
    used = re.search(r"^  used:      (\d+\.\d\d) s of CPU", details, re.MULTILINE)
    assert used is not None
    assert float(used[1]) >= 0.2
    usage = json.loads(cli("query", "--json", job.id).text)["usage"]
    assert usage.keys() == KEYS - {"id", "status", "time"}
    _, shown = cli("stats", "--once", job.id).text.splitlines()
    percent, seconds = shown.split()[1:3]
    assert float(percent) > 5
    assert float(seconds.rstrip("s")) >= 0.2
    ended = admin.stop(job.id)
    assert ended.usage is not None
    assert ended.usage.cpu_user + ended.usage.cpu_system >= cpu[-1] - 0.02  # v1 counts in ticks of 10 ms


def test_a_terminal_has_its_line_refreshed(cli: Program, admin: Client) -> None:
    job = admin.start(["sleep", "600"])
    with on_terminal(cli, 80, "stats", *FAST, job.id) as (process, ours):
        shown = read_terminal(ours, r"(\r.*){3}")
        admin.stop(job.id)
        shown += read_terminal(ours)
        assert process.wait(PATIENCE) == 0
    header, *lines = shown.replace("\r", "\n").splitlines()
    assert header + "\n" == HEADER
    assert lines[0] == ""
    assert [len(line.split()) for line in lines[1:]] == [11] * (len(lines) - 1)
    assert shown.count("\n") == 2
    assert shown.endswith("\n")
    with on_terminal(cli, 79, "stats", job.id) as (process, ours):
        narrow = read_terminal(ours)
    assert "\r" not in narrow
    assert narrow == cli("stats", job.id).text


def test_ctrl_c_leaves_and_the_job_goes_on(cli: Program, admin: Client) -> None:
    job = admin.start(["sleep", "600"])
    with cli.begin("stats", *FAST, job.id) as process:
        assert next_line(process).decode() == HEADER
        process.send_signal(signal.SIGINT)
        result = finish(process)
    assert (result.code, result.err) == (130, b"")
    with on_terminal(cli, 80, "stats", "--interval", "3600", job.id) as (process, ours):
        shown = read_terminal(ours, r"\r.{79}")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert (shown + read_terminal(ours)).endswith("\n")
    assert admin.query(job.id).status is Status.RUNNING
    admin.stop(job.id)


def test_a_reader_that_leaves_is_no_complaint(cli: Program, admin: Client) -> None:
    job = admin.start(["sleep", "600"])
    piped = cli.shell('{ "$@"; echo "$?" >&2; } | head -n 2', "stats", *FAST, job.id)
    assert (piped.text.count("\n"), piped.err) == (2, b"141\n")
    admin.stop(job.id)


def test_an_unknown_id_prints_nothing_but_its_sentence(cli: Program) -> None:
    result = cli("stats", "nope")
    assert (result.code, result.out) == (3, b"")
    assert result.sentence == "There is no job with id 'nope'; `worker-service list` shows those there are."


def test_a_cut_connection_is_told(shared_certificates: Path) -> None:
    with serve(shared_certificates) as doomed:
        with doomed.connect() as client:
            job = client.start(["sleep", "600"])
        impatient = Program(doomed.environment()).having(WORKER_SERVICE_PATIENCE="0")
        with impatient.begin("stats", *FAST, job.id) as process:
            assert next_line(process).decode() == HEADER
            doomed.process.kill()
            result = finish(process)
    assert result.code == 5
    assert result.sentence


def scripted(answers: Iterable[JobStatus]) -> tuple[Client, FakeServer]:
    """A client of a server that gives these records, one an answer."""
    rest = iter(answers)

    def answer(message: Message) -> Iterable[Message]:
        assert isinstance(message, Request)
        reply = Reply(message.id, codec.to_map(JobReply(next(rest))))
        return [Output(message.id, 0, 1, b"out\n"), reply] if message.method == "stream" else [reply]

    server = FakeServer(answer)
    return Client(BlockingLink(server), "fake"), server


def test_one_connection_is_asked_again_after_each_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = dataclasses.replace(JOB, status=Status.EXITED, exit_code=0)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    client, server = scripted([JOB, JOB, ended])
    found = list(live.readings(client, JOB.id[:2], interval=0.25, once=False))
    assert [reading.job for reading in found] == [JOB, JOB, ended]
    assert slept == [0.25, 0.25]
    asked = [(event.method, event.params) for event in server.heard if isinstance(event, Request)]
    assert (
        asked == [("query", {"id": JOB.id[:2]})] + [("query", {"id": JOB.id})] * 2
    )  # prefixes may become shared
    client, _ = scripted([JOB])
    assert [reading.job for reading in live.readings(client, "0", interval=0.25, once=True)] == [JOB]
    assert slept == [0.25, 0.25]


@pytest.fixture
def signals() -> Iterator[None]:
    """`run` takes signals over; they are given back."""
    taken = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in taken.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("command", ["start", "run"])
def test_notes_are_told_on_stderr_and_stdout_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    noted = dataclasses.replace(JOB, notes=("The limit is high.", "It is \x1b red."))
    ended = dataclasses.replace(noted, status=Status.EXITED, exit_code=0)
    client, _ = scripted([noted, ended])
    monkeypatch.setattr("client.cli.flags.connect", lambda *given, **named: client)
    assert program.run([command, "--", "yes"]) == 0
    out, err = capfd.readouterr()
    assert out == {"start": f"job with id {JOB.id} started.\n", "run": "out\n"}[command]
    assert err == ("worker-service: note: The limit is high.\nworker-service: note: It is \\x1b red.\n")


def test_the_weights_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = scripted([JOB])
    monkeypatch.setattr("client.cli.flags.connect", lambda *given, **named: client)
    assert program.run(["start", "--cpu-weight", "50", "--disk-weight=10000", "--", "yes"]) == 0
    (request,) = (event for event in server.heard if isinstance(event, Request))
    assert request.params["limits"] == {"cpu_weight": 50, "disk_weight": 10_000}
