"""Real servers on other kinds of host, made by hiding mounts: v1 alone, no cgroup; and a delegated one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.blocking import Client
from tests.cgroups import find_cgroups
from tests.harness import PATIENCE, Server, alive, eventually, serve
from tests.host.common import finish, program, skip_if_emulated
from wire.errors import ErrorCode, RequestError
from wire.jobs import CauseKind, JobStatus, Status
from wire.limits import Limits, parse_limits
from worker import cgroupfs

pytestmark = pytest.mark.host
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
#: A daemon with a session of its own, and a main process that stays.
DAEMON = ["sh", "-c", "(setsid sleep 600 & echo $!); exec sleep 600"]
HIDE_V2 = "umount $(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts)"
NO_CGROUP = (
    "for m in $(awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/self/mounts); do mount -o remount,bind,ro $m; done"
)


def changed(script: str) -> list[str]:
    """A command that changes its own view of the mounts, and becomes the command behind it."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{script}; exec "$@"', "sh"]


@pytest.fixture(params=["v1", "none"])
def server(request: pytest.FixtureRequest, shared_certificates: Path) -> Iterator[Server]:
    """A server that sees v1 hierarchies alone, or may write to no cgroup."""
    if request.param == "v1" and UNIFIED:
        pytest.skip("NOT TESTED: this machine mounts no v1 hierarchy; a hybrid one does")
    if request.param == "none":
        skip_if_emulated()
    script = HIDE_V2 if request.param == "v1" else NO_CGROUP
    with serve(shared_certificates, prefix=changed(script)) as server:
        yield server


def daemon(client: Client) -> tuple[JobStatus, list[int]]:
    """Start DAEMON; return it and the pids of its two processes."""
    job = client.start(DAEMON)
    with client.stream(job.id) as stream:
        return job, [job.pid, int(next(iter(stream)).data)]


def check_dead(pids: list[int]) -> None:
    eventually(lambda: not any(alive(pid) for pid in pids), "the end of every process")


def test_how_jobs_end(server: Server) -> None:
    with server.connect() as client:
        job, text = finish(client, ["sh", "-c", "echo hello; exit 3"])
        assert (job.exit_code, text) == (3, "hello\n")
        job, _ = finish(client, ["sh", "-c", "kill -SEGV $$"])
        assert (job.status, job.signal) == (Status.SIGNALED, signal.SIGSEGV)
        assert job.usage is not None
        with pytest.raises(RequestError) as caught:
            client.start(["/no/such/program"])
        assert caught.value.code is ErrorCode.NO_SUCH_PROGRAM
        job, text = finish(client, ["sh", "-c", "sleep 600 & echo $!"])
        assert job.exit_code == 0
        check_dead([int(text)])


def test_a_stop_ends_daemons_too(server: Server) -> None:
    with server.connect() as client:
        job, pids = daemon(client)
        stopped = client.stop(job.id, grace=5)
        assert stopped.cause is not None
        assert stopped.cause.kind is CauseKind.STOPPED
        assert not any(alive(pid) for pid in pids)
    assert server.end() == 0
    assert server.cgroups() == []


def test_no_job_outlives_the_server(server: Server) -> None:
    with server.connect() as client:
        _, pids = daemon(client)
    server.process.kill()
    check_dead(pids)
    eventually(lambda: server.cgroups() == [], "the end of every cgroup")


def test_the_spawner_is_replaced(server: Server) -> None:
    with server.connect() as client:
        job, pids = daemon(client)
        os.kill(server.spawner_pid, signal.SIGKILL)
        lost = client.wait(job.id)
        assert lost.cause is not None
        assert lost.cause.kind is CauseKind.LOST
        check_dead(pids)
        assert finish(client, ["echo", "again"])[1] == "again\n"


def test_no_job_outlives_server_and_spawner(server: Server, shared_certificates: Path) -> None:
    with server.connect() as client:
        _, pids = daemon(client)
    spawner = server.spawner_pid
    os.kill(server.process.pid, signal.SIGSTOP)
    os.kill(spawner, signal.SIGKILL)
    server.process.kill()
    if server.cgroups():  # nobody is left to end them but the next server
        with serve(shared_certificates):
            check_dead(pids)
    check_dead(pids)


