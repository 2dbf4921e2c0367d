"""What a server stands, losing and leaving nothing: no descriptors, a stuck spawner, heavy requests."""

import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from client.blocking import Client
from client.errors import UncertainStartError
from tests.e2e.test_output import collect
from tests.e2e.test_server import frame, raw, read_frame
from tests.harness import PATIENCE, Server, alive, eventually, serve
from wire.errors import RequestError
from wire.messages import STDOUT


def test_a_job_that_ends_while_descriptors_are_out_still_ends(
    shared_certificates: Path, tmp_path: Path
) -> None:
    """EMFILE just when its leftovers must be killed: once there are some again, nothing of it is left."""
    with serve(shared_certificates) as running, running.connect() as client:
        script = "sleep 600 & echo $!; while [ ! -e go ]; do sleep 0.01; done"
        job = client.start(["sh", "-c", script], cwd=tmp_path)
        with client.stream(job.id) as stream:
            leftover = int(next(iter(stream)).data)
        soft, hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        (tmp_path / "go").touch()
        eventually(lambda: not alive(job.pid), "the end of its main process")
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert client.wait(job.id).exit_code == 0
        assert not alive(leftover)
        assert not running.job_cgroups()


def test_a_stuck_spawner_does_not_hold_up_the_end(shared_certificates: Path) -> None:
    with serve(shared_certificates) as running, running.connect() as client:
        assert not list(client.list())  # it is connected
        spawner = running.spawner_pid
        reasons: list[BaseException | None] = []

        def start() -> None:
            # Whether the server has read the request when it is told to end, chance decides.
            with pytest.raises((RequestError, UncertainStartError)) as caught:
                client.start(["true"])
            refused = isinstance(caught.value, RequestError)
            reasons.append(caught.value if refused else caught.value.__cause__)

        starter = threading.Thread(target=start)
        os.kill(spawner, signal.SIGSTOP)
        try:
            starter.start()
            running.process.send_signal(signal.SIGTERM)
            starter.join(PATIENCE)
            assert [getattr(reason, "code", reason) for reason in reasons] == ["shutting_down"]
        finally:
            os.kill(spawner, signal.SIGCONT)


def test_requests_do_not_keep_what_is_refused_of_them(server: Server, admin: Client) -> None:
    """A hundred waits with megabytes of unknown fields cost the server next to nothing."""
    job = admin.start(["sleep", "600"])

    def resident() -> int:
        text = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) * 1024

    before = resident()
    with raw(server) as sock:
        read_frame(sock)
        for number in range(1, 101):
            params = {"id": job.id, "junk": b"x" * 3_000_000}
            sock.sendall(frame({"type": "request", "id": number, "method": "wait", "params": params}))
            assert read_frame(sock)["code"] == "bad_request"
        sock.sendall(frame({"type": "request", "id": 999, "method": "query", "params": {"id": job.id}}))
        assert read_frame(sock)["id"] == 999
        assert resident() - before < 100_000_000
    admin.stop(job.id)


def test_jobs_with_a_hundred_thousand_arguments_can_be_listed(admin: Client) -> None:
    jobs = [admin.start(["true", *["x"] * 60_000]).id for _ in range(5)]
    assert set(jobs) <= {job.id for job in admin.list()}


def test_every_process_of_a_large_job_hears_term(admin: Client, tmp_path: Path) -> None:
    script = (
        "i=0; while [ $i -lt 300 ]; do"
        " sh -c 'trap \"echo heard; exit\" TERM; echo up; while :; do sleep 0.2; done' & i=$((i+1));"
        " done; trap : TERM; wait; wait"
    )
    job = admin.start(["sh", "-c", script])
    with admin.stream(job.id) as stream:
        seen = b""
        for piece in stream:
            seen += piece.data
            if seen.count(b"up\n") == 300:
                break
    admin.stop(job.id, grace=15)
    assert collect(admin, job.id)[STDOUT].count(b"heard\n") == 300
