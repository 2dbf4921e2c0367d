"""Owns the room for all output: budgets in memory for the server and for each job, and a cap on the disk.

From three quarters of a budget on, `worker.mover` moves the oldest bytes to the disk: those of the job that
nears its own budget, or those of the job that has been silent longest. A job waits only where a budget is
used up, because it prints faster than the disk takes it. Past the disk's cap, or when the disk is full, the
operator's policy decides: ``block`` lets the job that wants room wait, its pipe unread, until there is some;
``drop`` gives up the oldest bytes of the job that has been silent longest. A disk that fails otherwise is
waited for, whatever the policy: to give up what lies there would make no room. Jobs that fit into their
budget never wait for a disk.
"""

import enum
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import trio

from .blocks import Block
from .disk_watch import DiskWatch
from .log import Log
from .mover import Mover
from .output import OutputLog
from .spill import SpillFiles
from .tally import Tally
from .windows import MIB, Windows

#: The share of a budget from which on output moves to the disk, and the one at which that is enough.
NEAR, FAR = 0.75, 0.7
#: What the log says where nothing more goes to the disk.
FULL = "the room for output on the disk is used up"
FAILS = "output cannot be moved to the disk, and is tried again"
#: Reads from the spill files at a time; each has a buffer of up to 8 MiB.
READS = 2


class Overflow(enum.StrEnum):
    """What happens when the disk has no more room for output."""

    BLOCK = "block"
    DROP = "drop"


def default_folder() -> Path:
    """Where output spills to: $TMPDIR, or /var/tmp, which is on a disk where /tmp may be memory."""
    if os.environ.get("TMPDIR"):
        return Path(os.environ["TMPDIR"])
    var = Path("/var/tmp")  # noqa: S108  # files there have no names
    return var if var.is_dir() else Path(tempfile.gettempdir())


@dataclass(frozen=True, slots=True)
class Budget:
    """How much output may take; all in bytes.

    Args:
        memory: of all jobs in memory.
        job_memory: of one job in memory.
        disk: of all jobs in spill files; None for half of what is free there when the server starts.
        folder: where spill files are.
        overflow: what happens past ``disk``.
    """

    memory: int = 256 * MIB
    job_memory: int = 64 * MIB
    disk: int | None = None
    folder: Path = field(default_factory=default_folder)
    overflow: Overflow = Overflow.BLOCK


