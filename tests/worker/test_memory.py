"""What the kernel's counters say of a job's memory: recorded texts of both versions."""

from pathlib import Path

import pytest
import trio

from worker.memory import MemoryWatch, _held_back
from worker.oom import OomBell

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
    (tmp_path / "memory.failcnt").write_text("7\n")
    found = MemoryWatch(tmp_path, version, None, limit, OomBell()).verdict()
    assert (found is not None) == verdict
    assert found is None or found.endswith("at its memory limit") == (limit is not None)


def test_an_end_for_want_of_memory_elsewhere_is_not_called_its_limits(tmp_path: Path) -> None:
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 1\nunder_oom 0\noom_kill 1\n")
    (tmp_path / "memory.failcnt").write_text("0\n")
    verdict = MemoryWatch(tmp_path, 1, None, LIMIT, OomBell()).verdict()
    assert verdict is not None
    assert verdict.endswith("the host, or a cgroup above the job's, was out of memory")


async def test_a_watch_that_is_refused_leaves_the_other_at_work(tmp_path: Path) -> None:
    """On v1 the kernel's killer is held back: without a watcher, the job would hang for ever."""
    watch = MemoryWatch(tmp_path, 1, tmp_path, LIMIT, OomBell())
    steps: list[str] = []

    async def events(kill: object) -> None:
        await trio.sleep(0.01)
        steps.append("watched")

    async def pressure(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise PermissionError(1, "not here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch.__class__, "_watch_events", lambda self, kill: events(kill))
        patch.setattr(watch.__class__, "_watch_pressure", lambda self, *rest: pressure(*rest))
        with pytest.raises(ExceptionGroup) as caught:
            await watch.run(trio.lowlevel.checkpoint)
    assert caught.group_contains(PermissionError)
    assert steps == ["watched"]


def test_the_kernels_killer_is_given_back(tmp_path: Path) -> None:
    for name in ("memory.oom_control", "cgroup.event_control"):
        (tmp_path / name).write_text("")
    with _held_back(tmp_path):
        assert (tmp_path / "memory.oom_control").read_text() == "1"
        (tmp_path / "memory.oom_control").write_text("")
    assert (tmp_path / "memory.oom_control").read_text() == "0"


@pytest.mark.parametrize(
    ("version", "stat"),
    [(2, "anon 4096\nfile 999\nshmem 1024\n"), (1, "rss 1\ntotal_rss 4096\ntotal_shmem 1024\nshmem 2\n")],
)
def test_own_data_and_pressure(tmp_path: Path, version: int, stat: str) -> None:
    (tmp_path / "memory.stat").write_text(stat)
    pressure = "some avg10=1.00 avg60=0.10 avg300=0.00 total=9\nfull avg10=1.0 total=2500000\n"
    (tmp_path / "memory.pressure").write_text(pressure)
    watch = MemoryWatch(tmp_path, version, tmp_path, LIMIT, OomBell())
    assert watch._own_data() == 5120
    assert watch._stalled(tmp_path) == 2.5


def test_a_v2_job_is_killed_as_one(tmp_path: Path) -> None:
    (tmp_path / "memory.oom.group").touch()
    MemoryWatch(tmp_path, 2, None, None, OomBell())
    assert (tmp_path / "memory.oom.group").read_text() == "1"
