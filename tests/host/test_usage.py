"""What is told of a job's use of a real machine: while it runs, after its end, and with or without limits."""

from pathlib import Path

import pytest

from client.blocking import Client
from tests.host.common import FOUR, MIB, begin, finish, program
from wire.jobs import Usage
from wire.limits import Limits, parse_limits

pytestmark = pytest.mark.host
CPU_SECONDS = 0.3
HELD = 50
WRITTEN = 4
#: Python's own, and what the kernel counts beside it, in MiB.
OVERHEAD = 70


def check(usage: Usage | None) -> Usage:
    """Check what is the same while a job runs and after its end."""
    assert usage is not None
    assert usage.cpu_user + usage.cpu_system >= CPU_SECONDS
    assert usage.memory_peak is not None
    assert HELD * MIB <= usage.memory_peak <= (HELD + OVERHEAD) * MIB
    assert usage.disk_written is not None
    assert usage.disk_written >= WRITTEN * MIB
    assert usage.disk_writes is not None
    assert usage.disk_writes >= 1
    assert usage.disk_read is not None
    assert usage.disk_reads is not None
    return usage


@pytest.mark.parametrize("limits", [pytest.param(FOUR, id="limited"), pytest.param(None, id="unlimited")])
def test_usage_while_a_job_runs_and_after_its_end(
    admin: Client, disk_path: Path, limits: Limits | None
) -> None:
    go = disk_path / "go"
    job, _ = begin(admin, program("use", go, CPU_SECONDS, HELD, WRITTEN), limits)
    live = check(admin.query(job.id).usage)
    assert live.memory is not None
    assert HELD * MIB <= live.memory <= (HELD + OVERHEAD) * MIB
    assert live.tasks == 2
    go.touch()
    ended = admin.wait(job.id)
    assert ended.exit_code == 0
    final = check(ended.usage)
    assert final.max_rss is not None
    assert final.max_rss >= HELD * MIB
    assert final.cpu_user + final.cpu_system >= live.cpu_user + live.cpu_system
    assert admin.query(job.id).usage == final


def test_time_held_back_is_told(admin: Client) -> None:
    """Work at 0.1 CPU waits for up to nine times as long as it runs; without a limit, it never waits."""
    held_back = finish(admin, program("burn", 0.2), parse_limits(cpu="100m"))[0].usage
    assert held_back is not None
    assert held_back.throttled is not None
    used = held_back.cpu_user + held_back.cpu_system
    assert 2 * used < held_back.throttled < 9 * used + 0.2
    free = finish(admin, program("burn", 0.2))[0].usage
    assert free is not None
    assert not free.throttled


def test_time_of_processes_that_nobody_waited_for_counts(admin: Client) -> None:
    """wait4(2) of the main process never tells of a child that is alive when it ends."""
    job, _ = finish(admin, program("leave", CPU_SECONDS))
    assert job.exit_code == 0
    assert job.usage is not None
    assert job.usage.cpu_user + job.usage.cpu_system >= CPU_SECONDS
