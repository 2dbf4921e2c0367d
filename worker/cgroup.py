"""Owns one job's cgroup: made and limited before the job starts, signalled, killed, read and removed.

The job is a member of one cgroup in the tracking hierarchy, which keeps its processes together whatever they
do, and on hosts with v1 controllers of one in each of theirs: they limit it, and count what it uses.
"""

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator

import trio

from wire.jobs import Usage
from wire.limits import Limits

from . import cgroupfs
from .ceilings import apply
from .hierarchy import Hierarchies
from .memory import MemoryWatch
from .stepwise import in_turns
from .usage import measure
from .walk import Steps

#: Longest wait for killed processes to leave and for the cgroup to be removed, in seconds.
REMOVE_DEADLINE = 10.0
#: How deep, and how many, cgroups of v2 a job may make below its own: enough for container engines in it.
MAX_DEPTH, MAX_DESCENDANTS = 64, 4096
#: Processes that were killed and have not gone for so long may be frozen, in seconds.
FROZEN_AFTER = 0.2


class JobCgroup:
    """One job's cgroup, in every hierarchy.

    Args:
        hierarchies: the server's subtree; it has a tracking hierarchy.
        name: the directory's name, the job's id.
        limits: what to enforce; checked with `check_enforceable` before.

    Raises:
        OSError: the kernel refused a directory; nothing is left behind.
        LimitRefusedError: the kernel refused a value; nothing is left behind.
    """

    #: Whether the spawner must keep the job's processes together, as there is no cgroup.
    kept = False

    def __init__(self, hierarchies: Hierarchies, name: str, limits: Limits) -> None:
        self._hierarchies = hierarchies
        self._name = name
        self.paths = [base / name for base in hierarchies.bases]
        self.path = self.paths[0]
        self._memory: MemoryWatch | None = None
        made = []
        try:
            for path in self.paths:
                path.mkdir()
                made.append(path)
            apply(hierarchies, name, limits)
            for file, most in (("cgroup.max.depth", MAX_DEPTH), ("cgroup.max.descendants", MAX_DESCENDANTS)):
                with contextlib.suppress(OSError):  # v1 has no such bounds, nor has Linux before 4.14
                    cgroupfs.write(f"{self.path}/{file}", str(most))
            memory = hierarchies.controllers.get("memory")
            if memory is not None:
                pressure = self.path if (self.path / "memory.pressure").exists() else None
                self._memory = MemoryWatch(
                    memory.base / name, memory.version, pressure, limits.memory, hierarchies.oom
                )
        except BaseException:
            for path in made:
                path.rmdir()
            raise

    @contextlib.contextmanager
    def open_directories(self) -> Iterator[list[int]]:
        """Descriptors of the job's directories, for the spawner; the tracking hierarchy's comes first."""
        with contextlib.ExitStack() as stack:
            fds = []
            for path in self.paths:
                fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            yield fds

    def adopt(self, keeper: int) -> None:
        """A cgroup needs no keeper."""

    def pids(self) -> list[int]:
        """The processes in the cgroup and in those that the job made below it."""
        return cgroupfs.members(str(self.path))

    async def is_empty(self) -> bool:
        """Whether no living process is left in the cgroup or below it; False if that cannot be read now."""
        return await in_turns(cgroupfs.looking(str(self.path)))

    async def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the job, and to no stranger."""
        await in_turns(cgroupfs.sending(str(self.path), number))

    async def kill(self) -> None:
        """Kill every process of the job at once. A cancel does not stop it; it is bounded.

        It may fail for a moment, as when descriptors have run out: `remove` tries again.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_DEADLINE):
            await in_turns(cgroupfs.killing(str(self.path)))

    async def thaw(self) -> None:
        """Free processes that the job froze by another hierarchy: no kill reaches them."""
        await in_turns(cgroupfs.freeing(str(self.path)))

    def out_of_memory(self) -> str | None:
        """Why the job ran out of memory, in words, if it did."""
        return self._memory.verdict() if self._memory is not None else None

    async def watch(self, kill: Callable[[], Awaitable[object]]) -> None:
        """See to it that the job ends as one when it is out of memory; run this while it lives.

        Args:
            kill: called to end it.
        """
        await trio.lowlevel.checkpoint()
        if self._memory is not None:
            await self._memory.run(kill)

    async def finish_kills(self, kill: Callable[[], Awaitable[object]]) -> None:
        """See to it that the job ends as one when the kernel's OOM killer takes a part of it."""
        await trio.lowlevel.checkpoint()
        if self._memory is not None:
            await self._memory.finish_kills(kill)

    def usage(self) -> Usage | None:
        """What the job has used so far, as far as this host counts it."""
        return measure(self._hierarchies, self._name)

    async def wait_empty(self) -> None:
        """Wait until no living process is left. Looks again ever more rarely, 50 times a second at least."""
        pause = 0.0005
        while not await self.is_empty():
            await trio.sleep(pause)
            pause = min(pause * 2, 0.02)

    async def remove(self) -> bool:
        """Kill what is left and remove the cgroup; return False if it would not go within the deadline."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_DEADLINE):
            pause, began = 0.0005, trio.current_time()
            while not await in_turns(self._clearing()):
                if trio.current_time() - began > FROZEN_AFTER:
                    await self.thaw()
                await trio.sleep(pause)
                pause = min(pause * 2, 0.1)
            return True
        return False

    def _clearing(self) -> Steps:
        """Kill what is left, and remove the cgroup if nothing is; whether it is gone.

        It kills each time, as a process that was being started may have joined after the last kill.
        """
        yield from cgroupfs.killing(str(self.path))
        if not (yield from cgroupfs.looking(str(self.path))):
            return False
        for path in self.paths:
            if not (yield from cgroupfs.removing(str(path))):
                return False
        return True
