"""`run`, `wait` and `stream`: exit codes, exact bytes, Ctrl-C, readers that leave, cut connections."""

import json
import os
import signal
from pathlib import Path

import pytest

from client.blocking import Client
from tests.cli.program import PROGRAM, Program, finish, read_until
from tests.harness import Server, eventually, serve
from wire.jobs import CauseKind, Status

READY = b"ready\n"
WAITS = ("sh", "-c", "echo ready; exec sleep 600")


def newest(client: Client, word: bytes) -> str:
    """The id of the newest job whose command holds a word."""
    return [job.id for job in client.list() if word in job.argv][-1]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--", "true"], 0),
        (["true"], 0),
        (["--", "sh", "-c", "exit 3"], 3),
        (["--", "sh", "-c", "exit 255"], 255),
    ],
)
def test_the_jobs_exit_code_is_passed_on(cli: Program, words: list[str], code: int) -> None:
    ran = cli("run", *words)
    assert (ran.code, ran.out, ran.err) == (code, b"", b"")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--", "no-such-program"], 127, "There is no program 'no-such-program' on the server"),
        (["--", "/no/such/program"], 127, "There is no program '/no/such/program' on the server"),
        (["--", "/etc/passwd"], 126, "The server may not execute '/etc/passwd'"),
        (["--cwd", "/no/such/folder", "--", "true"], 125, "The job cannot work in '/no/such/folder'"),
        (["--user", "no-such-user", "--", "true"], 125, "There is no user 'no-such-user' on the server"),
    ],
)
def test_what_cannot_be_started(cli: Program, words: list[str], code: int, sentence: str) -> None:
    ran = cli("run", *words)
    assert (ran.code, ran.out) == (code, b"")
    assert ran.sentence.startswith(sentence)


def test_start_gives_the_same_codes_for_programs_and_1_for_the_rest(cli: Program) -> None:
    assert cli("start", "--", "no-such-program").code == 127
    assert cli("start", "--", "/etc/passwd").code == 126
    assert cli("start", "--cwd", "/no/such/folder", "--", "true").code == 1
    assert cli("start", "--user", "no-such-user", "--", "true").code == 1


@pytest.mark.host
def test_a_job_of_another_user(cli: Program) -> None:
    assert cli("run", "--user", "nobody", "--cwd=/", "--", "id", "-un").out == b"nobody\n"
    job = cli.start("--user", "nobody", "--cwd=/", "--", "true")
    assert "  user:      nobody\n" in cli("query", job).text
    assert json.loads(cli("query", job, "--json").text)["user"] == "nobody"


def test_stdout_goes_to_stdout_and_stderr_to_stderr(cli: Program) -> None:
    ran = cli("run", "--", "sh", "-c", "printf out; printf err >&2; exit 4")
    assert (ran.code, ran.out, ran.err) == (4, b"out", b"err")
    merged = cli("run", "--merge", "--", "sh", "-c", "printf out; printf err >&2")
    assert (merged.out, merged.err) == (b"outerr", b"")


def test_bytes_are_exact(cli: Program, tmp_path: Path) -> None:
    odd = b"a\0b\xff\xfe\r\n\x1b[31m" + bytes(range(256)) + "ünï☃".encode() + b"\n\n" + os.urandom(100_000)
    path = tmp_path / "odd"
    path.write_bytes(odd)
    assert cli("run", "--", "cat", str(path)).out == odd
    job = cli.start("--", "sh", "-c", 'cat "$1" >&2', "sh", str(path))
    assert cli("stream", job).err == odd


