"""A job is in all its cgroups before its first instruction, on a real kernel, so often that races show."""

import statistics
import subprocess
import time

import pytest

from client.blocking import Client
from tests.host.common import FOUR, figure, finish
from wire.jobs import JobStatus

pytestmark = pytest.mark.host
TIMES = 50
LIMITING = {"cpu", "memory", "blkio", "io", "pids"}


def check_places(job: JobStatus, text: str) -> None:
    """Check what a job read in its /proc/self/cgroup: each hierarchy that limits or keeps it names it."""
    places = {}
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or LIMITING & set(controllers.split(",")):
            places[line] = path.rpartition("/")[2]
    assert job.exit_code == 0
    assert places
    assert set(places.values()) == {job.id}, places


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["cat", "/proc/self/cgroup"], id="cat"),
        pytest.param(
            ["/bin/sh", "-c", 'while read -r line; do echo "$line"; done </proc/self/cgroup'], id="sh"
        ),
    ],
)
def test_the_first_instruction_runs_in_every_cgroup(admin: Client, argv: list[str]) -> None:
    for _ in range(TIMES):
        check_places(*finish(admin, argv, FOUR))


def test_a_start_is_told_with_its_limits(admin: Client) -> None:
    starts, local = [], []
    for _ in range(TIMES):
        began = time.perf_counter()
        job = admin.start(["true"], limits=FOUR)
        starts.append(time.perf_counter() - began)
        assert (job.limits, job.pid > 0) == (FOUR, True)
        subprocess.run(["true"], check=True)
        local.append(time.perf_counter() - began - starts[-1])
    took, least = statistics.median(starts), statistics.median(local)
    figure("a start with all four limits, median", took * 1000, f"ms, {took / least:.1f} x a local one")
