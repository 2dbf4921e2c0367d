"""Owns the jobs of this server: starts them in the jobs nursery, keeps and forgets them, stops them all."""

import os
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field

import trio

from wire.errors import ErrorCode, RequestError
from wire.jobs import Cause
from wire.limits import Limits

from .audit import NO_TRAIL, Event, Outcome, Trail
from .bounds import DEFAULTS, Bounds
from .catalog import Catalog
from .ceilings import LimitRefusedError, check_enforceable
from .child import ProcessSpec, SpawnError
from .descriptors import JobFiles
from .failures import explain_start
from .hierarchy import Hierarchies
from .job import Job, StuckError
from .log import Log
from .output import OutputLog
from .repeats import ID_LENGTH, Claim, Repeats
from .retain import FOREVER, Retention
from .spawner import Spawner
from .start_room import StartRoom, weight_of
from .store import OutputStore
from .users import Users


@dataclass(slots=True, eq=False)
class _Attempt:
    """A start under way.

    ``claim`` is that of its job's id; ``files`` how many files are set aside for its job, to that job's end;
    ``weight`` what it holds until it is settled; ``scope`` is its job's.
    """

    claim: Claim
    files: int
    weight: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Registry:
    """The jobs, from their start to the time that they are forgotten.

    Args:
        nursery: the jobs nursery, in which every job's scope lives.
        hierarchies: the server's cgroups.
        spawner: the link to the spawner.
        log: the server's log.
        grace: seconds between TERM and KILL where a request names none.
        store: where output is kept; None for no bound.
        retention: how long ended jobs are kept.
        bounds: what clients may cost.
        trail: the server's audit trail.
        users: who jobs may run as.
        files: how many files jobs may have the server open; None for no bound.
        directory: where jobs work whose request names no directory.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        hierarchies: Hierarchies,
        spawner: Spawner,
        log: Log,
        grace: float,
        store: OutputStore | None = None,
        retention: Retention = FOREVER,
        bounds: Bounds = DEFAULTS,
        trail: Trail = NO_TRAIL,
        users: Users | None = None,
        files: JobFiles | None = None,
        directory: bytes = b"/",
    ) -> None:
        #: Names this life of the server, to which its jobs belong: another one after each start.
        self.instance = str(uuid.uuid4())
        self.bounds = bounds
        self.directory = directory
        self.users = users or Users()
        self._files = files or JobFiles()
        self._room = StartRoom()
        self._trail = trail
        self._store = store
        self._retention = retention
        #: When each ended job that is kept has ended, by Trio's clock, the oldest first.
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._one_ended = trio.Event()
        self.grace = grace
        self._nursery = nursery
        self._hierarchies = hierarchies
        self._spawner = spawner
        self._log = log
        #: Every job since the server's start, but for those that were forgotten.
        self.jobs = Catalog(self.instance)
        #: Which starts may be asked for again.
        self.repeats = Repeats(self.jobs, self._room)
        self._unfinished = 0  # jobs that run or are being started
        self._starting: set[trio.CancelScope] = set()
        self._closing = False

    async def start(
        self,
        spec: ProcessSpec,
        *,
        owner: str,
        limits: Limits | None,
        seconds: float | None,
        trail: Trail = NO_TRAIL,
        claim: Claim | None = None,
    ) -> Job:
        """Start a job and return it once its program runs.

        It is stopped after ``seconds``, if given. Its id is that of the ``claim``, or one of ours.
        A start goes on if its caller is cancelled: the job then runs, and `list` shows it. What becomes of it
        is recorded on ``trail``, the audit trail of the request.

        Raises:
            RequestError: it could not be started, and nothing of it is left.
        """
        if self._closing:
            raise _closing()
        if self._unfinished >= self.bounds.max_jobs:
            raise RequestError(
                ErrorCode.BUSY,
                f"{self._unfinished} jobs run, and the server takes no more at once: wait for one to end, "
                "or have it run with a larger --max-jobs.",
            )
        if limits is not None:
            try:
                check_enforceable(self._hierarchies, limits)
            except (LimitRefusedError, OSError) as error:
                raise explain_start(spec, error) from error
        output = OutputLog(self._store)
        user = spec.user.name if spec.user is not None else self.users.own
        claim = claim or Claim()
        job = Job(claim.id, spec, owner, limits, seconds, self.grace, self._log, output, user=user)
        weight = weight_of(spec.argv, spec.env)
        self._room.check(owner, weight)
        attempt = _Attempt(claim, self._files.take(limits), weight)
        self._room.take(owner, weight)
        self._starting.add(attempt.scope)
        self._unfinished += 1
        # From here on it is the job that tells what becomes of it, also if nobody waits for it any more.
        self._nursery.start_soon(self._run, job, attempt, trail.hand_over(), name=f"job {job.id}")
        claim.begun = True
        await claim.settled.wait()
        if claim.failure is not None:
            raise claim.failure
        return job

    async def find(self, id_or_prefix: str) -> Job:
        """Return the job with this id, also one that is being started, or the only one whose id begins so.

        Raises:
            RequestError: there is none, or more than one.
        """
        if len(id_or_prefix) == ID_LENGTH and id_or_prefix not in self.jobs:
            await self.repeats.wait_settled(id_or_prefix)
        return self.jobs.find(id_or_prefix)  # noqa: ASYNC910  # no round of the loop for one that is there

    def remove(self, id_or_prefix: str) -> Job:
        """Forget a job that has ended, and its output; return it.

        Raises:
            RequestError: there is none, or it runs.
        """
        job = self.jobs.find(id_or_prefix)
        if not job.ended.is_set():
            raise RequestError(
                ErrorCode.RUNNING, f"The job {job.id} still runs: stop it first, then remove it."
            )
        self._forget(job.id)
        return job

    async def expire(self) -> None:
        """Forget jobs when they have been kept long enough; run this for as long as there are any."""
        if self._retention.seconds is None:
            await trio.sleep_forever()
        while True:
            while not self._ended:
                await self._one_ended.wait()
            id_, ended = next(iter(self._ended.items()))
            await trio.sleep_until(ended + self._retention.seconds)
            if id_ in self._ended:
                self._expire(id_)

    def _forget(self, id_: str) -> None:
        self._ended.pop(id_, None)
        self.jobs.forget(id_).output.remove()
        self.repeats.forget(id_)

    def _expire(self, id_: str) -> None:
        self._forget(id_)
        self._trail.record(Event.JOB_REMOVED, Outcome.DONE, job=id_, by="server", cause="retention")

    def _keep(self, job: Job) -> None:
        """Take note of a job's end, and forget the oldest if there are too many."""
        if job.id in self.jobs:
            self._ended[job.id] = trio.current_time()
            self._one_ended.set()
            self._one_ended = trio.Event()
            if self._retention.count is not None and len(self._ended) > self._retention.count:
                self._expire(next(iter(self._ended)))

    async def stop_all(self, cause: Cause, grace: float) -> None:
        """Stop every job, accept no more, and return when all have ended."""
        self._closing = True
        for scope in self._starting:
            scope.cancel()
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            for job in self.jobs:
                if job.ended.is_set():
                    continue
                self._trail.record(
                    Event.JOB_STOPPING,
                    Outcome.DONE,
                    job=job.id,
                    grace=grace,
                    by=cause.by,
                    cause=cause.detail,
                )
                nursery.start_soon(_stop_for_good, job, cause, grace)
                await trio.lowlevel.checkpoint()  # a thousand at once would hold up everybody else

    async def _run(self, job: Job, attempt: _Attempt, trail: Trail) -> None:  # noqa: ASYNC910  # a task, not called
        def on_running() -> None:
            self._starting.discard(attempt.scope)
            self._files.end_start(attempt)
            self.jobs.add(job)
            attempt.claim.failure = None
            self._settle(job, attempt)
            trail.record(Event.JOB_STARTED, Outcome.DONE, job=job.id, pid=job.pid)
            self._log.info(
                "job started", job=job.id, pid=job.pid, owner=job.owner, program=os.fsdecode(job.spec.argv[0])
            )

        try:
            with attempt.scope:
                attempt.claim.failure = _closing()  # unless it gets further
                await self._files.begin_start(attempt, job.owner)
                await job.run(self._hierarchies, self._spawner, on_running)
        except (SpawnError, LimitRefusedError, OSError) as error:
            attempt.claim.failure = explain_start(job.spec, error)
        except Exception:  # noqa: BLE001  # one job's scope must never end the server
            self._log.exception("a job's scope failed", job=job.id)
            attempt.claim.failure = RequestError(
                ErrorCode.INTERNAL, "The server failed to run the job; see its log."
            )
        finally:
            self._starting.discard(attempt.scope)
            self._unfinished -= 1
            self._files.end_start(attempt)
            self._files.give_back(attempt.files)
            self._settle(job, attempt)
            if attempt.claim.failure is not None and not job.number:
                trail.failed(attempt.claim.failure)
            if job.end is not None and job.cause is not None:
                trail.ended(job.id, job.end, job.cause)
        self._keep(job)
        if job.end is not None and job.cause is not None:
            self._log.info(
                "job ended",
                job=job.id,
                status=job.end.status,
                code=job.end.code,
                signal=job.end.signal,
                cause=job.cause.kind,
            )

    def _settle(self, job: Job, attempt: _Attempt) -> None:
        if not attempt.claim.settled.is_set():
            self.repeats.settle(attempt.claim)
            self._room.give_back(job.owner, attempt.weight)


def _closing() -> RequestError:
    return RequestError(ErrorCode.SHUTTING_DOWN, "The server is shutting down and starts no more jobs.")


async def _stop_for_good(job: Job, cause: Cause, grace: float) -> None:
    try:
        await job.stop(cause, grace)
    except StuckError:
        job.abandon()
        await job.ended.wait()