def test_arguments_are_exact(cli: Program) -> None:
    words = ["", " ", "ünï☃", "a\nb", "$HOME `x` '\"\\", "--", "--help", "-h", "--version", "@x", '{"a": 1}']
    ran = cli("run", "--", "printf", "%s|", *words)
    assert ran.out == "".join(f"{word}|" for word in words).encode()
    assert cli("run", "printf", "%s|", "-n", "--cwd", "--", "x").out == b"-n|--cwd|--|x|"
    ascii_only = cli.having(LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    for program in (cli, ascii_only):
        assert program("run", "--", "printf", "%s", b"\xff\xfe \xc3\xbc").out == b"\xff\xfe \xc3\xbc"


def test_a_jobs_environment(cli: Program) -> None:
    ours = cli.having(OURS="mine=ünï", UNNAMED="hidden")
    words = ["--env", "A=1", "--env", "B=x y=z", "--env", "C=", "--env=D=-d", "--env", "OURS", "--", "env"]
    lines = ours("run", *words).text.splitlines()
    assert {"A=1", "B=x y=z", "C=", "D=-d", "OURS=mine=ünï"} <= set(lines)
    assert not [line for line in lines if line.startswith(("UNNAMED=", "WORKER_SERVICE_"))]


def test_a_jobs_directory(cli: Program, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"a b\xff")
    odd.mkdir()
    ran = cli("run", "--cwd", odd.as_posix(), "--", "pwd")
    assert ran.out == os.fsencode(odd) + b"\n"


def test_wait(cli: Program) -> None:
    job = cli.start("--", "sh", "-c", "sleep 0.1; exit 5")
    waited = cli("wait", job)
    assert waited.code == 5
    assert waited.text.splitlines()[0] == f"job with id {job} has stopped."
    again = cli("wait", job, "--json")
    assert (again.code, json.loads(again.text)["exit_code"]) == (5, 5)
    assert cli("wait", cli.start("--", "sh", "-c", "kill -9 $$")).code == 137
    assert cli("wait", "nope").code == 125


def test_ctrl_c_leaves_a_stream_and_the_job_goes_on(cli: Program, admin: Client) -> None:
    job = admin.start(WAITS)
    with cli.begin("stream", job.id) as following:
        read_until(following, READY)
        following.send_signal(signal.SIGINT)
        left = finish(following)
    assert (left.code, left.err) == (130, b"")
    assert admin.query(job.id).status is Status.RUNNING
    admin.stop(job.id)


def test_ctrl_c_leaves_a_wait(cli: Program, admin: Client) -> None:
    job = admin.start(WAITS)
    with cli.begin("wait", job.id) as waiting:
        eventually(lambda: _sockets(waiting.pid), "its connection")
        waiting.send_signal(signal.SIGINT)
        left = finish(waiting)
    assert (left.code, left.out, left.err) == (130, b"", b"")
    assert admin.query(job.id).status is Status.RUNNING
    admin.stop(job.id)


def _sockets(pid: int) -> str:
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(link))  # noqa: PTH115  # as text: it names no file
        except OSError:
            continue
    return " ".join(link for link in links if link.startswith("socket:"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_stops_what_run_runs(cli: Program, admin: Client, number: signal.Signals) -> None:
    mark = f"stopped by {number.name}".encode()
    with cli.begin("run", "--", *WAITS, mark) as running:
        read_until(running, READY)
        running.send_signal(number)
        ended = finish(running)
    job = admin.query(newest(admin, mark))
    assert ended.code == 128 + 15
    assert ended.sentence == f"job {job.id} was stopped by admin (signaled by SIGTERM)."
    assert (job.status, job.signal) == (Status.SIGNALED, 15)
    assert job.cause is not None
    assert (job.cause.kind, job.cause.by) == (CauseKind.STOPPED, "admin")


def test_after_ctrl_c_what_the_job_still_says_is_shown_and_its_code_passed_on(cli: Program) -> None:
    script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 600 & wait; done"
    with cli.begin("run", "--", "sh", "-c", script) as running:
        read_until(running, READY)
        running.send_signal(signal.SIGINT)
        ended = finish(running)
    assert (ended.code, ended.out) == (7, b"bye\n")
    assert ended.sentence.endswith(" was stopped by admin (exited with code 7).")


def test_a_second_ctrl_c_leaves_at_once(cli: Program, admin: Client) -> None:
    mark = b"deaf"
    script = "trap 'echo heard' TERM; echo ready; while :; do sleep 600 & wait; done"
    with cli.begin("run", "--", "sh", "-c", script, mark) as running:
        read_until(running, READY)
        running.send_signal(signal.SIGINT)
        read_until(running, b"heard\n")
        running.send_signal(signal.SIGINT)
        left = finish(running)
    job = newest(admin, mark)
    assert left.code == 130
    assert left.sentence == (
        f"left before job {job} had ended; `worker-service query {job}` shows what becomes of it."
    )
    assert admin.stop(job, grace=0).signal == signal.SIGKILL


def test_a_reader_that_leaves_a_stream(cli: Program, admin: Client) -> None:
    job = admin.start(["yes"])
    piped = cli.shell('{ "$@"; echo $? >&2; } | head -c 10', "stream", job.id)
    assert (piped.out, piped.err) == (b"y\n" * 5, b"141\n")
    assert admin.query(job.id).status is Status.RUNNING
    admin.stop(job.id)


def test_a_reader_that_leaves_a_run_ends_its_job(cli: Program, admin: Client) -> None:
    piped = cli.shell('{ "$@"; echo $? >&2; } | head -c 10', "run", "--", "yes", "left alone")
    assert (piped.out, piped.err) == (b"left alone", b"141\n")
    job = admin.query(newest(admin, b"left alone"))
    assert job.cause is not None
    assert (job.status, job.cause.kind) == (Status.SIGNALED, CauseKind.STOPPED)


def test_a_reader_that_leaves_other_commands(cli: Program, admin: Client) -> None:
    job = admin.start(["true"])
    for words in (["list"], ["query", job.id], ["start", "--", "true"], ["--help"]):
        piped = cli.shell('{ sleep 0.05; "$@"; } | true', *words)
        assert piped.err == b"", words


@pytest.mark.parametrize("words", [["list"], ["run", "--", "echo", "hi"], ["start", "--", "true"]])
@pytest.mark.parametrize("target", ["/dev/full", "&-"])
def test_output_that_cannot_be_written(cli: Program, words: list[str], target: str) -> None:
    result = cli.shell(f'"$@" >{target}', *words)
    assert result.sentence.startswith("cannot write to stdout: ")
    assert result.code == (125 if words[0] == "run" else 1)


def test_closed_descriptors_are_not_taken_by_the_connection(cli: Program, admin: Client) -> None:
    job = admin.start(["sh", "-c", "echo out; echo err >&2"])
    admin.wait(job.id)
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        assert cli.shell(f'"$@" {closed}', "stream", job.id).code in (0, 1), closed
    assert cli.shell('"$@" 2>&-', "nope").code == 2


def test_a_full_pipe_that_somebody_made_non_blocking(cli: Program, admin: Client) -> None:
    job = admin.start(["head", "-c", "1000000", "/dev/zero"])
    read, write = os.pipe()
    os.set_blocking(write, False)
    with os.fdopen(read, "rb") as reader, cli.begin("wait", job.id):
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", 'exec "$@"', "sh", *PROGRAM, "stream", job.id],
            cli.environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
        )
        os.close(write)
        assert len(reader.read()) == 1_000_000
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_cut_connection_is_never_a_success(shared_certificates: Path) -> None:
    """BEHAVIOURS 16."""
    with serve(shared_certificates) as doomed:
        cli = Program(doomed.environment()).having(WORKER_SERVICE_PATIENCE="0")
        with doomed.connect() as client:
            job = client.start(WAITS)
        with (
            cli.begin("run", "--", *WAITS) as running,
            cli.begin("stream", job.id) as streaming,
            cli.begin("wait", job.id) as waiting,
        ):
            read_until(running, READY)
            read_until(streaming, READY)
            eventually(lambda: _sockets(waiting.pid), "its connection")
            doomed.process.kill()
            ran, streamed, waited = map(finish, (running, streaming, waiting))
    assert (ran.code, streamed.code) == (125, 5)
    assert waited.code == 125
    assert "is not known." in ran.sentence
    assert ran.sentence.partition("job ")[2][:8].isalnum()
    assert streamed.sentence
    assert waited.sentence


def test_a_server_that_ends_in_order_tells_its_followers_all(shared_certificates: Path) -> None:
    with serve(shared_certificates) as ending:
        script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 600 & wait; done"
        with Program(ending.environment()).begin("run", "--", "sh", "-c", script) as running:
            read_until(running, READY)
            assert ending.end() == 0
            ran = finish(running)
    assert (ran.code, ran.out) == (7, b"bye\n")
    assert ran.sentence.endswith(" was stopped: the server was shut down (exited with code 7).")


def test_a_job_started_while_the_server_is_away(cli: Program, server: Server) -> None:
    away = cli.having(WORKER_SERVICE_SERVER="127.0.0.1:1")
    result = away("run", "--", "true")
    assert result.code == 125
    assert result.sentence.startswith("Cannot reach the server at 127.0.0.1:1 (Connection refused)")