class OutputStore:
    """The output of every job, within a budget.

    Args:
        budget: how much it may be.
        log: where a full disk is told.
        nursery: as `work_ahead`; None for not yet.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, budget: Budget, log: Log, nursery: trio.Nursery | None = None) -> None:
        self.resident = self.spilled = 0
        # Apart, so that no subscriber holds up a job.
        self.reads = trio.CapacityLimiter(READS)
        #: What is read back for subscribers.
        self.windows = Windows()
        self._budget = budget
        self._log = log
        self._disk = budget.disk
        if self._disk is None:
            free = os.statvfs(budget.folder)
            self._disk = free.f_bavail * free.f_frsize // 2
        self._watch = DiskWatch(Tally(log, "the disk that takes output hangs"))
        self._files = SpillFiles(budget.folder, self.reads, self._watch)
        self._unreadable = Tally(log, "output cannot be read back")
        self._mover = Mover(self, self._files, log)
        # In order of their last append.
        self._with_memory: OrderedDict[OutputLog, None] = OrderedDict()
        self._with_file: OrderedDict[OutputLog, None] = OrderedDict()
        self._is_near = False
        self._near: OrderedDict[OutputLog, None] = OrderedDict()  # those near their own budget
        self._wanting: dict[OutputLog, int] = {}  # tasks that wait for room
        self._told = ""  # that nothing more goes to the disk
        self.work_ahead(nursery)

    def work_ahead(self, nursery: trio.Nursery | None) -> None:
        """From now on move output to the disk, and read it back, before anybody has to wait for that."""
        self._mover.nursery = self.windows.nursery = self._watch.nursery = nursery

    def account(self, log: OutputLog, resident: int, spilled: int) -> None:
        """Take note of what a log has grown by, in memory and on the disk."""
        self.resident += resident
        self.spilled += spilled
        for logs, held in ((self._with_memory, log.resident), (self._with_file, log.spilled)):
            if not held:
                logs.pop(log, None)
            elif resident > 0 or log not in logs:
                logs[log] = None
                logs.move_to_end(log)
        self._is_near = self.resident > (FAR if self._is_near else NEAR) * self._budget.memory
        if log.resident > (FAR if log in self._near else NEAR) * self._budget.job_memory:
            self._near[log] = None
        else:
            self._near.pop(log, None)
        if resident < 0 or spilled < 0:
            self._mover.tell()

    def discard(self, blocks: list[Block]) -> None:
        """Free what a removed log held in memory, and see to it that its place on the disk is given back."""
        self._mover.discard(blocks)

    def close(self) -> None:
        """Give up all output, and with it the files."""
        self.work_ahead(None)
        for log in (*self._with_memory, *self._with_file):
            log.remove()
        self._files.close()

    def is_near(self, log: OutputLog) -> bool:
        """Whether a budget is almost used up, so that a log must `make_room`."""
        return self._is_near or log in self._near

    async def make_room(self, log: OutputLog) -> None:
        """Return once memory is within its budgets, and see to it in time that it stays there."""
        await trio.lowlevel.checkpoint()
        if not self._is_over(log):
            self._mover.wake()
            return
        self._wanting[log] = self._wanting.get(log, 0) + 1
        try:
            self._mover.wake()
            while self._is_over(log):
                log.waiting = self._mover.stuck
                if self._mover.nursery is None:
                    await self._mover.step()
                else:
                    await self._mover.news.wait()
            self.tell_room()
        finally:
            self._wanting[log] -= 1
            if not self._wanting[log]:
                del self._wanting[log]
                log.waiting = False

    def _is_over(self, log: OutputLog) -> bool:
        return log.resident > self._budget.job_memory or self.resident > self._budget.memory

    # --- for worker.mover alone

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for room."""
        return bool(self._wanting)

    @property
    def room(self) -> int:
        """How much more of the disk may be used, in bytes."""
        assert self._disk is not None  # noqa: S101  # set in the constructor
        return self._disk - self._files.used

    @property
    def is_pressed(self) -> bool:
        """Whether a budget is almost used up."""
        return self._is_near or bool(self._near)

    def victim(self) -> OutputLog:
        """Whose oldest bytes go next, where a budget is almost used up.

        Those of logs near their own budget, in turns, as these fill the common one too; if there are none,
        those of the longest silent.
        """
        if not self._near:
            return next(iter(self._with_memory))
        log = next(iter(self._near))
        self._near.move_to_end(log)
        return log

    def drop_for_want(self, victim: OutputLog, reason: str, *, full: bool) -> bool:
        """Say that nothing more goes to the disk, and give up the oldest bytes, if the operator wants that.

        Those on the disk, if there are any, so that others may go there. Return whether some went.

        Args:
            victim: whose bytes go if none are on the disk.
            reason: why, for the log.
            full: for want of room there; else nothing is given up.
        """
        policy = {"policy": self._budget.overflow.value} if full else {}
        message = FULL if full else FAILS
        if self._told != message:
            self._told = message
            self._log.error(message, folder=str(self._budget.folder), reason=reason, **policy)
        drops = full and self._budget.overflow is Overflow.DROP
        return drops and next(iter(self._with_file), victim).drop()

    def mark_waiting(self) -> None:
        """Show of each log that wants room that it waits for the disk."""
        for log in self._wanting:
            log.waiting = True

    def tell_room(self) -> None:
        """Say that there is room on the disk again, if it was said that there is none."""
        if self._told == FAILS or (self._told and self._budget.overflow is Overflow.BLOCK):
            self._told = ""
            self._log.info("there is room for output on the disk again", folder=str(self._budget.folder))

    def tell_unreadable(self, error: OSError) -> None:
        """Say in the log that spilled output could not be read."""
        self._unreadable.add(folder=str(self._budget.folder), reason=str(error.strerror))
