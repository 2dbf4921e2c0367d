"""A job is in all its cgroups before its first instruction, on a real kernel, so often that races show."""

import pytest

from client.blocking import Client
from tests.host.common import FOUR, finish
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
