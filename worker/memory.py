"""Owns what happens to a job at its memory ceiling: that it ends as one, soon, and that the cause is known.

With v2, the kernel's OOM killer takes the whole cgroup (memory.oom.group). With v1 it would take one process
of it and let the others run on; so the killer is held back (memory.oom_control), the kernel lets the process
that needs memory wait, and tells us through an eventfd; then we kill the job as one. Nothing holds it back
when memory runs out above the job, in a cgroup or the host; then `worker.oom` says that it has struck, and
the job that it struck is killed as one.

Thrashing. A job whose own data fills its memory has little room left for pages of files, its programs' text
among them. The kernel then reads the same pages again and again, calls each of them progress, and does not
call its OOM killer for a minute or more: three were seen. Pressure information (PSI) tells that all of a job
waits for memory, the counter of major faults that it waits for pages that it had mapped. A job that did both
in PERIODS periods running, with most of its memory its own data, is taken as out of memory. One that merely
reads more files than it has room for has few major faults, and goes on.
Sources: cgroup-v1/memory.rst, cgroup-v2.rst, accounting/psi.rst.
"""

import contextlib
import os
import select
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from .cgroupfs import has_children, read, write
from .oom import OomBell
from .stepwise import in_turns
from .walk import Steps, walk

#: Ends the job.
Kill: TypeAlias = Callable[[], Awaitable[object]]
#: A period counts if all of the job waited for memory for STALLED of its PERIOD seconds, with so many FAULTS.
#: Without CAP_SYS_RESOURCE, the kernel takes only periods that are multiples of two seconds.
STALLED, PERIOD, FAULTS = 0.3, 2.0, 50
#: So many such periods running are thrashing.
PERIODS = 3
#: The share of its ceiling from which a job's own data leaves too little for the pages of files.
OWN_DATA = 0.8
#: Seconds between two looks at what a job makes below its cgroup of v1's memory controller.
BELOW_SECONDS = 0.5
#: The kernel's OOM state may take a moment to show after its event, in seconds.
_SETTLE = 0.1


