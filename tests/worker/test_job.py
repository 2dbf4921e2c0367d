"""A job from start to final status with real processes, and nothing left of it however it ends."""

import itertools
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from tests.harness import PATIENCE, alive, children, eventually
from tests.worker.common import KINDS, CancelAt, KeptLog, descriptors, directories, in_memory
from wire.jobs import Cause, CauseKind, JobStatus, Status
from wire.limits import Limits
from wire.messages import STDERR, STDOUT
from worker import job as job_module
from worker.ceilings import LimitRefusedError
from worker.cgroup import JobCgroup
from worker.child import ProcessSpec, SpawnError
from worker.hierarchy import Hierarchies
from worker.job import Job
from worker.process_tree import ProcessTree
from worker.spawner import Spawner

pytestmark = [pytest.mark.host, pytest.mark.parametrize("kind", KINDS, indirect=True)]
ALICE = Cause(CauseKind.STOPPED, by="alice")
BOB = Cause(CauseKind.STOPPED, by="bob")
#: A job that leaves processes, a daemon and a cgroup of its own behind, and says so.
UNTIDY = """
    sleep 600 &
    setsid sh -c 'sleep 600 & exec sleep 600' &
    sed -n 's,^[0-9]*:\\(freezer\\)*:\\(.*/job\\)$,\\2,p' /proc/self/cgroup | while read -r own; do
        for mount in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/freezer; do
            [ ! -d "$mount$own" ] || mkdir "$mount$own/inner"
        done
    done
    echo out; echo err >&2
"""


NUMBERS = itertools.count()


def make(log: KeptLog, script: str, *, limits: Limits | None = None, timeout: float | None = None) -> Job:
    spec = ProcessSpec(
        (b"sh", b"-c", script.encode()), {b"PATH": os.fsencode(os.environ["PATH"])}, b"/", False
    )
    # As in a server, no id is ever used again: the spawner may yet say how a start went that was given up.
    return Job(f"job{next(NUMBERS)}", spec, "alice", limits, timeout, 0.05, log)


class Host:
    """Runs jobs, and looks whether anything is left of them."""

    def __init__(self, hierarchies: Hierarchies, spawner: Spawner) -> None:
        self.hierarchies = hierarchies
        self.spawner = spawner
        self.descriptors = len(descriptors())

    async def run(self, job: Job, on_running: Callable[[], None] = lambda: None) -> JobStatus:
        if self.hierarchies.tracking is None:
            job.limits = None  # the registry would have refused them
        await job.run(self.hierarchies, self.spawner, on_running)
        return job.status()

    def directories(self) -> list[Path]:
        return directories(self.hierarchies)

    async def assert_clean(self) -> None:
        """Nothing is left, once the spawner has come to the end of what it was asked for."""
        with open(os.devnull, "wb") as null:  # noqa: PTH123, ASYNC230  # it does not block
            spec = ProcessSpec((b"/bin/true",), {}, b"/", merge=True)
            child = await self.spawner.spawn("last", spec, [null.fileno()])
        await child.wait()
        eventually(lambda: children(self.spawner.pid) == [], "no process left")
        assert self.directories() == []
        # A thread that an earlier test has left behind may have one open for a moment.
        eventually(lambda: len(descriptors()) == self.descriptors, "the descriptors of before, and no more")
        assert self.spawner._children == {}


@pytest.fixture
async def host(hierarchies: Hierarchies, spawner: Spawner) -> Host:
    return Host(hierarchies, spawner)


def printed(job: Job) -> dict[int, bytes]:
    found = {STDOUT: b"", STDERR: b""}
    for chunk in in_memory(job.output):
        found[chunk.stream] += chunk.data
    return found


async def says(job: Job, word: bytes) -> None:
    """Wait until a job has printed something."""
    await trio.lowlevel.checkpoint()
    with job.output.subscribe() as doorbell:
        while word not in printed(job)[STDOUT]:
            await doorbell.receive()


# --- the timeline


async def test_the_timeline(host: Host, log: KeptLog) -> None:
    job = make(log, "echo out; echo err >&2; exit 3", limits=Limits(pids=20))
    seen: list[tuple[JobStatus, bool, int]] = []

    def look() -> None:
        seen.append((job.status(), job.output.closed, len(host.directories())))

    async def look_at_the_end() -> None:
        await job.ended.wait()
        look()

    before = job.status()
    assert (before.status, before.pid, before.cause) == (Status.RUNNING, 0, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_at_the_end)
        await host.run(job, look)
    (running, open_then, some), (ended, closed, none) = seen
    assert (running.status, running.exit_code, running.cause, running.ended) == (
        Status.RUNNING,
        None,
        None,
        None,
    )
    assert running.pid > 1
    assert running.started > 0
    assert (open_then, some) == (False, len(host.hierarchies.bases))
    assert (ended.status, ended.exit_code, ended.signal, ended.output) == (Status.EXITED, 3, None, 8)
    assert ended.cause == Cause(CauseKind.EXITED)
    assert ended.ended is not None
    assert ended.ended >= running.started
    assert ended.usage is not None
    assert (ended.pid, ended.limits) == (running.pid, job.limits)
    assert (closed, none) == (True, 0)  # the end is told once nothing is left
    assert printed(job) == {STDOUT: b"out\n", STDERR: b"err\n"}
    await host.assert_clean()
    assert log.messages == []


