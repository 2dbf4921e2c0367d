"""The kernel refuses a step of making a job's cgroup: a typed error, and nothing is left.

How a removal is refused, as it is for a moment after each kill, is in tests/host/test_leftovers.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.inject import Faults
from tests.harness import SLOW, Server, at_rest, children, eventually, serve
from tests.host.common import FOUR, bases, descriptors
from wire.errors import ErrorCode, RequestError

pytestmark = pytest.mark.host
#: What a directory or a file of a cgroup is refused for; one of them where a server starts in ten seconds.
REFUSALS = ["ENOSPC", "EBUSY"] if SLOW == 1 else ["ENOSPC"]


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    """Faults for one server, none of them yet."""
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def server(shared_certificates: Path, faults: Faults) -> Iterator[Server]:
    """A server with faults."""
    with serve(shared_certificates, prefix=faults.prefix) as running:
        yield running


def refusal(server: Server, faults: Faults, call: str, number: str, part: str) -> RequestError:
    """Let a step fail while a job starts; nothing of it may be left, and the next one must run."""
    with server.connect() as client:
        client.wait(client.start(["true"], limits=FOUR).id)
        before, jobs = at_rest(lambda: descriptors(server)), len(list(client.list()))
        faults.cgroup(call, number, part)
        with pytest.raises(RequestError) as caught:
            client.start(["true"], limits=FOUR)
        assert faults.happened, "nothing failed"
        faults.end()
        assert not server.job_cgroups()
        assert children(server.spawner_pid) == []
        eventually(lambda: descriptors(server) == before, "the descriptors that it had before")
        assert len(list(client.list())) == jobs
        assert client.wait(client.start(["true"], limits=FOUR).id).exit_code == 0
    return caught.value


@pytest.mark.parametrize("number", REFUSALS)
def test_a_directory_cannot_be_made(server: Server, faults: Faults, number: str) -> None:
    """In any hierarchy: the directories in those before it are removed again."""
    for base in bases(server):
        error = refusal(server, faults, "mkdir", number, f"{base}/")
        assert error.code is ErrorCode.START_FAILED
        assert error.message.startswith("The server could not set the job up: ")


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("part", ["memory.", "pids.max", "cpu.", "io."])
def test_a_limit_cannot_be_written(server: Server, faults: Faults, number: str, part: str) -> None:
    """It is never left out in silence."""
    error = refusal(server, faults, "write", number, part)
    assert error.code is ErrorCode.LIMIT_REFUSED
    assert error.message.startswith("The kernel refused ")


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE", "ENOMEM"] if SLOW == 1 else ["EMFILE"])
def test_a_directory_cannot_be_opened(server: Server, faults: Faults, number: str) -> None:
    for base in bases(server):
        assert refusal(server, faults, "open", number, f"{base}/").code is ErrorCode.START_FAILED
