"""The audit log of a real server: each decision and job event, on any sink, and no loss that is silent."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from certs.authority import issue
from certs.contexts import client_context
from certs.roles import Role
from client.errors import TlsError
from tests.e2e.test_server import UPGRADE, http
from tests.harness import PATIENCE, eventually, serve
from tests.tlshelp import authority, key, make_directory, save
from wire.errors import ErrorCode, RequestError
from wire.jobs import CauseKind
from worker.server import SESSIONS_DEADLINE


def lines(path: Path) -> list[dict[str, Any]]:
    """What the audit log says, after a look at its form: nothing is missing."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["seq"] for line in found] == list(range(1, len(found) + 1))
    return found


def wait_for(path: Path, event: str, count: int = 1) -> dict[str, Any]:
    """Wait for the count-th line of an event."""

    def find() -> dict[str, Any] | None:
        found = [line for line in lines(path) if line["event"] == event] if path.exists() else []
        return found[count - 1] if len(found) >= count else None

    line: dict[str, Any] = eventually(find, f"audit line {event}")
    return line


def refusal(call: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call()
    return caught.value


def test_a_jobs_life_and_who_had_a_hand_in_it(shared_certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    injection = 'x"}\n{"event":"job_started","identity":"root"}\r\x1b[2J'
    with serve(shared_certificates, "--audit", str(path)) as running, running.connect() as admin:
        job = admin.start(["sh", "-c", "sleep 600", injection], env={"TOKEN": "hunter2"})
        admin.stop(job.id[:13], grace=0)
        admin.remove(job.id)
        refusal(lambda: admin.start(["/no/such/program"]))
        refusal(lambda: admin.stop("nobody"))
        with running.connect("user", "wss://") as user:
            refusal(lambda: user.start(["id"]))
        left = admin.start(["sleep", "600"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"hunter2" not in path.read_bytes()
    found = lines(path)
    of_admin = [line for line in found if line.get("connection") == 1]
    assert len({(line["peer"], line["identity"], line["serial"], line["role"]) for line in of_admin}) == 1
    assert of_admin[0]["role"] == "Admin"
    assert [(line["event"], line["outcome"], line.get("request")) for line in of_admin] == [
        ("connection_accepted", "allowed", None),
        ("request", "allowed", 1),
        ("job_started", "done", 1),
        ("request", "allowed", 2),
        ("job_stopping", "done", 2),
        ("job_ended", "signaled", 1),
        ("request", "allowed", 3),
        ("job_removed", "done", 3),
        ("request", "allowed", 4),
        ("job_refused", "failed", 4),
        ("request", "allowed", 5),
        ("request_failed", "failed", 5),
        ("request", "allowed", 6),
        ("job_started", "done", 6),
        ("connection_ended", "done", None),
        ("job_ended", "signaled", 6),
    ]
    start, ended, refused, failed = of_admin[1], of_admin[5], of_admin[9], of_admin[11]
    assert (start["method"], start["argv"], start["env"]) == (
        "start",
        ["sh", "-c", "sleep 600", injection],
        ["TOKEN"],
    )
    assert (ended["job"], ended["cause"], ended["by"]) == (job.id, "stopped", "admin")
    assert ended["signal"] in (9, 15)  # whichever of the two was quicker
    assert (refused["code"], refused["cause"][:20]) == ("no_such_program", "There is no program ")
    assert (failed["method"], failed["code"]) == ("stop", "not_found")
    (denied,) = (line for line in found if line["outcome"] == "denied")
    assert (denied["event"], denied["identity"], denied["role"]) == ("request", "user", "User")
    assert (denied["argv"], denied["code"]) == (["id"], "denied")
    (stopping,) = (line for line in found if line["event"] == "job_stopping" and "connection" not in line)
    assert (stopping["job"], stopping["by"]) == (left.id, "server")
    assert (found[0]["event"], found[-1]["event"]) == ("server_started", "server_ended")


def test_who_is_not_let_in(tmp_path: Path) -> None:
    certs, path = make_directory(tmp_path / "certs"), tmp_path / "audit.log"
    eve = "eve\nroot"
    save(certs, nobody=issue(authority(), eve, key=key("admin")))
    foreign = issue(authority("another CA"), "foreign", role=Role.ADMIN, key=key("admin"))
    save(certs, foreign=foreign)
    with serve(certs, "--audit", str(path)) as running:
        refusal(lambda: running.connect("nobody"))
        with pytest.raises(TlsError):
            running.connect("foreign")
        with socket.create_connection(("127.0.0.1", running.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(ConnectionError):
                while plain.recv(1000):
                    pass
        http(running, UPGRADE + "Origin: https://evil.example\n\n")
    denied = wait_for(path, "connection_denied")
    assert (denied["identity"], denied["outcome"]) == (r"eve\nroot", "denied")
    assert len(denied["serial"]) == 40
    assert "no role" in denied["cause"]
    failed = [line for line in lines(path) if line["event"] == "handshake_failed"]
    assert failed[0]["cause"].startswith("certificate verify failed: ")
    assert failed[1]["cause"] == "http request"
    assert all(line["peer"].startswith("127.0.0.1:") for line in failed)
    assert wait_for(path, "connection_denied", 2)["cause"].startswith("Pages of another origin")


def test_a_job_that_is_lost_and_one_that_retention_removes(shared_certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with (
        serve(shared_certificates, "--audit", str(path), "--retain", "1") as running,
        running.connect() as admin,
    ):
        job = admin.start(["sleep", "600"])
        os.kill(running.spawner_pid, signal.SIGKILL)
        end = admin.wait(job.id)
        assert end.cause is not None
        assert end.cause.kind is CauseKind.LOST
        assert wait_for(path, "job_lost")["job"] == job.id
        admin.wait(eventually(lambda: _started(admin), "a spawner again").id)
        removed = wait_for(path, "job_removed")
        assert (removed["job"], removed["by"], removed["cause"]) == (job.id, "server", "retention")


def _started(admin: Any) -> Any:
    with suppress(RequestError):
        return admin.start(["true"])
    return None


def test_hup_opens_it_again(shared_certificates: Path, tmp_path: Path) -> None:
    path, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    with serve(shared_certificates, "--audit", str(path)) as running:
        wait_for(path, "server_started")
        path.rename(old)
        running.process.send_signal(signal.SIGHUP)
        eventually(path.exists, "the new file")
        with running.connect():
            pass
    both = tmp_path / "both"
    both.write_bytes(old.read_bytes() + path.read_bytes())
    assert [line["event"] for line in lines(both)] == [
        "server_started",
        "connection_accepted",
        "connection_ended",
        "server_ended",
    ]


def test_no_start_without_a_line_where_it_is_required(shared_certificates: Path, tmp_path: Path) -> None:
    """A full disk: starts are refused at once, the rest goes on; with room again, so do starts."""
    path = tmp_path / "audit.log"
    path.symlink_to("/dev/full")
    with (
        serve(shared_certificates, "--audit", str(path), "--audit-required") as running,
        running.connect() as admin,
    ):
        for _ in range(3):
            error = refusal(lambda: admin.start(["touch", str(tmp_path / "ran")]))
            assert error.code is ErrorCode.AUDIT_UNAVAILABLE
            assert "audit log takes no lines" in error.message
        assert list(admin.list()) == []
        told = running.logged("the audit log takes no lines; they wait")
        assert told["reason"] == "No space left on device"
        path.unlink()
        running.process.send_signal(signal.SIGHUP)
        running.logged("the audit log takes lines again")
        # The job reads what was written before it began, and is in it.
        job = admin.start(["grep", "-q", "a word of its own argv", str(path)])
        assert admin.wait(job.id).exit_code == 0
    assert not (tmp_path / "ran").exists()
    refused = [line for line in lines(path) if line["event"] == "job_refused"]
    assert [line["code"] for line in refused] == ["audit_unavailable"] * 3


def test_a_sink_that_nobody_reads_holds_up_nobody(shared_certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with serve(shared_certificates, "--audit", str(path)) as running, running.connect() as admin:
        assert running.logged("the audit log takes no lines; they wait")["reason"] == "nobody reads it"
        assert admin.wait(admin.start(["true"]).id).exit_code == 0
        assert running.end() == 0
        assert int(running.logged("the last audit lines were lost")["lines"]) >= 6


def test_it_may_go_to_stderr(shared_certificates: Path) -> None:
    with serve(shared_certificates, "--audit", "stderr") as running, running.connect() as admin:
        admin.wait(admin.start(["true"]).id)
        running.end()
        events = [line["event"] for line in running.log if "event" in line]
        assert (events[0], events[-1]) == ("server_started", "server_ended")
        assert "job_ended" in events


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--audit-required"], "--audit-required needs --audit FILE"),
        (
            ["--audit", "/no/such/folder/audit.log"],
            "'/no/such/folder/audit.log' cannot be written to: No such",
        ),
        (["--audit", "/"], "'/' cannot be written to: Is a directory"),
    ],
)
def test_what_cannot_be_is_one_sentence(shared_certificates: Path, flags: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "client.cli", "serve", "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, "--certs", str(shared_certificates), *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode in (2, 7)
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_who_is_denied_and_leaves_without_a_word_is_told_of_once(tmp_path: Path) -> None:
    certs, path = make_directory(tmp_path / "certs"), tmp_path / "audit.log"
    save(certs, nobody=issue(authority(), "nobody", key=key("admin")))
    with serve(certs, "--audit", str(path)) as running:
        context = client_context(certs, "nobody")
        for _ in range(3):
            tcp = socket.create_connection(("127.0.0.1", running.port))
            with context.wrap_socket(tcp, server_hostname="127.0.0.1") as tls:
                assert b"holds no role" in tls.recv(4096)  # and closed with no more words
        wait_for(path, "connection_denied", 3)
        running.connect("admin").close()
    told = [line["event"] for line in lines(path) if line["event"] not in ("server_started", "server_ended")]
    assert told.count("connection_denied") == 3
    assert "handshake_failed" not in told


def test_who_lists_while_the_server_ends_gets_an_answer(shared_certificates: Path) -> None:
    with serve(shared_certificates, "--grace", "600") as running, running.connect() as client:
        job = client.start(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
        eventually(lambda: client.query(job.id).output > 0, "the job's trap")
        running.process.send_signal(signal.SIGTERM)
        running.logged("ending")
        assert [each.id for each in client.list()] == [job.id]
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)  # no more grace
        running.process.wait(PATIENCE)
        assert time.monotonic() - began < SESSIONS_DEADLINE  # which open sessions that are idle do not use up
