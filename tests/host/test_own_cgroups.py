"""Jobs that make cgroups of their own: deep, many, frozen. They end with their job, and stop says so."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cgroups import own_place
from tests.faults.inject import Faults
from tests.harness import PATIENCE, SLOW, Server, alive, eventually, serve
from tests.host.common import begin, program
from wire.errors import ErrorCode, RequestError
from wire.limits import parse_limits
from worker import cgroupfs
from worker.walk import finish

pytestmark = pytest.mark.host
FREEZER = "/sys/fs/cgroup/freezer"
DEEP = 1100


@pytest.fixture(scope="module")
def server(shared_certificates: Path) -> Iterator[Server]:
    with serve(shared_certificates) as server:
        yield server


def below(script: str) -> str:
    """A script that does something in each cgroup that it is in."""
    return f"""
import os
def own():
    for line in open("/proc/self/cgroup"):
        number, names, place = line.rstrip("\\n").split(":", 2)
        root = "/sys/fs/cgroup"
        for folder in ([f"{{root}}/{{names}}"] if names else [f"{{root}}/unified", root]):
            if place != "/" and os.path.isdir(folder + place):
                yield folder + place
                break
for folder in own():
    os.chdir(folder)
{script}
"""


NESTED = below(
    f"""    made = 0
    try:
        while made < {DEEP}:
            os.mkdir("x" * 20)
            os.chdir("x" * 20)
            made += 1
    except OSError:
        pass
    print(made, flush=True)
"""
)
MANY = below(
    """    made = 0
    try:
        while made < 300:
            os.mkdir(f"x{made}")
            made += 1
    except OSError:
        pass
    print(made, flush=True)
"""
)


@pytest.mark.parametrize("script", [NESTED, MANY])
def test_cgroups_of_a_job_go_with_it(server: Server, script: str) -> None:
    with server.connect() as client:
        job = client.start(["/usr/bin/python3", "-c", script])
        assert client.wait(job.id).exit_code == 0
        made = [int(line) for line in b"".join(piece.data for piece in client.stream(job.id)).split()]
        assert sum(made) >= 64
        assert not server.job_cgroups()
        assert client.wait(client.start(["true"]).id).exit_code == 0


def test_cgroups_of_a_job_do_not_keep_the_next_server_from_starting(shared_certificates: Path) -> None:
    with serve(shared_certificates) as server, server.connect() as client:
        job = client.start(["/usr/bin/python3", "-c", NESTED + "\nimport time; time.sleep(600)"])
        eventually(lambda: client.query(job.id).output > 0, "the nested cgroups")
        bases = server.cgroups()
        os.kill(server.spawner_pid, signal.SIGKILL)
        server.process.kill()
        server.process.wait()
    with serve(shared_certificates) as server, server.connect() as client:
        assert client.wait(client.start(["true"]).id).exit_code == 0
        eventually(lambda: not any(base.exists() for base in bases), "the dead server's cgroups are gone")


def test_a_cgroup_of_a_job_may_run_out_of_memory_by_itself(server: Server) -> None:
    """As container engines in a job do: the kernel ends what is in it, and the job goes on."""
    if not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        pytest.skip("NOT TESTED: this host's memory controller is v2's")
    script = """
cd /sys/fs/cgroup/memory/$(sed -n "s/.*:memory://p" /proc/self/cgroup)
mkdir inner
echo 16M > inner/memory.limit_in_bytes
sh -c 'echo $$ > inner/cgroup.procs; exec head -c 100000000 /dev/zero | tail'
echo "ended with $?"
rmdir inner
"""
    with server.connect() as client:
        job = client.start(["sh", "-c", script], limits=parse_limits(memory="200M"), seconds=30.0 * SLOW)
        ended = client.wait(job.id)
        output = b"".join(piece.data for piece in client.stream(job.id))
    assert ended.cause is not None
    assert (ended.cause.kind, ended.exit_code) == ("exited", 0), (ended, output)
    assert b"ended with" in output
    assert b"ended with 0" not in output


@pytest.fixture
def freezer() -> Iterator[Path]:
    """The name of a cgroup of v1's freezer that a job may make."""
    if not (Path(FREEZER) / "cgroup.procs").exists():
        pytest.skip("NOT TESTED: this host has no v1 freezer")
    here = own_place("freezer")
    path = Path(f"{FREEZER}{here}") / f"test-{os.getpid()}"
    yield path
    finish(cgroupfs.thawing(str(path)))
    cgroupfs.remove_tree(str(path))


