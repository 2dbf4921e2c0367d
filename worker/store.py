"""Owns the room for all output: budgets in memory for the server and for each job, and a cap on the disk.

Past a budget, the oldest bytes move to the spill files: those of the job that passed its own, or those of
the job that has been silent longest. Past the disk's cap, or when the disk is full, the operator's policy
decides: ``block`` lets the job that wants room wait, its pipe unread, until there is some; ``drop`` gives
up the oldest bytes of the job that has been silent longest. Jobs that fit into their budget never wait for
a disk.
"""

import enum
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import trio

from .log import Log
from .output import OutputLog

#: A job that waits for room on a full disk looks again after so long, in seconds: others use the disk too.
RETRY_SECONDS = 1.0
MIB = 1024 * 1024


class Overflow(enum.StrEnum):
    """What happens when the disk has no more room for output."""

    BLOCK = "block"
    DROP = "drop"


def default_folder() -> Path:
    """Where output spills to: $TMPDIR, or /var/tmp, which is on a disk where /tmp may be memory."""
    if "TMPDIR" in os.environ:
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

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, budget: Budget, log: Log) -> None:
        self.resident = self.spilled = 0
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

    def is_over(self, log: OutputLog) -> bool:
        """Whether a budget is passed, so that a log must `make_room`."""
        return log.resident > self._budget.job_memory or self.resident > self._budget.memory

    async def make_room(self, log: OutputLog) -> None:
        """Return once memory is within its budgets."""
        await trio.lowlevel.checkpoint()
        try:
            while self.is_over(log):
                victim = log if log.resident > self._budget.job_memory else next(iter(self._with_memory))
                assert self._disk is not None  # noqa: S101  # set in the constructor
                try:
                    if await victim.spill(self._budget.folder, self._disk - self.spilled):
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
        finally:
            log.waiting = False

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
