"""Owns one job's scope: its process, its cgroup, its pumps and its stop, from start to final status.

Theory of operation. `run` is one task in the server's jobs nursery. It holds the cgroup for as long as
the job lives, starts the process through the spawner, and pumps its pipes into the log. When the main
process ends, what is left in the cgroup is killed; a stop in progress first lets the others use up
their grace. The pumps outlive the processes: they end at end-of-file, which the death of the last
writer brings, or after DRAIN_DEADLINE if a descriptor was handed to a stranger. Only then is the
cgroup removed and the final status published. Cancelling `run` (a hard end of the server) kills the
job and goes the same way, with every wait bounded.
"""

import dataclasses
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import trio

from wire.jobs import WAITS, Cause, CauseKind, JobStatus, Status, Usage
from wire.limits import Limits
from wire.messages import STDERR, STDOUT

from .ceilings import notes
from .cgroup import JobCgroup
from .child import Child, ProcessSpec
from .gradual import GradualEvent
from .hierarchy import Hierarchies
from .log import Log
from .output import OutputLog
from .process_tree import ProcessTree
from .shown import shorten
from .spawner import Spawner
from .state import Exit, cause_of, with_process

#: Longest wait for end-of-file on the pipes once every process is dead, in seconds.
DRAIN_DEADLINE = 5.0
#: The most that is taken of a pipe after every process is dead, in bytes: more than it can hold.
DRAIN_BYTES = 2 * 1024 * 1024
#: Longest wait for the spawner to report the end of a process that was killed, in seconds.
REPORT_DEADLINE = 5.0
#: Pause before those are killed whom the kill before has missed, in seconds.
KILL_PAUSE = 0.005
#: Bytes a pipe holds, so that a job seldom waits for us (fcntl(2), F_SETPIPE_SZ).
PIPE_BYTES = 1024 * 1024
READ_BYTES = 256 * 1024
#: Turns that a job which prints flat out leaves to others between two reads. To send what it printed takes
#: about so many; if it were read faster than that, its followers would have to fetch it from the disk.
TURNS = 8
#: Processes that were killed may be frozen if they have not gone after so long, and are told as stuck after
#: so long; then they are killed again and again, so often. All in seconds.
THAW_SECONDS, STUCK_SECONDS, STUCK_PAUSE = 0.2, 10.0, 1.0
STUCK = "The job's processes were killed, and do not end, as the kernel holds them; it is tried again."
_WAITING = f"{WAITS}: the server's room for output is used up (`remove` frees some)."


class StuckError(Exception):
    """A job's processes were killed, and do not end."""


