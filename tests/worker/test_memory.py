"""What the kernel's counters say of a job's memory: recorded texts of both versions."""

from pathlib import Path

import pytest

from worker.memory import MemoryWatch

LIMIT = 64 * 2**20


@pytest.mark.parametrize(
    ("version", "file", "text", "verdict"),
    [
        (2, "memory.events.local", "max 9\noom 3\noom_kill 2\noom_group_kill 1\n", True),
        (2, "memory.events.local", "max 9\noom 3\noom_kill 2\n", True),  # before Linux 5.17
        (2, "memory.events.local", "max 9\noom 0\noom_kill 0\noom_group_kill 0\n", False),
        (2, "memory.events", "max 9\noom 3\noom_kill 2\noom_group_kill 1\n", False),  # of a cgroup below it
        (1, "memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 4\n", True),
        (1, "memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0\n", False),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", False),  # before Linux 4.13
        (2, "nothing", "", False),
    ],
)
@pytest.mark.parametrize("limit", [None, LIMIT])
def test_the_verdict_is_the_kernels_count(
    tmp_path: Path, version: int, file: str, text: str, verdict: bool, limit: int | None
) -> None:
    (tmp_path / file).write_text(text)
    found = MemoryWatch(tmp_path, version, None, limit).verdict()
    assert (found is not None) == verdict
    assert found is None or found.endswith("at its memory limit") == (limit is not None)


@pytest.mark.parametrize(
    ("version", "stat"),
    [(2, "anon 4096\nfile 999\nshmem 1024\n"), (1, "rss 1\ntotal_rss 4096\ntotal_shmem 1024\nshmem 2\n")],
)
def test_own_data_and_pressure(tmp_path: Path, version: int, stat: str) -> None:
    (tmp_path / "memory.stat").write_text(stat)
    pressure = "some avg10=1.00 avg60=0.10 avg300=0.00 total=9\nfull avg10=1.0 total=2500000\n"
    (tmp_path / "memory.pressure").write_text(pressure)
    watch = MemoryWatch(tmp_path, version, tmp_path, LIMIT)
    assert watch._own_data() == 5120
    assert watch._stalled(tmp_path) == 2.5


def test_a_v2_job_is_killed_as_one(tmp_path: Path) -> None:
    (tmp_path / "memory.oom.group").touch()
    MemoryWatch(tmp_path, 2, None, None)
    assert (tmp_path / "memory.oom.group").read_text() == "1"
