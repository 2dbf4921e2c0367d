"""Owns one job's processes on a host that gives us no cgroup: the descendants of the job's keeper.

It stands where `worker.cgroup.JobCgroup` stands elsewhere. Nothing can be limited, and little counted.
"""

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator

import trio

from wire.jobs import Usage

from . import keeper
from .cgroup import REMOVE_DEADLINE


class ProcessTree:
    """One job's processes, from the moment `adopt` says under which keeper they are."""

    #: Whether the spawner must keep the job's processes together, as there is no cgroup.
    kept = True

    def __init__(self) -> None:
        self._pid = 0
        self._birth = b""

    @contextlib.contextmanager
    def open_directories(self) -> Iterator[list[int]]:
        """There is no cgroup to join."""
        yield []

    def adopt(self, pid: int) -> None:
        """The job runs under this process."""
        self._pid, self._birth = pid, keeper.birth(pid)

    @property
    def _keeper(self) -> int:
        """The keeper's pid while it lives, 0 later: its number may then be a stranger's."""
        return self._pid if self._birth and keeper.birth(self._pid) == self._birth else 0

    def pids(self) -> list[int]:
        """The job's processes."""
        return keeper.descendants(root) if (root := self._keeper) else []

    async def is_empty(self) -> bool:
        """Whether no living process is left."""
        await trio.lowlevel.checkpoint()
        return not self.pids()

    async def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the job, and to no stranger."""
        await trio.lowlevel.checkpoint()
        if root := self._keeper:
            keeper.send(root, number)

    async def kill(self) -> None:
        """Kill every process of the job; `remove` does it until none is left. A cancel does not stop it."""
        await trio.lowlevel.cancel_shielded_checkpoint()
        if root := self._keeper:
            keeper.kill(root)
            with contextlib.suppress(OSError):  # it has ended
                os.kill(root, signal.SIGCONT)  # a keeper that its job has stopped tells of no end

    async def thaw(self) -> None:
        """Without a cgroup of ours there is none of a job's."""
        await trio.lowlevel.checkpoint()

    def out_of_memory(self) -> str | None:
        """Always None: without a cgroup the kernel does not count a job's memory."""
        return None

    async def watch(self, kill: Callable[[], Awaitable[object]]) -> None:
        """There is nothing to watch."""
        del kill
        await trio.lowlevel.checkpoint()

    async def finish_kills(self, kill: Callable[[], Awaitable[object]]) -> None:
        """Nobody tells whom of them the kernel took."""
        del kill
        await trio.lowlevel.checkpoint()

    def usage(self) -> Usage | None:
        """Nobody counts while it runs."""
        return None

    async def wait_empty(self) -> None:
        """Wait until no living process is left."""
        while not await self.is_empty():  # noqa: ASYNC110  # nobody tells
            await trio.sleep(0.02)

    async def remove(self) -> bool:
        """Kill what is left; return False if some would not go within the deadline."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_DEADLINE):
            while not await self.is_empty():
                await self.kill()
                await trio.sleep(0.005)
            return True
        return False