async def test_what_is_left_of_a_job_ends_with_it(host: Host, log: KeptLog) -> None:
    job = make(log, UNTIDY)
    ended = await host.run(job)
    assert ended.exit_code == 0
    assert printed(job) == {STDOUT: b"out\n", STDERR: b"err\n"}
    await host.assert_clean()


@pytest.mark.parametrize(
    ("argv", "limits", "error"),
    [
        (b"/no/such/program", None, SpawnError),
        (b"/no/such/program", Limits(pids=5), SpawnError),
    ],
)
async def test_a_start_that_fails_raises_bare_and_leaves_nothing(
    host: Host, log: KeptLog, argv: bytes, limits: Limits | None, error: type[Exception]
) -> None:
    await check_fails(host, log, argv, limits, error)


async def test_a_value_that_the_kernel_refuses_leaves_nothing(
    cgrouped: Hierarchies, host: Host, log: KeptLog
) -> None:
    assert cgrouped.tracking is not None
    await check_fails(host, log, b"/bin/true", Limits(pids=-5), LimitRefusedError)


async def check_fails(
    host: Host, log: KeptLog, argv: bytes, limits: Limits | None, error: type[Exception]
) -> None:
    job = Job("job", ProcessSpec((argv,), {}, b"/", merge=False), "alice", limits, None, 1, log)
    with pytest.raises(error):
        await host.run(job, lambda: pytest.fail("it does not run"))
    assert (job.ended.is_set(), job.output.closed) == (False, False)
    await host.assert_clean()


async def test_a_taken_name_raises_bare_and_leaves_the_other_alone(
    cgrouped: Hierarchies, host: Host, log: KeptLog
) -> None:
    job = make(log, "true")
    other = JobCgroup(cgrouped, job.id, Limits())
    with pytest.raises(FileExistsError):
        await host.run(job)
    assert other.path.is_dir()
    await other.remove()
    await host.assert_clean()


# --- stop


@pytest.mark.parametrize("grace", [0, 600])
async def test_a_stop_ends_every_process_and_returns_then(host: Host, log: KeptLog, grace: float) -> None:
    job = make(log, UNTIDY + "\necho ready; sleep 600")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, job)
        await says(job, b"ready")
        assert job._processes is not None
        while len(job._processes.pids()) < 5:  # noqa: ASYNC110  # one that is being forked may miss TERM
            await trio.sleep(0.001)
        await job.stop(ALICE, grace)
        assert host.directories() == []
        assert job.cause == ALICE
        assert job.status().signal in ((signal.SIGTERM,) if grace else (signal.SIGTERM, signal.SIGKILL))
        await job.stop(BOB, 0)  # the first cause stays
        assert job.cause == ALICE
    await host.assert_clean()


async def test_concurrent_stops_take_the_first_cause_and_the_shortest_grace(host: Host, log: KeptLog) -> None:
    job = make(log, "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, job)
        await says(job, b"ready")
        nursery.start_soon(job.stop, ALICE, 600)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not job.ended.is_set()
        for grace in (500, 0.01, 400):
            nursery.start_soon(job.stop, BOB, grace)
    assert (job.cause, job.status().signal) == (ALICE, signal.SIGKILL)
    await host.assert_clean()


async def test_a_stop_after_the_end_changes_nothing(host: Host, log: KeptLog) -> None:
    job = make(log, "exit 5")
    ended = await host.run(job)
    await job.stop(ALICE, 0)
    assert job.status() == ended
    assert ended.cause == Cause(CauseKind.EXITED)


async def test_what_is_printed_while_it_is_stopped_is_kept(host: Host, log: KeptLog) -> None:
    job = make(log, "trap 'head -c 300000 /dev/zero; exit 7' TERM; echo ready; while :; do sleep 0.01; done")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, job)
        await says(job, b"ready")
        await job.stop(ALICE, 600)
    assert (job.status().exit_code, len(printed(job)[STDOUT])) == (7, 6 + 300_000)


async def test_a_timeout_is_a_stop_with_its_own_cause(host: Host, log: KeptLog) -> None:
    ended = await host.run(make(log, "sleep 600", timeout=0.02))
    assert ended.cause == Cause(CauseKind.TIMEOUT, detail="it ran longer than 0.02 s")
    ended = await host.run(make(log, "exit 1", timeout=600))
    assert ended.cause == Cause(CauseKind.EXITED)
    await host.assert_clean()