@dataclass(slots=True)
class Job:
    """One job; `pid` is there once its program runs, `end` and `cause` once `ended` is set.

    Args:
        id: a UUID as text.
        spec: what to run.
        owner: the identity that started it.
        limits: ceilings, checked as enforceable; None for none.
        timeout: seconds after which it is stopped; None for never.
        grace: seconds between TERM and KILL when it is stopped for its timeout.
        log: the server's log.
        output: where its output goes.
        number: its place among the server's jobs.
        user: the name of the user that it runs as.
    """

    id: str
    spec: ProcessSpec
    owner: str
    limits: Limits | None
    timeout: float | None
    grace: float
    log: Log
    output: OutputLog = field(default_factory=OutputLog)
    number: int = 0
    user: str | None = None
    pid: int = 0
    started_at: float = 0.0
    ended_at: float | None = None
    end: Exit | None = None
    cause: Cause | None = None
    ended: GradualEvent = field(default_factory=GradualEvent)
    _processes: JobCgroup | ProcessTree | None = None
    _usage: Usage | None = None
    _shortened: tuple[str, ...] = ()
    _stop_cause: Cause | None = None
    _stop_asked: trio.Event = field(default_factory=trio.Event)
    _stop_done: trio.Event = field(default_factory=trio.Event)
    _grace: trio.CancelScope = field(default_factory=trio.CancelScope)
    _life: trio.CancelScope = field(default_factory=trio.CancelScope)
    #: It has ended, or it was found that it does not.
    _settled: GradualEvent = field(default_factory=GradualEvent)

    def status(self) -> JobStatus:
        """What is known of the job now."""
        end = self.end
        return JobStatus(
            id=self.id,
            status=Status.RUNNING if end is None else end.status,
            pid=self.pid,
            argv=self.spec.argv,
            owner=self.owner,
            started=self.started_at,
            output=self.output.size,
            exit_code=end.code if end else None,
            signal=end.signal if end else None,
            cause=self.cause if end else None,
            ended=self.ended_at,
            cwd=self.spec.cwd,
            limits=self.limits,
            usage=self._usage,
            notes=(notes(self.limits) if self.limits else ()) + self._shortened + self._now(),
            dropped=self.output.overflowed or None,
            user=self.user,
        )

    def _now(self) -> tuple[str, ...]:
        stuck = self._settled.is_set() and not self.ended.is_set()
        return (STUCK,) * stuck + (_WAITING,) * self.output.waiting

    def measured(self) -> JobStatus:
        """What is known of the job now, with what it has used so far."""
        return dataclasses.replace(self.status(), usage=self._measure())

    def _measure(self) -> Usage | None:
        return self._processes.usage() if self._processes is not None else self._usage

    async def stop(self, cause: Cause, grace: float) -> None:
        """Send TERM, wait for the grace, kill; return when nothing is left and the status is final.

        Calling it again, or on an ended job, is harmless: the first cause stays, and the shortest
        grace of all calls counts.

        Raises:
            StuckError: its processes were killed, and do not end; the job still runs.
        """
        self._ask_stop(cause, grace)
        await self._settled.wait()
        if not self.ended.is_set():
            raise StuckError(STUCK)

    def abandon(self) -> None:
        """Wait no longer for processes that do not end; what is left is for the next server to remove."""
        self._life.cancel()

    def _ask_stop(self, cause: Cause, grace: float) -> None:
        if self._stop_cause is None:
            self._stop_cause = cause
        self._grace.deadline = min(self._grace.deadline, trio.current_time() + grace)
        self._stop_asked.set()

    async def run(self, hierarchies: Hierarchies, spawner: Spawner, on_running: Callable[[], None]) -> None:
        """Run the job from start to final status.

        Args:
            hierarchies: the server's cgroups.
            spawner: who starts the process.
            on_running: called once the job's program runs.

        Raises:
            SpawnError, LimitRefusedError, OSError: it could not be started, and nothing of it is left.
        """
        with self._life:
            await self._run(hierarchies, spawner, on_running)

    async def _run(self, hierarchies: Hierarchies, spawner: Spawner, on_running: Callable[[], None]) -> None:
        if hierarchies.tracking is None:
            processes: JobCgroup | ProcessTree = ProcessTree()
        else:
            processes = JobCgroup(hierarchies, self.id, self.limits or Limits())
        child = None
        try:
            child, streams = await self._start(processes, spawner)
            processes.adopt(child.keeper)
            self.pid, self.started_at = child.pid, time.time()
            # What a job weighs is its command and environment, and only the process needs all of them.
            argv, self._shortened = shorten(self.spec.argv)
            self.spec = dataclasses.replace(self.spec, argv=argv, env={})
            self._processes = processes
            on_running()
            drain = trio.CancelScope(shield=True)
            killed = trio.Event()
            waiting = [trio.CancelScope() for _ in streams]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, streams, drain, processes, killed, waiting)
                try:
                    await self._live(processes, child)
                finally:
                    drain.deadline = trio.current_time() + DRAIN_DEADLINE
                    await processes.kill()  # noqa: ASYNC102  # it is shielded and bounded
                    killed.set()
                    for scope in waiting:
                        scope.cancel()  # what the pipes hold is little, and kept whether there is room or not
        finally:
            await self._conclude(processes, child)  # noqa: ASYNC102  # each wait is shielded and bounded

    async def _start(
        self, processes: JobCgroup | ProcessTree, spawner: Spawner
    ) -> tuple[Child, list[trio.lowlevel.FdStream]]:
        with ExitStack() as on_failure, ExitStack() as always:
            streams, writes = [], []
            for _ in range(1 if self.spec.merge else 2):
                read, write = os.pipe2(os.O_CLOEXEC)
                always.callback(os.close, write)
                streams.append(trio.lowlevel.FdStream(read))
                on_failure.callback(streams[-1].close)
                _enlarge(read)
                writes.append(write)
            directories = always.enter_context(processes.open_directories())
            child = await spawner.spawn(
                self.id, self.spec, [*writes, *directories], keep=processes.kept, source=self.owner
            )
            on_failure.pop_all()
        return child, streams

    async def _drain(
        self,
        streams: list[trio.lowlevel.FdStream],
        drain: trio.CancelScope,
        processes: JobCgroup | ProcessTree,
        killed: trio.Event,
        waiting: list[trio.CancelScope],
    ) -> None:
        # Shielded from the job's own cancellation, so that what it says while it dies is kept, and it
        # does not block on a full pipe then. `run` sets the deadline.
        with ExitStack() as stack, drain:
            for stream in streams:
                stack.callback(stream.close)
            async with trio.open_nursery() as killing:
                killing.start_soon(self._kill_rest, processes, killed)
                async with trio.open_nursery() as nursery:
                    for stream, number, scope in zip(streams, (STDOUT, STDERR), waiting, strict=False):
                        nursery.start_soon(self._pump, stream, number, scope, processes)
                killing.cancel_scope.cancel()
        if drain.cancelled_caught:
            self.log.warning("output was cut: a process outside the job holds its pipe", job=self.id)

    async def _kill_rest(self, processes: JobCgroup | ProcessTree, killed: trio.Event) -> None:
        """Kill who was missed: only cgroup.kill takes those too that are being forked meanwhile."""
        await killed.wait()
        while not await processes.is_empty():
            await processes.kill()
            await trio.sleep(KILL_PAUSE)

    async def _pump(
        self,
        stream: trio.lowlevel.FdStream,
        number: int,
        waiting: trio.CancelScope,
        processes: JobCgroup | ProcessTree,
    ) -> None:
        with waiting:
            while data := await stream.receive_some(READ_BYTES):
                self.output.append(number, data)
                await self.output.make_room()
                if len(data) == READ_BYTES:
                    await _give_way()
            return
        left = DRAIN_BYTES
        while data := await stream.receive_some(READ_BYTES):
            self.output.append(number, data)
            if await processes.is_empty():
                left -= len(data)
                if left <= 0:  # no pipe holds so much: a stranger writes into it
                    self.log.warning("output was cut: a process outside the job writes to it", job=self.id)
                    return

    async def _live(self, processes: JobCgroup | ProcessTree, child: Child) -> None:
        """Return once the main process has ended and, after a stop, the others or their grace too."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stopper, processes, child)
            nursery.start_soon(self._watch, processes)
            nursery.start_soon(processes.finish_kills, processes.kill)
            if self.timeout is not None:
                nursery.start_soon(self._timer, self.timeout)
            await child.wait()
            if self._stop_asked.is_set():
                await self._stop_done.wait()
            nursery.cancel_scope.cancel()

    async def _watch(self, processes: JobCgroup | ProcessTree) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await processes.watch(processes.kill)
        except* OSError as errors:
            reason = str(errors.exceptions[0])
            self.log.warning("nobody watches a job's memory but the kernel", job=self.id, reason=reason)

    async def _timer(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self._ask_stop(Cause(CauseKind.TIMEOUT, detail=f"it ran longer than {seconds:g} s"), self.grace)

    async def _stopper(self, processes: JobCgroup | ProcessTree, child: Child) -> None:
        await self._stop_asked.wait()
        if not child.ended.is_set():
            self.cause = self._stop_cause
            await processes.signal(signal.SIGTERM)
            await processes.signal(signal.SIGCONT)  # a stopped process hears TERM only once it goes on
            with self._grace:
                await processes.wait_empty()
            await processes.kill()
            await self._insist(processes)
        self._stop_done.set()

    async def _insist(self, processes: JobCgroup | ProcessTree) -> None:
        """Return once those that were killed are gone; tell if they do not go."""
        deadline = trio.current_time() + STUCK_SECONDS
        while True:
            with trio.move_on_after(THAW_SECONDS):
                await processes.wait_empty()
                return
            if await processes.is_empty():  # to look at thousands of cgroups may have taken longer
                return
            await processes.thaw()
            await processes.kill()
            if trio.current_time() > deadline:
                self._tell_stuck()

    def _tell_stuck(self) -> None:
        if not self._settled.is_set():
            self.log.error("a job's processes were killed and do not end", job=self.id)
            self._settled.set()

    @contextmanager
    def _accounting(self) -> Iterator[None]:
        """What a kernel's counters hold may be news to us; that must not keep a job from its end."""
        try:
            yield
        except Exception:  # it is told, and what comes next goes on
            self.log.exception("what a job used could not be read", job=self.id)

    async def _conclude(self, processes: JobCgroup | ProcessTree, child: Child | None) -> None:
        """Remove the cgroup, and publish the final status of a job that had begun. Bounded."""
        end = Exit.by_loss()
        out_of_memory = None
        try:
            if child is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + REPORT_DEADLINE):
                    end = await child.wait()
            with self._accounting():
                out_of_memory = processes.out_of_memory()
                self._usage = with_process(processes.usage(), end.usage)
            self._processes = None
            while not await processes.remove():
                with trio.CancelScope(shield=True):
                    gone = await processes.is_empty()
                if gone:
                    self.log.error("a job's processes or cgroup could not be removed", job=self.id)
                    break
                self._tell_stuck()
                await trio.sleep(STUCK_PAUSE)
        finally:
            self._processes = None
            if child is not None:
                self.cause = cause_of(end, stopped=self.cause, out_of_memory=out_of_memory)
                # The clock may have been set back meanwhile.
                self.ended_at, self.end = max(self.started_at, time.time()), end
                self.output.close()
                self.ended.set()
                self._settled.set()


async def _give_way() -> None:  # noqa: ASYNC910  # TURNS is not 0
    for _ in range(TURNS):
        await trio.lowlevel.checkpoint()


def _enlarge(fd: int) -> None:
    with suppress(PermissionError):  # past the user's share of pipe memory; the default size does
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
