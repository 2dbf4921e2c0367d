"""The host runs out of memory: the jobs go, each as one, and the server stays."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.test_hosts import UNIFIED, entering, own_cgroup
from tests.harness import alive, eventually, serve
from tests.host.common import MIB, begin, program
from tests.proc import memory_of
from wire.jobs import CauseKind, Status
from worker.mounts import read_mounts

pytestmark = pytest.mark.host
#: The "host": all of its memory. The server holds HELD of output, each of CROWD processes of the job LESS.
HOST, HELD, CROWD, LESS = 600, 50, 14, 45


@contextmanager
def small_host() -> Iterator[list[str]]:
    """A memory cgroup in which a server and its jobs find little memory: the prefix for a server in it."""
    if UNIFIED:
        with own_cgroup() as path:
            (path / "memory.max").write_text(str(HOST * MIB))
            yield entering(path)
        return
    mounts = [mount for mount in read_mounts() if "memory" in mount.controllers]
    if not mounts:
        pytest.skip("NOT TESTED: no memory controller here; run it as root on a host that has one")
    path = mounts[0].own / f"test-host-{os.getpid()}"
    path.mkdir()
    try:
        (path / "memory.limit_in_bytes").write_text(str(HOST * MIB))
        yield entering(path)
    finally:
        eventually(lambda: not (path / "cgroup.procs").read_text(), "the end of all in it")
        path.rmdir()


def test_the_job_goes_as_one_and_neither_the_server_nor_another_job(shared_certificates: Path) -> None:
    """The server is larger than any process of the job: the kernel would take it, were all of them equal."""
    with (
        small_host() as prefix,
        serve(shared_certificates, prefix=prefix) as server,
        server.connect() as client,
    ):
        printer = client.start(["head", "-c", str(HELD * MIB), "/dev/zero"])
        assert client.wait(printer.id).output == HELD * MIB
        assert memory_of(server.process.pid) > LESS * MIB * 1.5
        bystander, _ = begin(client, program("stay_deaf"))
        spawner = server.spawner_pid
        greedy = client.start(program("allocate_in", CROWD, LESS), seconds=60)
        ended = client.wait(greedy.id)
        assert ended.cause is not None
        assert (ended.status, ended.cause.kind) == (Status.SIGNALED, CauseKind.OOM)
        assert "a cgroup above the job's, was out of memory" in (ended.cause.detail or "")
        assert not [job for job in server.job_cgroups() if job.name == greedy.id]
        assert client.query(bystander.id).status is Status.RUNNING
        assert alive(server.process.pid)
        assert server.spawner_pid == spawner
        client.stop(bystander.id, grace=0)
