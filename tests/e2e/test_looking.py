"""Nobody looks into the server's memory, nor into what is forked of it, by the same user's jobs (ptrace(2)).

The server and its spawner clear their dumpable flag, and forks inherit that; it comes back with exec, so that
a job is its user's to debug. Without the flag, the kernel wants CAP_SYS_PTRACE of who looks, whose processes
these are or not; so jobs here are the same user's, and do not have it.
"""

import json
from pathlib import Path

import pytest

from client.blocking import Client
from tests.e2e.test_hosts import NO_CGROUP, changed
from tests.e2e.test_output import collect
from tests.harness import serve
from tests.host.common import skip_if_emulated
from wire.messages import STDERR, STDOUT

pytestmark = pytest.mark.host
LOOK = Path(__file__).with_name("look.py").read_text()
#: Root, but for the capabilities to look into what is closed. Its jobs cannot have them either.
WITHOUT_PTRACE = ["setpriv", "--bounding-set", "-sys_ptrace,-perfmon,-sys_admin", "--inh-caps", "-all"]
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
#: What Yama's ptrace_scope may refuse of any process that is not one's child.
ATTACHING = {"memory", "reading", "stealing", "tracing"}
#: As long as the kernel takes one: the search for a program on it is long enough to be looked at.
LONG_PATH = "/nowhere:" * 13_000 + "/usr/bin:/bin"


def check_open(seen: dict[str, str]) -> None:
    """It would be seen if it were open: a job of the same user is."""
    restricted = ATTACHING if YAMA.exists() and int(YAMA.read_text()) else set()
    assert {way for way, answer in seen.items() if answer != "ok"} <= restricted, seen


def check_closed(seen: dict[str, str]) -> None:
    assert set(seen.values()) <= {"EPERM", "EACCES"}, seen
    assert len(seen) == 7


@pytest.mark.parametrize("host", ["here", "none"])
def test_server_spawner_and_keeper_are_closed_to_jobs_of_their_own_user(
    shared_certificates: Path, python: str, host: str
) -> None:
    """Where there is no cgroup, the parent of a job is its keeper."""
    if host == "none":
        skip_if_emulated()
    prefix = [*(changed(NO_CGROUP) if host == "none" else []), *WITHOUT_PTRACE]
    with serve(shared_certificates, prefix=prefix) as running, running.connect() as client:
        other = client.start(["sleep", "600"])
        pids = map(str, (other.pid, running.process.pid, running.spawner_pid))
        seen = looked(client, python, *pids)
        client.stop(other.id)
    open_one, *closed = seen
    check_open(open_one)
    assert len(closed) == 3
    for one in closed:
        check_closed(one)


def looked(client: Client, python: str, *pids: str) -> list[dict[str, str]]:
    """What a job sees of processes, and of its parent."""
    found = collect(client, client.start([python, "-I", "-S", "-c", LOOK, *pids]).id)
    assert found[STDERR] == b"", found[STDERR].decode()
    seen: list[dict[str, str]] = json.loads(found[STDOUT].splitlines()[1])
    return seen


def test_what_will_be_a_job_is_closed_to_others_of_its_user(shared_certificates: Path, python: str) -> None:
    """Between setresuid(2) and exec it is that user's, and its memory is a copy of the spawner's."""
    skip_if_emulated()
    with serve(shared_certificates, "--job-user", "nobody") as running, running.connect() as client:
        look = client.start([python, "-I", "-S", "-c", LOOK, "between"], cwd="/")
        with client.stream(look.id) as stream:
            assert next(iter(stream)).data == b"looking\n"
        # Long enough for a look, usually; a looker that came too late waits for the next.
        started = [client.start(["sleep", "600"], env={"PATH": LONG_PATH}, cwd="/")]
        while client.query(look.id).exit_code is None and len(started) < 50:
            started.append(client.start(["sleep", "600"], env={"PATH": LONG_PATH}, cwd="/"))
        found = collect(client, look.id)
        assert found[STDERR] == b"", found[STDERR].decode()
        check_closed(json.loads(found[STDOUT].splitlines()[1]))
        # Once it is a job, its user may.
        open_one, parent = looked(client, python, str(started[0].pid))
        check_open(open_one)
        check_closed(parent)
        for job in started:
            client.stop(job.id)