# --- bounds


async def test_a_stranger_that_holds_the_pipe_holds_up_nothing(
    host: Host, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "DRAIN_DEADLINE", 0.03)
    job = make(log, "echo ready; sleep 600")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, job)
        await says(job, b"ready")
        pipe = os.open(f"/proc/{job.pid}/fd/1", os.O_WRONLY)
        with trio.fail_after(PATIENCE / 6):
            await job.stop(ALICE, 0)
        os.close(pipe)
    assert job.output.closed
    assert log.messages == ["output was cut: a process outside the job holds its pipe"]
    await host.assert_clean()


async def test_a_silent_spawner_holds_up_no_end(
    host: Host, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "REPORT_DEADLINE", 0.03)
    job = make(log, "echo ready; sleep 600")
    with trio.fail_after(PATIENCE / 6):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.run, job)
            await says(job, b"ready")
            os.kill(host.spawner.pid, signal.SIGSTOP)
            nursery.cancel_scope.cancel()
    os.kill(host.spawner.pid, signal.SIGCONT)
    assert job.cause is not None
    assert (job.cause.kind, job.ended.is_set()) == (CauseKind.LOST, True)
    await host.assert_clean()


async def test_a_lost_spawner_ends_the_job_and_its_processes(host: Host, log: KeptLog) -> None:
    job = make(log, UNTIDY + "\necho ready; sleep 600")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, job)
        await says(job, b"ready")
        os.kill(host.spawner.pid, signal.SIGKILL)
    assert job.cause is not None
    assert (job.status().status, job.cause.kind) == (Status.SIGNALED, CauseKind.LOST)
    assert not alive(job.pid)
    await host.assert_clean()


async def test_a_cgroup_that_will_not_go_is_logged_and_the_end_told(
    host: Host, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = ProcessTree if host.hierarchies.tracking is None else JobCgroup
    real = cast("Callable[[object], Awaitable[bool]]", kind.remove)

    async def remove(self: object) -> bool:
        await real(self)
        return False

    monkeypatch.setattr(kind, "remove", remove)
    job = make(log, "true")
    ended = await host.run(job)
    assert ended.exit_code == 0
    (line,) = log.lines
    assert (line["message"], line["job"]) == (
        "a job's processes or cgroup could not be removed",
        job.id,
    )


# --- cancelled anywhere


async def test_a_job_cancelled_at_any_step_leaves_nothing(host: Host, log: KeptLog) -> None:  # noqa: ASYNC910
    """The k-th step of any task, for every k up to the job's own end."""
    for k in itertools.count(1):
        job = make(log, "echo out; sleep 600 & exit 0", limits=Limits(pids=20))
        ran: list[int] = []
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, k)
            trio.lowlevel.add_instrument(instrument)
            try:
                with trio.fail_after(PATIENCE / 4):
                    await host.run(job, partial(ran.append, 1))
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if ran:
            assert (job.ended.is_set(), job.output.closed) == (True, True)
            assert job.cause is not None
        else:
            assert not job.ended.is_set()
        assert host.directories() == []
        await host.assert_clean()
        if instrument.left > 0:
            break
    assert k > 15
    assert log.messages == []


async def test_a_stop_cancelled_at_any_step_leaves_nothing(host: Host, log: KeptLog) -> None:  # noqa: ASYNC910
    """Likewise, with a stop in the middle of its grace."""
    for k in itertools.count(1):
        job = make(log, "trap '' TERM; echo ready; sleep 600 & while :; do sleep 0.01; done")
        async with trio.open_nursery() as nursery:
            instrument = CancelAt(nursery.cancel_scope, k)

            async def stop(job: Job = job, instrument: CancelAt = instrument) -> None:
                await says(job, b"ready")
                trio.lowlevel.add_instrument(instrument)
                await job.stop(ALICE, 0.002)

            try:
                with trio.fail_after(PATIENCE / 4):
                    async with trio.open_nursery() as both:
                        both.start_soon(stop)
                        both.start_soon(host.run, job)
            finally:
                with suppress(KeyError):  # it was cancelled before
                    trio.lowlevel.remove_instrument(instrument)
        assert (job.ended.is_set(), job.output.closed) == (True, True)
        await host.assert_clean()
        if instrument.left > 0:
            assert job.cause == ALICE
            break
    assert k > 5


@pytest.mark.parametrize("pause", range(6))
async def test_a_busy_job_cancelled_at_any_time_leaves_nothing(host: Host, log: KeptLog, pause: int) -> None:
    job = make(log, "yes & yes >&2 & wait")
    with trio.move_on_after(pause * 0.002) as scope:
        await host.run(job)
    assert scope.cancelled_caught
    await host.assert_clean()
    assert job.ended.is_set() == job.output.closed
    assert log.messages == []
