"""What is said of a job's end, for every way to end."""

import signal

import pytest

from wire.jobs import Cause, CauseKind, Status, Usage
from worker.state import Exit, cause_of

STOPPED = Cause(CauseKind.STOPPED, by="alice")
TIMEOUT = Cause(CauseKind.TIMEOUT, detail="it ran longer than 1 s")
USAGE = Usage(1.5, 0.5, 4096)


@pytest.mark.parametrize(
    ("end", "stopped", "oom_kills", "kind"),
    [
        (Exit(code=0), None, 0, CauseKind.EXITED),
        (Exit(code=3), None, 0, CauseKind.EXITED),
        (Exit(code=3), None, 1, CauseKind.EXITED),  # the OOM killer took another process of the job
        (Exit(signal=signal.SIGSEGV), None, 0, CauseKind.SIGNALED),
        (Exit(signal=signal.SIGTERM), None, 1, CauseKind.SIGNALED),
        (Exit(signal=signal.SIGKILL), None, 0, CauseKind.SIGNALED),
        (Exit(signal=signal.SIGKILL), None, 1, CauseKind.OOM),
        (Exit(signal=signal.SIGKILL), STOPPED, 1, CauseKind.STOPPED),
        (Exit(signal=signal.SIGKILL), STOPPED, 0, CauseKind.STOPPED),
        (Exit(signal=signal.SIGTERM), TIMEOUT, 0, CauseKind.TIMEOUT),
        (Exit(code=0), STOPPED, 0, CauseKind.STOPPED),
        (Exit.by_loss(), None, 0, CauseKind.LOST),
        (Exit.by_loss(), STOPPED, 1, CauseKind.LOST),
    ],
)
def test_cause(end: Exit, stopped: Cause | None, oom_kills: int, kind: CauseKind) -> None:
    cause = cause_of(end, stopped=stopped, oom_kills=oom_kills)
    assert cause.kind is kind
    if kind in (CauseKind.STOPPED, CauseKind.TIMEOUT):
        assert cause is stopped
    if kind in (CauseKind.SIGNALED, CauseKind.OOM, CauseKind.LOST):
        assert cause.detail


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