FROZEN = """
mkdir -p {path}/inner
{who} &
echo $! > {path}/inner/cgroup.procs
echo FROZEN > {path}/inner/freezer.state
echo FROZEN > {path}/freezer.state
echo ready
wait
"""


def test_a_process_that_a_job_froze_ends_with_it(server: Server, freezer: Path) -> None:
    with server.connect() as client:
        job = client.start(["sh", "-c", FROZEN.format(path=freezer, who="sleep 600")])
        eventually(lambda: client.query(job.id).output > 0, "the frozen process")
        (frozen,) = map(int, (freezer / "inner/cgroup.procs").read_text().split())
        ended = client.stop(job.id, grace=0)
        assert ended.status == "signaled"
        assert not alive(frozen)
        assert not server.job_cgroups()


def test_a_process_that_is_frozen_beside_a_stranger_ends_and_the_stranger_stays(
    server: Server, freezer: Path
) -> None:
    """It is taken out of that cgroup, which is not ours to thaw."""
    freezer.mkdir()
    (freezer / "inner").mkdir()
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            (freezer / "inner/cgroup.procs").write_text(str(stranger.pid))
            with server.connect() as client:
                script = f"sleep 600 & echo $! > {freezer}/inner/cgroup.procs; echo ready; wait"
                job = client.start(["sh", "-c", script])
                eventually(lambda: client.query(job.id).output > 0, "the process in the freezer")
                (freezer / "inner/freezer.state").write_text("FROZEN")
                assert client.stop(job.id, grace=0).status == "signaled"
            assert (freezer / "inner/cgroup.procs").read_text().split() == [str(stranger.pid)]
            assert (freezer / "inner/freezer.state").read_text() == "FROZEN\n"
            assert not server.job_cgroups()
        finally:
            (freezer / "inner/freezer.state").write_text("THAWED")
            stranger.kill()


def test_a_process_that_is_frozen_deeper_than_a_path_is_long_ends(server: Server, freezer: Path) -> None:
    script = f"""
import os, time
os.chdir({str(freezer.parent)!r})
for name in ({freezer.name!r}, *["x" * 20] * {DEEP // 4}):
    os.mkdir(name)
    os.chdir(name)
pid = os.fork()
if pid == 0:
    time.sleep(600)
open("cgroup.procs", "w").write(str(pid))
open("freezer.state", "w").write("FROZEN")
print(pid, flush=True)
time.sleep(600)
"""
    with server.connect() as client:
        job = client.start(["/usr/bin/python3", "-c", script])
        eventually(lambda: client.query(job.id).output > 0, "the frozen process")
        frozen = int(b"".join(piece.data for piece in client.stream(job.id, follow=False)))
        assert client.stop(job.id, grace=0).status == "signaled"
        assert not alive(frozen)
        assert not server.job_cgroups()


def test_a_stop_that_did_not_stop_is_an_error(shared_certificates: Path, faults: Faults) -> None:
    """The kernel takes no kill; once it does, the job ends, and its end is told as ever."""
    with serve(shared_certificates, prefix=faults.prefix) as server, server.connect() as client:
        job, _ = begin(client, program("stay_deaf"))
        faults.cgroup("open", "EACCES", "cgroup.kill")
        with pytest.raises(RequestError, match="were killed, and do not end") as caught:
            client.stop(job.id, grace=0)
        assert caught.value.code is ErrorCode.RUNNING
        status = client.query(job.id)
        assert status.status == "running"
        assert any("do not end" in note for note in status.notes)
        with pytest.raises(RequestError, match="still runs"):
            client.remove(job.id)
        command = [sys.executable, "-m", "client.cli", "stop", "--grace", "0", job.id]
        stop = subprocess.run(
            command,
            env=server.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (stop.returncode != 0, "were killed, and do not end" in stop.stderr) == (True, True)
        faults.end()
        assert client.wait(job.id).status == "signaled"
        assert client.remove(job.id).id == job.id
        told = [line for line in server.log if "were killed and do not end" in line["message"]]
        assert [line["job"] for line in told] == [job.id]
