"""`run` says on stderr why its job ended, with its id, wherever that was no exit of the job's own."""

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import client.cli as program
from client.blocking import Client
from client.cli.ending import sentence, was_over
from client.core import PING_SECONDS
from tests.cli.program import PROGRAM, Program, finish, read_until
from tests.client.fake import JOB, BlockingLink, FakeServer
from tests.harness import Server, eventually, serve
from tests.proc import stat_of
from tests.proxy import proxy
from wire import codec
from wire.errors import ErrorCode
from wire.jobs import Cause, CauseKind, JobReply, JobStatus, Status
from wire.messages import Failure, Message, Reply, Request

ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
READY = b"ready\n"
WAITS = ("sh", "-c", "echo ready; exec sleep 600")


def ended(
    kind: CauseKind, *, by: str | None = None, detail: str | None = None, code: int | None = None
) -> JobStatus:
    status = Status.SIGNALED if code is None else Status.EXITED
    number = signal.SIGKILL if code is None else None
    return JobStatus(
        "0b5c",
        status,
        7,
        (b"yes",),
        "admin",
        1.5,
        0,
        exit_code=code,
        signal=number,
        cause=Cause(kind, by, detail),
    )


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (ended(CauseKind.EXITED, code=0), None),
        (ended(CauseKind.EXITED, code=137), None),
        (ended(CauseKind.SIGNALED, detail="Killed"), "job 0b5c was signaled by SIGKILL (Killed)."),
        (ended(CauseKind.STOPPED, by="eve"), "job 0b5c was stopped by eve (signaled by SIGKILL)."),
        (
            ended(CauseKind.STOPPED, by="e\nve", code=0),
            r"job 0b5c was stopped by e\nve (exited with code 0).",
        ),
        (
            ended(CauseKind.OOM, detail="the kernel's OOM killer ended it at its memory limit"),
            "job 0b5c ran out of memory: the kernel's OOM killer ended it at its memory limit "
            "(signaled by SIGKILL).",
        ),
        (
            ended(CauseKind.LOST, detail="the spawner died"),
            "job 0b5c was lost by the server: the spawner died (signaled by SIGKILL).",
        ),
        (
            replace(ended(CauseKind.EXITED, code=0), status="evicted", exit_code=None),
            "job 0b5c ended, with cause exited (evicted).",
        ),
        (
            replace(ended(CauseKind.LOST), status="evicted", signal=None, cause=None),
            "job 0b5c ended (evicted).",
        ),
    ],
)
def test_sentences(job: JobStatus, words: str | None) -> None:
    assert sentence(job) == words


@pytest.mark.parametrize(
    ("kind", "ended_at", "asked", "over"),
    [
        (CauseKind.EXITED, 9.0, None, True),  # an older server, that does not tell its clock
        (CauseKind.EXITED, 9.0, 5.0, True),
        (CauseKind.STOPPED, 9.0, None, False),
        (CauseKind.STOPPED, 9.0, 5.0, False),
        (CauseKind.STOPPED, 4.0, 5.0, True),
    ],
)
def test_a_stop_that_was_too_late(
    kind: CauseKind, ended_at: float, asked: float | None, *, over: bool
) -> None:
    assert was_over(replace(ended(kind), ended=ended_at), asked) == over


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["sh", "-c", "kill -SEGV $$"], 128 + 11, r"signaled by SIGSEGV \(Segmentation fault\)\."),
        (
            ["--timeout", "0.05", "sleep", "600"],
            128 + 15,
            r"stopped at its timeout: it ran longer than 0\.05 s \(signaled by SIGTERM\)\.",
        ),
    ],
)
def test_a_signal_and_a_timeout(cli: Program, words: list[str], code: int, said: str) -> None:
    ran = cli("run", *words)
    assert (ran.code, ran.out) == (code, b"")
    assert re.fullmatch(rf"job {ID} was {said}", ran.sentence)


