"""Descriptors run out, for real, in accept(2), in pipes, in cgroups: all that was promised before is kept.

What happens to a job that ends meanwhile is in tests/e2e/test_resources.py, the spawner's own shortage in
tests/worker/test_spawner.py.
"""

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from pathlib import Path
from threading import Thread

import pytest

from client.blocking import Client
from tests.e2e.test_output import collect
from tests.harness import PATIENCE, Server, children, eventually, serve
from tests.host.common import FOUR, descriptors
from tests.host.test_leftovers import jobs_cgroups
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobStatus, Status
from wire.messages import STDOUT

pytestmark = pytest.mark.host
#: More than a start takes of them.
MOST = 20


@contextmanager
def only(server: Server, more: int) -> Iterator[None]:
    """Let the server open so many descriptors more, and not one beyond them."""
    pid = server.process.pid
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    last = next(islice((number for number in count() if number not in used), more, None))
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (last, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_for_a_new_connection(shared_certificates: Path) -> None:
    """Those that are there are served; those that come wait, and are served once there are some again."""
    with serve(shared_certificates) as server, server.connect() as client, ExitStack() as stack:
        job = client.start(["sleep", "600"])
        waiting: list[Client] = []
        with only(server, 0):
            threads = [
                Thread(target=lambda: waiting.append(stack.enter_context(server.connect()))) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            line = server.logged("a connection could not be accepted")
            assert line["reason"] == "Too many open files"
            assert waiting == []
            assert client.query(job.id).status is Status.RUNNING
        for thread in threads:
            thread.join(PATIENCE)
        assert [other.query(job.id).status for other in waiting] == [Status.RUNNING] * 3
        client.stop(job.id)
        said = [line for line in server.log if line["message"] == "a connection could not be accepted"]
        assert len(said) <= 2  # not one for each try
    assert server.noise == []


def start(server: Server, client: Client, more: int) -> JobStatus | RequestError:
    """Start a job with so many descriptors to spare."""
    try:
        with only(server, more):
            return client.start(["sh", "-c", "sleep 0.05; echo out"], limits=FOUR)
    except RequestError as error:
        return error


def test_no_descriptor_at_any_step_of_a_start(shared_certificates: Path) -> None:
    """With none, one, two ... to spare: the job runs, with all its limits and output, or there is none."""
    started, refused = 0, 0
    with serve(shared_certificates) as server, server.connect() as client:
        client.wait(client.start(["true"], limits=FOUR).id)
        before = descriptors(server)
        for more in range(MOST):
            jobs = len(list(client.list()))
            found = start(server, client, more)
            if isinstance(found, RequestError):
                assert found.code is ErrorCode.START_FAILED, (more, found)
                assert "Too many open files" in found.message
                assert len(list(client.list())) == jobs
                refused += 1
            else:
                assert collect(client, found.id)[STDOUT] == b"out\n"
                assert client.wait(found.id).exit_code == 0
                started += 1
            eventually(lambda: descriptors(server) == before, "the descriptors that it had before")
            assert not jobs_cgroups(server)
            assert children(server.spawner_pid) == []
    assert started > 0
    assert refused >= 5  # two pipes, and the directory of one hierarchy at least, on v2