class MemoryWatch:
    """One job at its memory ceiling.

    Args:
        path: the job's cgroup of the memory controller.
        version: that controller's version.
        pressure: the job's v2 cgroup, which counts pressure; None on a v1 host.
        limit: the ceiling in bytes, None for none.
        bell: tells when the kernel has killed for want of memory.
    """

    def __init__(
        self, path: Path, version: int, pressure: Path | None, limit: int | None, bell: OomBell
    ) -> None:
        self._path = path
        self._version = version
        self._pressure = pressure
        self._limit = limit
        self._bell = bell
        self._verdict: str | None = None
        if version == 2:
            with contextlib.suppress(OSError):  # before Linux 4.19
                write(f"{path}/memory.oom.group", "1")

    def verdict(self) -> str | None:
        """Why the job is out of memory, in words, by the kernel's own counters; None if it is not."""
        if self._verdict is None and self._kills():
            self._verdict = "the kernel's OOM killer ended it"
            if self._limit is not None and self._hits():
                self._verdict += " at its memory limit"
            else:
                self._verdict += ", as the host, or a cgroup above the job's, was out of memory"
        return self._verdict

    def _hits(self) -> int:
        """How often it ran into its own limit."""
        if self._version == 1:
            text = read(f"{self._path}/memory.failcnt").strip()
            return int(text) if text.isdigit() else 0
        return _count(self._path / "memory.events.local", "max")

    def _kills(self) -> int:
        # A whole group's end counts for the job itself, never for cgroups that it made below its own.
        if self._version == 1:
            return _count(self._path / "memory.oom_control", "oom_kill")
        local = self._path / "memory.events.local"
        return _count(local, "oom_group_kill") or _count(local, "oom_kill")

    async def run(self, kill: Kill) -> None:
        """Watch until cancelled; kill the job when it is out of memory and the kernel does not.

        Raises:
            ExceptionGroup: of OSError; the kernel offers no such watch, or descriptors have run out. Its own
                OOM killer then acts as it does.
        """
        await trio.lowlevel.checkpoint()
        if self._limit is None:
            return
        refused: list[OSError] = []

        async def guard(watch: Callable[[], Awaitable[None]]) -> None:
            await trio.lowlevel.checkpoint()
            try:
                await watch()
            except OSError as error:  # the other watch goes on
                refused.append(error)

        async with trio.open_nursery() as nursery:
            if self._version == 1:
                nursery.start_soon(guard, partial(self._watch_events, kill))
            if self._pressure is not None:
                nursery.start_soon(guard, partial(self._watch_pressure, self._limit, self._pressure, kill))
        if refused:
            raise ExceptionGroup("a watch was refused", refused)

    async def finish_kills(self, kill: Kill) -> None:
        """Kill the rest of a job of which v1's OOM killer has taken a process; return at once with v2."""
        await trio.lowlevel.checkpoint()
        while self._version == 1:
            await self._bell.wait()
            if self._kills():
                await kill()

    async def _watch_events(self, kill: Kill) -> None:
        with _held_back(self._path) as events:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._release_below)
                await self._watch_held_back(events, kill)

    async def _watch_held_back(self, events: int, kill: Kill) -> None:
        if self._kills():  # before it was held back
            await kill()
        while True:
            await trio.lowlevel.wait_readable(events)
            os.eventfd_read(events)
            with trio.move_on_after(_SETTLE):
                while not _count(self._path / "memory.oom_control", "under_oom"):  # noqa: ASYNC110
                    await trio.sleep(0.001)
                self._verdict = "it was out of memory at its memory limit"
                await kill()

    async def _release_below(self) -> None:
        """Give v1's OOM killer back to cgroups that the job makes below its own, as container engines do.

        They inherit that it is held back, and nobody is told that they are out of memory: their processes
        would wait for ever.
        """
        while True:
            await trio.sleep(BELOW_SECONDS)
            if has_children(str(self._path)):
                await in_turns(_giving_back(str(self._path)))

    async def _watch_pressure(self, limit: int, pressure: Path, kill: Kill) -> None:
        with _pressure_events(pressure) as events:
            while True:
                await trio.lowlevel.wait_readable(events.fileno())
                events.poll(0)
                periods = 0
                while periods < PERIODS and await self._thrashes(limit, pressure):
                    periods += 1
                if periods == PERIODS:
                    self._verdict = (
                        "its own data filled its memory limit, and it had no room left for its programs: "
                        f"for {PERIODS * PERIOD:g} s it waited for memory again and again"
                    )
                    await kill()

    async def _thrashes(self, limit: int, pressure: Path) -> bool:
        """Look for one period, if the job's own data fills its limit."""
        stalled, faults = self._stalled(pressure), self._stat("pgmajfault")
        if self._own_data() < OWN_DATA * limit:
            await trio.lowlevel.checkpoint()
            return False
        await trio.sleep(PERIOD)
        return self._stalled(pressure) - stalled >= STALLED and self._stat("pgmajfault") - faults >= FAULTS

    def _stalled(self, pressure: Path) -> float:
        """Seconds that all of the job has waited for memory so far."""
        for line in read(f"{pressure}/memory.pressure").splitlines():
            if line.startswith("full"):
                return int(line.rpartition("=")[2]) / 1e6
        return 0.0

    def _own_data(self) -> int:
        """Bytes that can go nowhere, as no swap is allowed for."""
        return self._stat("anon" if self._version == 2 else "rss") + self._stat("shmem")

    def _stat(self, name: str) -> int:
        return _count(self._path / "memory.stat", name if self._version == 2 else f"total_{name}")


def _count(path: Path, key: str) -> int:
    for line in read(str(path)).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _giving_back(path: str) -> Steps:
    """Let the kernel's OOM killer act in the cgroups below one."""
    with contextlib.suppress(OSError):  # they are looked at again
        own = Path(path).stat().st_ino
        for cgroup, left in walk(path):
            if left is None and os.fstat(cgroup).st_ino != own:
                _give_back(cgroup)
            yield
    return True


def _give_back(cgroup: int) -> None:
    with contextlib.suppress(OSError):  # it has just been removed
        if "oom_kill_disable 1" in read("memory.oom_control", cgroup):
            write("memory.oom_control", "0", cgroup)


@contextlib.contextmanager
def _held_back(path: Path) -> Iterator[int]:
    """Hold v1's OOM killer back in a cgroup; give the descriptor that tells of its being needed."""
    events = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(path / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(f"{path}/cgroup.event_control", f"{events} {control}")
        finally:
            os.close(control)
        write(f"{path}/memory.oom_control", "1")
        yield events
    finally:
        with contextlib.suppress(OSError):  # nobody watches any more: let the kernel's killer act
            write(f"{path}/memory.oom_control", "0")
        os.close(events)


@contextlib.contextmanager
def _pressure_events(pressure: Path) -> Iterator[select.epoll]:
    """What becomes readable when a job has waited too much: pressure is told as an exceptional condition."""
    trigger = os.open(pressure / "memory.pressure", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(trigger, f"full {STALLED * 1e6:.0f} {PERIOD * 1e6:.0f}\0".encode())
        with select.epoll() as events:
            events.register(trigger, select.EPOLLPRI)
            yield events
    finally:
        os.close(trigger)
