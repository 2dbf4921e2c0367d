"""What is said of a job's end, for every way to end."""

import signal

import pytest

from wire.jobs import Cause, CauseKind, Status, Usage
from worker.state import Exit, cause_of, with_process

STOPPED = Cause(CauseKind.STOPPED, by="alice")
TIMEOUT = Cause(CauseKind.TIMEOUT, detail="it ran longer than 1 s")
OOM = "the kernel's OOM killer ended it"
USAGE = Usage(1.5, 0.5, 4096)
COUNTED = Usage(3.0, 1.0, memory_peak=2**20, tasks=1)


@pytest.mark.parametrize(
    ("end", "stopped", "out_of_memory", "kind"),
    [
        (Exit(code=0), None, None, CauseKind.EXITED),
        (Exit(code=3), None, None, CauseKind.EXITED),
        (Exit(code=3), None, OOM, CauseKind.OOM),  # the job ended as one, and this process was the quicker
        (Exit(signal=signal.SIGSEGV), None, None, CauseKind.SIGNALED),
        (Exit(code=0), None, "killed one of it", CauseKind.EXITED),
        (Exit(signal=signal.SIGKILL), None, None, CauseKind.SIGNALED),  # a kill alone is never called oom
        (Exit(signal=signal.SIGKILL), None, OOM, CauseKind.OOM),
        (Exit(signal=signal.SIGKILL), STOPPED, OOM, CauseKind.STOPPED),
        (Exit(signal=signal.SIGKILL), STOPPED, None, CauseKind.STOPPED),
        (Exit(signal=signal.SIGTERM), TIMEOUT, None, CauseKind.TIMEOUT),
        (Exit(code=0), STOPPED, None, CauseKind.STOPPED),
        (Exit.by_loss(), None, None, CauseKind.LOST),
        (Exit.by_loss(), STOPPED, OOM, CauseKind.LOST),
    ],
)
def test_cause(end: Exit, stopped: Cause | None, out_of_memory: str | None, kind: CauseKind) -> None:
    cause = cause_of(end, stopped=stopped, out_of_memory=out_of_memory)
    assert cause.kind is kind
    if kind in (CauseKind.STOPPED, CauseKind.TIMEOUT):
        assert cause is stopped
    if kind in (CauseKind.SIGNALED, CauseKind.OOM, CauseKind.LOST):
        assert cause.detail
    if kind is CauseKind.OOM:
        assert cause.detail == OOM


@pytest.mark.parametrize(
    ("wait_status", "end", "status"),
    [
        (0, Exit(code=0, usage=USAGE), Status.EXITED),
        (7 << 8, Exit(code=7, usage=USAGE), Status.EXITED),
        (255 << 8, Exit(code=255, usage=USAGE), Status.EXITED),
        (int(signal.SIGKILL), Exit(signal=9, usage=USAGE), Status.SIGNALED),
        (int(signal.SIGSEGV) | 0x80, Exit(signal=11, usage=USAGE), Status.SIGNALED),  # dumped core
    ],
)
def test_wait_status(wait_status: int, end: Exit, status: Status) -> None:
    assert Exit.from_wait(wait_status, USAGE) == end
    assert end.status is status


def test_a_lost_process_is_told_as_killed() -> None:
    lost = Exit.by_loss()
    assert (lost.status, lost.signal, lost.code, lost.usage) == (Status.SIGNALED, signal.SIGKILL, None, None)


@pytest.mark.parametrize(
    ("counted", "process", "told"),
    [
        (None, None, None),
        (None, USAGE, USAGE),
        (COUNTED, None, COUNTED),
        (COUNTED, USAGE, Usage(3.0, 1.0, 4096, memory_peak=2**20)),
    ],
)
def test_a_jobs_usage_is_what_its_cgroups_count(
    counted: Usage | None, process: Usage | None, told: Usage | None
) -> None:
    assert with_process(counted, process) == told
