"""The bell rings when the kernel has killed for want of memory, and looks only while somebody waits."""

from pathlib import Path

import pytest
import trio
import trio.testing

from worker import oom
from worker.memory import MemoryWatch
from worker.oom import OomBell


class Vmstat:
    """What /proc/vmstat says; `looks` counts who looked."""

    def __init__(self) -> None:
        self.kills: int | None = 3
        self.looks = 0

    def read(self, path: str) -> str:
        assert path == "/proc/vmstat"
        self.looks += 1
        return "nr_free_pages 77\n" + (f"oom_kill {self.kills}\n" if self.kills is not None else "")


@pytest.fixture
def vmstat(monkeypatch: pytest.MonkeyPatch) -> Vmstat:
    fake = Vmstat()
    monkeypatch.setattr(oom, "read", fake.read)
    return fake


async def test_it_rings_twice_for_a_kill(
    vmstat: Vmstat, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """As the job's own count may come a moment after the host's."""
    bell, rings = OomBell(), list[float]()

    async def listen() -> None:
        while True:
            await bell.wait()
            rings.append(trio.current_time())

    nursery.start_soon(bell.run)
    nursery.start_soon(listen)
    await trio.sleep(10)
    assert rings == []
    vmstat.kills = 4
    began = trio.current_time()
    await trio.sleep(10)
    assert [when - began <= 2.1 * oom.PERIOD for when in rings] == [True, True]


async def test_nobody_looks_while_nobody_waits(
    vmstat: Vmstat, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    bell = OomBell()
    nursery.start_soon(bell.run)
    with trio.move_on_after(10):
        await bell.wait()
    assert vmstat.looks > 10
    await trio.sleep(oom.PERIOD)
    looks = vmstat.looks
    await trio.sleep(100)
    assert vmstat.looks == looks
    vmstat.kills = 4  # meanwhile
    with trio.fail_after(1):
        await bell.wait()


async def test_a_kernel_that_does_not_count_is_no_news(
    vmstat: Vmstat, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    vmstat.kills = None
    bell = OomBell()
    nursery.start_soon(bell.run)
    with trio.move_on_after(10) as scope:
        await bell.wait()
    assert scope.cancelled_caught


@pytest.mark.parametrize(("version", "kills", "ends"), [(1, 1, True), (1, 0, False), (2, 1, False)])
async def test_only_a_v1_job_that_was_struck_is_finished(
    vmstat: Vmstat,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    tmp_path: Path,
    version: int,
    kills: int,
    ends: bool,
) -> None:
    bell, killed = OomBell(), list[str]()
    nursery.start_soon(bell.run)
    watch = MemoryWatch(tmp_path, version, None, None, bell)

    async def kill() -> None:
        await trio.lowlevel.checkpoint()
        killed.append("killed")

    nursery.start_soon(watch.finish_kills, kill)
    await trio.testing.wait_all_tasks_blocked()
    (tmp_path / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    (tmp_path / "memory.events.local").write_text(f"oom_kill {kills}\n")
    vmstat.kills = 4
    await trio.sleep(10)
    assert bool(killed) == ends