def test_limits_bite_or_are_refused(server: Server) -> None:
    limits = parse_limits(memory="64M", pids="50")
    with server.connect() as client:
        if not any("limits are refused" in line["message"] for line in server.log):
            job, _ = finish(client, program("allocate", 300), limits)
            assert job.cause is not None
            assert job.cause.kind is CauseKind.OOM
            assert job.usage is not None
            assert (job.usage.memory_peak or 0) > 32 * 2**20
        else:
            with pytest.raises(RequestError, match="run the server as root") as caught:
                client.start(["true"], limits=limits)
            assert caught.value.code is ErrorCode.LIMIT_REFUSED
            assert "memory" in caught.value.message


# --- delegation and --cgroup-parent


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A v2 cgroup with controllers, marked as delegated, as systemd makes one for Delegate=yes."""
    path = Path(f"/sys/fs/cgroup/test-{os.getpid()}")
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+cpu +memory +io +pids")
    path.mkdir()
    os.setxattr(path, "trusted.delegate", b"1")
    try:
        yield path
        path.rmdir()
    except BaseException:
        cgroupfs.sweep(str(path), [str(path)])
        raise


def entering(path: Path) -> list[str]:
    """A command that goes into a cgroup and becomes the command behind it."""
    return ["sh", "-ec", f'echo $$ >{path}/cgroup.procs; exec "$@"', "sh"]


@pytest.mark.skipif(not UNIFIED, reason="NOT TESTED: v2 has no controllers here; `just test-vm` tests it")
def test_a_server_moves_into_a_leaf_of_its_cgroup(shared_certificates: Path) -> None:
    with own_cgroup() as path:
        with serve(shared_certificates, prefix=entering(path)) as server, server.connect() as client:
            assert (path / "cgroup.procs").read_text() == ""
            assert all(base.parent == path for base in server.cgroups())
            job, _ = finish(client, program("allocate", 300), Limits(memory=64 * 2**20))
            assert job.cause is not None
            assert job.cause.kind is CauseKind.OOM
            assert server.end() == 0
        assert [entry for entry in path.iterdir() if entry.is_dir()] == []


@pytest.mark.skipif(not UNIFIED, reason="NOT TESTED: v2 has no controllers here; `just test-vm` tests it")
def test_strangers_in_the_way_are_named_and_stay(shared_certificates: Path) -> None:
    with own_cgroup() as path:
        with subprocess.Popen(["sleep", "600"]) as sleep:
            (path / "cgroup.procs").write_text(str(sleep.pid))
            with serve(shared_certificates, prefix=entering(path)) as server, server.connect() as client:
                with pytest.raises(RequestError, match=f"pid {sleep.pid} sleep") as caught:
                    client.start(["true"], limits=Limits(cpu=500))
                assert caught.value.code is ErrorCode.LIMIT_REFUSED
                assert finish(client, ["echo", "hi"])[1] == "hi\n"
                assert (path / "cgroup.procs").read_text().split() == [str(sleep.pid)]
            sleep.kill()
        eventually(lambda: "populated 0" in (path / "cgroup.events").read_text(), "its end")


def test_a_cgroup_parent(shared_certificates: Path) -> None:
    name = f"test-parent-{os.getpid()}"
    try:
        with serve(shared_certificates, "--cgroup-parent", f"/{name}/deep") as server:
            with server.connect() as client:
                job = client.start(["sleep", "600"], limits=Limits(pids=50))
                own = Path(f"/proc/{job.pid}/cgroup").read_text().splitlines()
                assert sum(f"/{name}/deep/" in line and line.endswith(job.id) for line in own) >= 1
                assert all(f"/{name}/deep/" in line for line in own if job.id in line)
            assert server.end() == 0
    finally:
        for path in find_cgroups(name):
            (path / "deep").rmdir()
            path.rmdir()


def test_a_bad_cgroup_parent_is_a_sentence(shared_certificates: Path) -> None:
    command = [sys.executable, "-m", "client.cli", "serve", "--listen", "127.0.0.1:0"]
    command += ["--certs", str(shared_certificates), "--cgroup-parent", "../up"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 7
    # A host that lets nobody open many files is told of before that.
    assert (
        ended.stderr.splitlines()[-1] == "worker-service: --cgroup-parent '../up' must not go up with '..'."
    )
