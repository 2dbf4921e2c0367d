"""Two servers on one host never touch each other's cgroups, nor does a third one that sweeps a dead one's."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from client.blocking import Client
from tests.harness import alive, eventually, serve
from tests.host.common import FOUR, bases, begin, directories, program
from wire.jobs import JobStatus, Status

pytestmark = pytest.mark.host


def dead(pid: int) -> bool:
    return not alive(pid)


def start(client: Client) -> tuple[JobStatus, list[Path]]:
    """A limited job that stays, and its directories."""
    job, _ = begin(client, program("stay_deaf"), FOUR)
    return job, directories(job)


def check_untouched(client: Client, job: JobStatus, folders: list[Path]) -> None:
    assert client.query(job.id).status is Status.RUNNING
    assert alive(job.pid)
    assert directories(job) == folders
    members = [(folder / "cgroup.procs").read_text().split() for folder in folders]
    assert members == [[str(job.pid)]] * len(folders)


def test_a_dead_servers_end_and_sweep_leave_the_other_alone(shared_certificates: Path) -> None:
    with (
        serve(shared_certificates) as living,
        living.connect() as client,
        serve(shared_certificates) as killed,
        killed.connect() as to_killed,
        serve(shared_certificates) as torn,
        torn.connect() as to_torn,
    ):
        job, folders = start(client)
        own = bases(living)
        of_killed, _ = start(to_killed)
        of_torn, left_over = start(to_torn)

        killed.process.kill()  # its spawner outlives it, and clears up after it
        eventually(partial(dead, of_killed.pid), "the end of the killed server's job")
        eventually(lambda: not bases(killed), "the removal of its cgroups")
        check_untouched(client, job, folders)
        check_untouched(to_torn, of_torn, left_over)

        spawner = torn.spawner_pid
        os.kill(spawner, signal.SIGSTOP)  # so that it sees nothing of its server's end
        torn.process.kill()
        torn.process.wait()
        os.kill(spawner, signal.SIGKILL)
        eventually(partial(dead, spawner), "the end of its spawner")
        assert alive(of_torn.pid)
        assert directories(of_torn) == left_over

        with serve(shared_certificates) as third, third.connect() as to_third:
            eventually(partial(dead, of_torn.pid), "the end of the job that was left over")
            eventually(lambda: not bases(torn), "the sweep of its cgroups")
            check_untouched(client, job, folders)
            assert to_third.wait(to_third.start(["true"], limits=FOUR).id).exit_code == 0
        check_untouched(client, job, folders)
        assert bases(living) == own
        client.stop(job.id, grace=0)
        assert directories(job) == []
