"""A job uses up all tasks of the cgroup that it has in common with the server, which goes on."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.blocking import Client
from tests.e2e.test_hosts import UNIFIED, entering, own_cgroup
from tests.harness import Server, alive, eventually, serve
from tests.host.common import MOST_SECONDS, begin, finish
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobStatus, Status
from worker import cgroupfs
from worker.headroom import ceiling
from worker.mounts import read_mounts

pytestmark = pytest.mark.host
#: All tasks that there are for a server and its jobs.
TASKS = 120
#: How long the server does without threads; it looks at its certificates every second.
SECONDS = 5.0
#: Forks until that fails, says so, and takes each task that becomes free.
FILL = """
import os, time
full = False
while True:
    try:
        if not os.fork():
            while True:
                time.sleep(1000)
    except OSError:
        if not full:
            full = os.write(1, b"full\\n")
        time.sleep(0.005)
"""


@contextmanager
def few_tasks() -> Iterator[Path]:
    """A cgroup in which there are TASKS tasks."""
    if UNIFIED:
        with own_cgroup() as path:
            (path / "pids.max").write_text(str(TASKS))
            yield path
        return
    mounts = [mount for mount in read_mounts() if "pids" in mount.controllers]
    if not mounts:
        pytest.skip("NOT TESTED: no pids controller here; run it as root on a host that has one")
    path = mounts[0].own / f"test-tasks-{os.getpid()}"
    path.mkdir()
    try:
        (path / "pids.max").write_text(str(TASKS))
        yield path
    finally:
        eventually(lambda: cgroupfs.remove_tree(str(path)), "the end of all in it")


def fill(client: Client, python: str) -> JobStatus:
    """A job that has used up all tasks that it may have."""
    return begin(client, [python, "-I", "-S", "-c", FILL])[0]


def bound(server: Server, path: Path) -> Path:
    """The file that bounds all jobs together; with v2, the server has a leaf beside it."""
    bases = [base for base in server.cgroups() if path in base.parents and base.suffix != ".server"]
    (file,) = (base / "pids.max" for base in bases if (base / "pids.max").exists())
    return file


def check_in_order(server: Server, client: Client, job: JobStatus) -> None:
    """A job that fills everything can be stopped, and the next one runs."""
    assert client.query(job.id).status is Status.RUNNING
    assert not alive(job.pid) or client.stop(job.id, grace=0).status is Status.SIGNALED
    assert finish(client, ["sh", "-c", "echo $(echo hi)"])[1] == "hi\n"
    assert server.process.poll() is None


def test_jobs_leave_the_server_its_tasks(shared_certificates: Path, python: str) -> None:
    flags = ["--job-user", "nobody", "--pin-job-user"]
    with (
        few_tasks() as path,
        serve(shared_certificates, *flags, prefix=entering(path)) as server,
        server.connect() as client,
    ):
        assert int(bound(server, path).read_text()) == ceiling(TASKS)
        job = fill(client, python)
        assert int((path / "pids.current").read_text()) < TASKS
        assert finish(client, ["echo", "hi"])[1] == "hi\n"  # nobody is looked up in a thread
        with server.connect() as another:
            check_in_order(server, another, job)


def test_without_a_single_task_the_server_goes_on(shared_certificates: Path, python: str) -> None:
    """As others than jobs may use them up. Meanwhile output moves to the disk and names are looked up."""
    flags = ["--job-user", "nobody", "--pin-job-user", "--output-memory", "1M", "--job-memory", "1M"]
    with (
        few_tasks() as path,
        serve(shared_certificates, *flags, prefix=entering(path)) as server,
        server.connect() as client,
    ):
        bound(server, path).write_text("max")
        printers = [client.start(["cat", "/dev/zero"], seconds=MOST_SECONDS) for _ in range(4)]
        job = fill(client, python)
        codes: set[str] = set()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with server.connect() as another:
                assert another.query(job.id).status is Status.RUNNING
                try:
                    another.start(["true"])
                except RequestError as error:
                    codes.add(error.code)
        assert codes <= {ErrorCode.BUSY, ErrorCode.START_FAILED}
        for printer in printers:
            client.stop(printer.id, grace=0)
        check_in_order(server, client, job)
