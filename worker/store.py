"""Owns the room for all output: budgets in memory for the server and for each job, and a cap on the disk.

From three quarters of a budget on, the oldest bytes move to the spill files in the background: those of the
job that nears its own, or those of the job that has been silent longest. A job waits only where a budget is
used up, because it prints faster than the disk takes it. Past the disk's cap, or when the disk is full, the
operator's policy decides: ``block`` lets the job that wants room wait, its pipe unread, until there is some;
``drop`` gives up the oldest bytes of the job that has been silent longest. Jobs that fit into their budget
never wait for a disk.
"""

import enum
import errno
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import trio

from .log import Log
from .output import OutputLog
from .windows import MIB, Windows

#: A job that waits for room on a full disk looks again after so long, in seconds: others use the disk too.
RETRY_SECONDS = 1.0
#: The share of a budget from which on output moves to the disk.
NEAR = 0.75
#: Transfers to and from the spill files at a time; each has a buffer of up to 8 MiB.
WRITES, READS = 2, 2


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
        #: Bytes by which spill files are about to grow.
        self.promised = 0
        self._nursery = nursery
        # Apart, so that no subscriber holds up a job.
        self.writes, self.reads = trio.CapacityLimiter(WRITES), trio.CapacityLimiter(READS)
        #: What is read back for subscribers.
        self.windows = Windows(nursery)
        self._budget = budget
        self._log = log
        self._disk = budget.disk
        if self._disk is None:
            free = os.statvfs(budget.folder)
            self._disk = free.f_bavail * free.f_frsize // 2
        # In order of their last append.
        self._with_memory: OrderedDict[OutputLog, None] = OrderedDict()
        self._with_file: OrderedDict[OutputLog, None] = OrderedDict()
        self._freed = trio.Event()
        self._full = False
        self._ahead_from = float("-inf")  # not before, by Trio's clock: it went wrong a moment ago
        self._ahead: set[OutputLog] = set()  # those for which room is being made already

    def work_ahead(self, nursery: trio.Nursery) -> None:
        """From now on move output to the disk, and read it back, before anybody has to wait for that."""
        self._nursery = self.windows.nursery = nursery

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
        if resident < 0 or spilled < 0:
            self._freed.set()
            self._freed = trio.Event()

    def close(self) -> None:
        """Give up all output, and with it the files."""
        for log in (*self._with_memory, *self._with_file):
            log.remove()

    def is_near(self, log: OutputLog) -> bool:
        """Whether a budget is almost used up, so that a log must `make_room`."""
        return self._uses(log, NEAR)

    def _uses(self, log: OutputLog, share: float) -> bool:
        return log.resident > share * self._budget.job_memory or self.resident > share * self._budget.memory

    async def make_room(self, log: OutputLog) -> None:
        """Return once memory is within its budgets, and see to it in time that it stays there."""
        await trio.lowlevel.checkpoint()
        if self._nursery is not None and log not in self._ahead and trio.current_time() >= self._ahead_from:
            self._ahead.add(log)
            self._nursery.start_soon(self._spill_ahead, log)
        try:
            while self._uses(log, 1):
                victim = self._victim(log, 1)
                try:
                    if await self._spill(victim):
                        if not self._uses(log, 1):
                            self._tell_room(log)
                        continue
                    reason = "the cap is reached"
                except OSError as error:
                    reason = str(error.strerror)
                self._tell_full(reason)
                if self._budget.overflow is Overflow.DROP and self._drop(victim):
                    continue
                log.waiting = True
                freed = self._freed
                with trio.move_on_after(RETRY_SECONDS):
                    await freed.wait()
            if log.waiting:
                self._tell_room(log)  # it came by another way than ours
        finally:
            log.waiting = False

    async def _spill_ahead(self, log: OutputLog) -> None:
        """Move output to the disk while there is room in memory, so that nobody has to wait for it."""
        await trio.lowlevel.checkpoint()
        moved = True
        try:
            while moved and self._uses(log, NEAR):
                moved = await self._spill(self._victim(log, NEAR))
            if moved:
                self._tell_room(log)
        except OSError:
            moved = False
        finally:
            if not moved:  # of which those tell who have to wait for room
                self._ahead_from = trio.current_time() + RETRY_SECONDS
            self._ahead.discard(log)

    def _victim(self, log: OutputLog, share: float) -> OutputLog:
        """Whose oldest bytes go: a log's own past a share of its budget, else those of the longest silent."""
        if log.resident > share * self._budget.job_memory:
            return log
        return next(iter(self._with_memory))

    async def _spill(self, victim: OutputLog) -> bool:
        await trio.lowlevel.checkpoint()
        assert self._disk is not None  # noqa: S101  # set in the constructor
        try:
            return await victim.spill(self._budget.folder, self._disk - self.spilled - self.promised)
        except OSError as error:
            # Without a descriptor for a new file, there is yet room in those that are open.
            other = next((log for log in self._with_memory if log.spilled and log is not victim), None)
            if error.errno not in (errno.EMFILE, errno.ENFILE) or other is None:
                raise
            return await other.spill(self._budget.folder, self._disk - self.spilled - self.promised)

    def _drop(self, victim: OutputLog) -> bool:
        """Give up the oldest bytes: on the disk if there are any, so that others may go there."""
        return any(log.drop() for log in (*self._with_file, victim))

    def _tell_full(self, reason: str) -> None:
        if not self._full:
            self._full = True
            self._log.error(
                "the room for output on the disk is used up",
                folder=str(self._budget.folder),
                reason=reason,
                policy=self._budget.overflow.value,
            )

    def _tell_room(self, log: OutputLog) -> None:
        if self._full and self._budget.overflow is Overflow.BLOCK:
            self._full = False
            self._log.info("there is room for output on the disk again", folder=str(self._budget.folder))
        log.waiting = False

    def tell_unreadable(self, error: OSError) -> None:
        """Say in the log that spilled output could not be read."""
        self._log.error(
            "output cannot be read back", folder=str(self._budget.folder), reason=str(error.strerror)
        )
