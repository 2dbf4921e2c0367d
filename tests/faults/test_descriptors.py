"""Descriptors run out, for real, in accept(2), in pipes, in cgroups: all that was promised before is kept.

What happens to a job that ends meanwhile is in tests/e2e/test_resources.py, the spawner's own shortage in
tests/worker/test_spawner.py.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from pathlib import Path
from threading import Thread

import pytest

from client.blocking import Client
from tests.e2e.test_output import collect
from tests.harness import PATIENCE, Server, at_rest, children, eventually, serve
from tests.host.common import FOUR, NOT_EMULATED, descriptors
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobStatus, Status
from wire.messages import STDOUT

pytestmark = [pytest.mark.host, NOT_EMULATED]
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
        before = at_rest(lambda: descriptors(server))
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
            assert not server.job_cgroups()
            assert children(server.spawner_pid) == []
    assert started > 0
    assert refused >= 5  # two pipes, and the directory of one hierarchy at least, on v2


FEW = ("prlimit", "--nofile=256:256")
FEWER = "fewer connections are taken: this process may not open more files (LimitNOFILE=, ulimit -n)"


def refusal(call: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call()
    return caught.value


def test_jobs_and_connections_keep_to_their_parts(shared_certificates: Path) -> None:
    """As many jobs as there may be leave room for as many connections; what is past it is told why."""
    with serve(shared_certificates, prefix=FEW) as server, ExitStack() as stack:
        promised = server.logged(FEWER)
        client = stack.enter_context(server.connect())
        jobs: list[JobStatus] = []
        refused: RequestError | None = None
        while refused is None:
            assert len(jobs) < 60
            try:
                limits = FOUR if len(jobs) % 3 == 0 else None
                jobs.append(client.start(["sh", "-c", "echo out; exec sleep 600"], limits=limits))
            except RequestError as error:
                refused = error
        assert refused.code is ErrorCode.BUSY
        assert "(ulimit -n, LimitNOFILE=)" in refused.message
        assert promised["max_jobs"] / 2.5 < len(jobs) <= promised["max_jobs"]
        for _ in range(promised["max_connections"] - 1):
            stack.enter_context(server.connect())
        full = refusal(server.connect)
        assert full.code is ErrorCode.BUSY
        assert "--max-connections" in full.message
        for job in jobs:
            eventually(lambda id_=job.id: client.query(id_).output == 4, "its output")  # type: ignore[misc]
        for _ in range(2):  # the room of one that has ended is there again
            client.stop(jobs.pop().id, grace=0)
        assert client.wait(client.start(["true"]).id).exit_code == 0
        assert not [line for line in server.log if line["message"] == "a connection could not be accepted"]


def test_many_starts_at_once_wait_for_each_other(shared_certificates: Path) -> None:
    with serve(shared_certificates, prefix=FEW) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(30)]
        codes: list[int | None] = []

        def run(client: Client) -> None:
            codes.append(client.wait(client.start(["true"]).id).exit_code)

        threads = [Thread(target=run, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert codes == [0] * 30
