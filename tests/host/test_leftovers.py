"""Limited jobs leave nothing on a real kernel: no cgroup, zombie or descriptor, though it is busy."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.blocking import Client
from tests.harness import PATIENCE, SLOW, Server, alive, at_rest, children, eventually, serve
from tests.host.common import FOUR, descriptors, directories
from wire.jobs import CauseKind

pytestmark = pytest.mark.host
JOBS = 400 if SLOW == 1 else 100
AT_ONCE = 16
#: Python runs this in the server, and not in its spawner, before anything else: each directory below a
#: server's base is refused twice, as the kernel does for a moment after a kill.
BUSY = """
import errno, os
really, refused = os.rmdir, {}
def rmdir(path, *rest, **more):
    if "/worker-service-" in os.path.dirname(path) and refused.get(path, 0) < 2:
        refused[path] = refused.get(path, 0) + 1
        with open(os.environ["BUSY_LOG"], "a") as log:
            log.write(path + "\\n")
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
    really(path, *rest, **more)
os.rmdir = rmdir
"""


@contextmanager
def serve_busily(certs: Path, folder: Path) -> Iterator[Server]:
    """A server to which each removal of a cgroup is refused twice; `folder`/busy.log tells which."""
    (folder / "sitecustomize.py").write_text(BUSY)
    wrapper = folder / "python"
    path = f'PYTHONPATH="{folder}:$PYTHONPATH" BUSY_LOG="{folder}/busy.log"'
    wrapper.write_text(f'#!/bin/sh\n{path} exec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(wrapper))  # what `serve` runs
        with serve(certs) as running:
            patch.undo()
            yield running


def run_many(server: Server, count: int) -> None:
    """Run limited jobs to their ends, AT_ONCE at a time."""

    def run_some(number: int) -> None:
        with server.connect() as client:
            for _ in range(count // AT_ONCE + (number < count % AT_ONCE)):
                assert client.wait(client.start(["true"], limits=FOUR).id).exit_code == 0

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run_some, range(AT_ONCE)))


def check_nothing_left(server: Server, before: tuple[int, int]) -> None:
    assert server.job_cgroups() == []
    assert children(server.spawner_pid) == []
    eventually(lambda: descriptors(server) == before, "the descriptors that it had before")


def test_many_limited_jobs_leave_nothing(shared_certificates: Path, tmp_path: Path) -> None:
    with serve_busily(shared_certificates, tmp_path) as server, server.connect() as client:
        client.wait(client.start(["true"], limits=FOUR).id)
        before = at_rest(lambda: descriptors(server))
        run_many(server, JOBS)
        check_nothing_left(server, before)
    refused = (tmp_path / "busy.log").read_text().splitlines()
    assert len(refused) >= 2 * JOBS


@contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not the server's."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def join(process: subprocess.Popen[bytes], folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(process.pid))


def is_v1(folder: Path) -> bool:
    return not (folder / "cgroup.controllers").exists()


@pytest.mark.parametrize("attempt", range(20 if SLOW == 1 else 3))
def test_a_stranger_in_the_way_holds_up_the_removal_only(admin: Client, attempt: int) -> None:
    """EBUSY from the kernel itself: v1 removes no directory that has a process, and ours is not killed."""
    job = admin.start(["sleep", "600"], limits=FOUR)
    held = [folder for folder in directories(job) if is_v1(folder)]
    if not held:
        admin.stop(job.id)
        pytest.skip("no v1 controllers here; in v2, what is in the job's directory dies with the job")
    with stranger() as process:
        for folder in held:
            join(process, folder)
        os.kill(job.pid, 9)
        eventually(lambda: not alive(job.pid), "its end")
        eventually(lambda: directories(job) == held, "the removal of what can be removed")
        assert process.poll() is None
        for folder in held:
            join(process, folder.parent.parent)
        assert admin.wait(job.id).signal == 9
    assert directories(job) == []


def test_a_stranger_in_the_jobs_v2_directory_dies_with_it(admin: Client) -> None:
    job = admin.start(["sleep", "600"], limits=FOUR)
    folder = next((folder for folder in directories(job) if not is_v1(folder)), None)
    if folder is None:
        admin.stop(job.id)
        pytest.skip("no v2 hierarchy here")
    with stranger() as process:
        join(process, folder)
        os.kill(job.pid, 9)
        ended = admin.wait(job.id)
        assert process.wait(PATIENCE) == -9
    assert ended.cause is not None
    assert ended.cause.kind is CauseKind.SIGNALED
    assert directories(job) == []
