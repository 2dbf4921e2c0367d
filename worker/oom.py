"""Owns the news that the kernel's OOM killer has struck somewhere on this host.

With v2, it takes a whole job (memory.oom.group). With v1 it takes one process, and tells nobody: neither when
a cgroup above the job's ran out of memory, nor when the host did. But it counts each kill of the host in
/proc/vmstat (Linux 4.13), so one look at that file a period, for all jobs together and only while there are
any, says when each has to look at its own counter.
"""

import trio

from .cgroupfs import read

#: Seconds between two looks.
PERIOD = 0.5


class OomBell:
    """Rings when the kernel has killed for want of memory. `run` must run for it to."""

    def __init__(self) -> None:
        self._waiting = trio.lowlevel.ParkingLot()
        self._wanted = trio.Event()

    async def wait(self) -> None:
        """Wait until it rings; it may ring for nothing."""
        self._wanted.set()
        await self._waiting.park()

    async def run(self) -> None:
        """Look until cancelled, while somebody waits."""
        rung, count = False, _kills()
        while True:
            await self._wanted.wait()
            while self._waiting or rung:
                await trio.sleep(PERIOD)
                before, count = count, _kills()
                # Twice: the kernel counts a kill for the host first, and for the cgroup a moment later.
                if count != before or rung:
                    self._waiting.unpark_all()
                rung = count != before
            self._wanted = trio.Event()


def _kills() -> str:
    """How often it has killed, as text; empty where it does not count."""
    for line in read("/proc/vmstat").splitlines():
        if line.startswith("oom_kill "):
            return line
    return ""
