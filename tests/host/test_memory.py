"""Memory limits on a real kernel: a job over one dies as a whole, with cause oom; no other is called so."""

import os
import signal

import pytest

from client.blocking import Client
from tests.harness import alive
from tests.host.common import MIB, begin, control, directories, finish, program
from wire.jobs import CauseKind, JobStatus, Status
from wire.limits import parse_limits

pytestmark = pytest.mark.host
TIGHT = parse_limits(memory="64M")


def kind(job: JobStatus) -> str:
    assert job.cause is not None
    return job.cause.kind


def check_oom(job: JobStatus) -> None:
    assert (job.status, job.signal, kind(job)) == (Status.SIGNALED, signal.SIGKILL, CauseKind.OOM)


def test_a_job_over_its_limit_is_killed(admin: Client) -> None:
    job, text = finish(admin, program("allocate", 300), TIGHT)
    check_oom(job)
    assert text == ""


def test_a_job_below_its_limit_is_left_alone(admin: Client) -> None:
    job, text = finish(admin, program("allocate", 300), parse_limits(memory="500M"))
    assert (job.status, job.exit_code, kind(job)) == (Status.EXITED, 0, CauseKind.EXITED)
    assert text == f"allocated {300 * MIB}\n"


@pytest.mark.parametrize("attempt", range(5))
def test_the_whole_job_is_killed_as_one(admin: Client, attempt: int) -> None:
    """Neither its main process, which is small, nor a bystander that ignores everything goes on."""
    deaf, greedy = " ".join(program("stay_deaf")), " ".join(program("allocate", 300))
    job, text = finish(admin, ["sh", "-c", f"{deaf} & {greedy}; echo survived"], TIGHT)
    check_oom(job)
    bystander, *rest = text.splitlines() or ["0"]
    assert rest == []
    assert not alive(int(bystander))


def test_processes_are_counted_together(admin: Client) -> None:
    job, _ = finish(admin, program("allocate_in", 5, 20), TIGHT)
    check_oom(job)


def test_a_stop_is_no_oom(admin: Client) -> None:
    job, _ = begin(admin, program("stay_deaf"), TIGHT)
    stopped = admin.stop(job.id, grace=0)
    assert (stopped.signal, kind(stopped)) == (signal.SIGKILL, CauseKind.STOPPED)


def test_a_kill_from_outside_is_no_oom(admin: Client) -> None:
    job, _ = begin(admin, program("stay_deaf"), TIGHT)
    os.kill(job.pid, signal.SIGKILL)
    ended = admin.wait(job.id)
    assert (ended.signal, kind(ended)) == (signal.SIGKILL, CauseKind.SIGNALED)


def test_swap_counts_as_memory(admin: Client) -> None:
    """What the kernel says it holds the job to; swap accounting may be missing, and is then of no matter."""
    job, _ = begin(admin, program("stay_deaf"), TIGHT)
    folder = control(job, "memory.max", "memory.limit_in_bytes").parent
    files = {
        "memory.max": 64 * MIB,
        "memory.swap.max": 0,
        "memory.limit_in_bytes": 64 * MIB,
        "memory.memsw.limit_in_bytes": 64 * MIB,
    }
    seen = {name: int((folder / name).read_text()) for name in files if (folder / name).exists()}
    assert seen
    assert seen == {name: files[name] for name in seen}
    admin.stop(job.id, grace=0)
    assert not directories(job)
