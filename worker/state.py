"""Owns how a job ends: the wait status of its process turned into a status, a signal and a cause."""

import os
import signal
from dataclasses import dataclass, replace

from wire.jobs import Cause, CauseKind, Status, Usage


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: ``code`` if it exited, ``signal`` if it was killed; ``usage`` if known.

    ``lost`` says that the spawner died and took the process's status with it.
    """

    code: int | None = None
    signal: int | None = None
    usage: Usage | None = None
    lost: bool = False

    @classmethod
    def from_wait(cls, wait_status: int, usage: Usage) -> "Exit":
        """Read a wait status, wait(2)."""
        code = os.waitstatus_to_exitcode(wait_status)
        return cls(signal=-code, usage=usage) if code < 0 else cls(code=code, usage=usage)

    @classmethod
    def by_loss(cls) -> "Exit":
        """A process whose status nobody learned; its cgroup was killed."""
        return cls(signal=signal.SIGKILL, lost=True)

    @property
    def status(self) -> Status:
        return Status.EXITED if self.signal is None else Status.SIGNALED


def with_process(counted: Usage | None, process: Usage | None) -> Usage | None:
    """What a whole job used by its cgroups, with what its main process is known to have used."""
    if counted is None or process is None:
        return counted or process
    # What was left at the end is the page cache of files, and tells nobody anything.
    return replace(counted, max_rss=process.max_rss, memory=None, tasks=None)


def cause_of(end: Exit, *, stopped: Cause | None, out_of_memory: str | None) -> Cause:
    """Say why a job ended.

    Args:
        end: how its main process ended.
        stopped: the cause of the stop, if one was asked for before the process ended.
        out_of_memory: what the kernel's own counters say of the job's memory, in words, if it ran out of
            it; a SIGKILL alone is never called oom.
    """
    if end.lost:
        return Cause(CauseKind.LOST, detail="the spawner died; the job was killed with it")
    if stopped is not None:
        return stopped
    if out_of_memory is not None and end.code != 0:  # it got over the loss of a process
        return Cause(CauseKind.OOM, detail=out_of_memory)
    if end.signal is not None:
        return Cause(CauseKind.SIGNALED, detail=signal.strsignal(end.signal))
    return Cause(CauseKind.EXITED)