@pytest.mark.parametrize(
    ("prints", "before"),
    [("printf abc >&2", b"abc\n"), ("echo abc >&2", b"abc\n"), ("printf abc", b""), ("true", b"")],
)
def test_it_stands_on_a_line_of_its_own(cli: Program, prints: str, before: bytes) -> None:
    ran = cli("run", "sh", "-c", f"{prints}; kill -KILL $$")
    assert ran.out == (b"abc" if prints == "printf abc" else b"")
    assert ran.err.startswith(before + b"worker-service: job ")
    assert ran.err.count(b"\n") == before.count(b"\n") + 1


@pytest.mark.parametrize("flag", ["--merge", "--no-merge"])
@pytest.mark.parametrize("prints", ["printf a; printf b >&2", "printf a >&2; printf b"])
def test_it_stands_on_a_line_of_its_own_in_one_file_too(cli: Program, flag: str, prints: str) -> None:
    ran = cli.shell('"$@" 2>&1', "run", flag, "sh", "-c", f"{prints}; kill -KILL $$")
    line, sentence, rest = ran.out.split(b"\n")
    assert (sorted(line), sentence[:20], rest) == (sorted(b"ab"), b"worker-service: job ", b"")


def test_who_stopped_it(cli: Program, admin: Client) -> None:
    with cli.begin("run", *WAITS) as running:
        read_until(running, READY)
        job = [job.id for job in admin.list() if job.argv == tuple(map(str.encode, WAITS))][-1]
        admin.stop(job)
        ran = finish(running)
    assert (ran.code, ran.sentence) == (143, f"job {job} was stopped by admin (signaled by SIGTERM).")


@pytest.mark.host
def test_a_job_that_ran_out_of_memory(cli: Program) -> None:
    ran = cli("run", "--memory-limit", "16M", "--", "sh", "-c", "exec tail /dev/zero")
    if "cannot be enforced on this host" in ran.err.decode():
        pytest.skip(f"NOT TESTED: {ran.sentence}")
    assert ran.code == 128 + 9
    assert re.match(rf"job {ID} ran out of memory: ", ran.sentence)


def test_a_job_that_was_lost(shared_certificates: Path) -> None:
    with serve(shared_certificates) as server, Program(server.environment()).begin("run", *WAITS) as running:
        read_until(running, READY)
        os.kill(server.spawner_pid, signal.SIGKILL)
        ran = finish(running)
    assert ran.code == 128 + 9
    assert re.match(rf"job {ID} was lost by the server: ", ran.sentence)


def refuses_to_stream(message: Message) -> Iterable[Message]:
    assert isinstance(message, Request)
    if message.method == "stream":
        yield Failure(message.id, ErrorCode.BAD_REQUEST, "Nothing of that is here.")
    else:
        yield Reply(message.id, codec.to_map(JobReply(JOB)))


@pytest.mark.usefixtures("signals")
def test_a_job_whose_end_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = Client(BlockingLink(FakeServer(refuses_to_stream)), "fake")
    monkeypatch.setattr("client.cli.flags.connect", lambda *given, **named: fake)
    assert program.run(["run", "--", "yes"]) == 125
    expected = "worker-service: Nothing of that is here. What became of job 0b5c is not known.\n"
    assert capfd.readouterr().err == expected


def test_the_end_of_its_terminal_stops_the_job(server: Server, admin: Client) -> None:
    """Of the signals that come with it, none makes us leave before the server was asked to stop the job."""
    ours, theirs = pty.openpty()
    mark = b"on a terminal"
    with subprocess.Popen(
        [*PROGRAM, "run", "--", *WAITS, mark],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=server.environment(),
        start_new_session=True,
    ) as running:
        os.close(theirs)
        assert os.read(ours, 100).startswith(b"ready")
        os.close(ours)
        eventually(lambda: stat_of(running.pid)[0] == "S", "its wait for the server")
        # All at once, as logind sends them: the kernel gives them to any thread of a stopped process.
        for number in (signal.SIGSTOP, signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
            running.send_signal(number)
        running.wait(0.75 * PING_SECONDS)  # they wake it, and not what it asks the server then
    (job,) = (job for job in admin.list() if mark in job.argv)
    eventually(lambda: admin.query(job.id).cause == Cause(CauseKind.STOPPED, "admin"), "its end")


def test_under_nohup_a_terminal_s_end_is_ignored(cli: Program, tmp_path: Path) -> None:
    waits = "echo ready; while ! [ -e go ]; do sleep 0.01; done"
    deaf = "trap '' HUP; exec \"$@\""
    with subprocess.Popen(
        ["sh", "-c", deaf, "sh", *PROGRAM, "run", "--cwd", str(tmp_path), "--", "sh", "-c", waits],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cli.environment,
    ) as running:
        read_until(running, READY)
        status = Path(f"/proc/{running.pid}/status").read_text()
        running.send_signal(signal.SIGHUP)
        (tmp_path / "go").touch()
        ran = finish(running)
    assert (ran.code, ran.err) == (0, b"")
    # What has no effect yet might have one later; what is ignored has none.
    ignored = re.search(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)
    assert ignored is not None
    assert int(ignored[1], 16) & 1 << (signal.SIGHUP - 1)


# --- starts that nobody has answered yet


@contextmanager
def starting(
    server: Server, audit: Path, *words: str, address: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command whose start has come to the server, and waits there for the spawner."""
    os.kill(server.spawner_pid, signal.SIGSTOP)
    with (
        Program(server.environment())
        .having(WORKER_SERVICE_SERVER=address or server.address)
        .begin(*words) as running
    ):
        eventually(lambda: b'"method":"start"' in audit.read_bytes(), "the start's line in the audit log")
        yield running


@pytest.mark.parametrize("command", ["start", "run"])
def test_leaving_a_start_tells_its_job(shared_certificates: Path, tmp_path: Path, command: str) -> None:
    audit = tmp_path / "audit.log"
    with serve(shared_certificates, "--audit", str(audit)) as server:
        with starting(server, audit, command, "true") as running:
            running.send_signal(signal.SIGINT)
            if command == "run":  # whose first Ctrl-C stops the job, once it is there
                running.send_signal(signal.SIGTERM)
            left = finish(running)
        os.kill(server.spawner_pid, signal.SIGCONT)
        job = re.search(ID, left.sentence)
        assert job is not None
        assert Program(server.environment())("wait", job[0]).code == 0
    assert left.code == 128 + (signal.SIGINT if command == "start" else signal.SIGTERM)
    assert "left before" in left.sentence


@pytest.mark.parametrize(("command", "code"), [("start", 5), ("run", 125)])
def test_a_start_that_may_have_been_done_is_told_with_its_job(
    shared_certificates: Path, tmp_path: Path, command: str, code: int
) -> None:
    audit = tmp_path / "audit.log"
    with (
        serve(shared_certificates, "--audit", str(audit)) as server,
        starting(server, audit, command, "--patience", "0.2", "--", "true") as running,
    ):
        os.kill(server.spawner_pid, signal.SIGCONT)
        server.process.kill()
        ended = finish(running)
    assert ended.code == code
    assert re.search(rf"Whether job {ID} was started is not known\.$", ended.sentence)


def test_a_start_that_was_cut_runs_once(shared_certificates: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.log"
    with (
        serve(shared_certificates, "--audit", str(audit)) as server,
        proxy(server.port) as between,
        starting(server, audit, "run", "--", "echo", "once", address=between.address) as running,
    ):
        between.cut()
        eventually(lambda: audit.read_bytes().count(b'"method":"start"') > 1, "the repeated start")
        os.kill(server.spawner_pid, signal.SIGCONT)
        ran = finish(running)
    assert (ran.code, ran.out, ran.err) == (0, b"once\n", b"")
    assert audit.read_bytes().count(b'"event":"job_started"') == 1
