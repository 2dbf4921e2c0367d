"""Owns fakes of what a method is given: jobs, their registry, and a call whose credit the test grants."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import trio
import trio.testing

from certs.roles import Identity, Role
from wire.errors import ErrorCode, RequestError
from wire.jobs import Cause, JobStatus, Status, Usage
from wire.limits import Limits
from wire.messages import STDERR, STDOUT, Request
from worker.audit import NO_TRAIL, Trail
from worker.blocks import Chunk
from worker.bounds import Bounds
from worker.catalog import Catalog
from worker.child import ProcessSpec
from worker.methods import prepare
from worker.output import Missing, OutputLog
from worker.registry import Registry
from worker.repeats import Claim, Repeats
from worker.start_room import StartRoom
from worker.users import Users

USED = Usage(1.0, 0.5, memory=2**20)
#: What an ended job has printed.
LINES = ((STDOUT, b"one\ntwo\n"), (STDERR, b"oops\n"), (STDOUT, b"three\nfour"))


@dataclass
class FakeJob:
    """As much of a job as methods look at."""

    id: str
    argv: tuple[bytes, ...] = (b"true",)
    cwd: bytes | None = b"/"
    owner: str = "alice"
    output: OutputLog = field(default_factory=OutputLog)
    ended: trio.Event = field(default_factory=trio.Event)
    stops: list[tuple[Cause, float]] = field(default_factory=list)
    number: int = 0

    def status(self) -> JobStatus:
        return JobStatus(
            self.id, Status.RUNNING, 1, self.argv, self.owner, 0.0, self.output.size, cwd=self.cwd
        )

    def measured(self) -> JobStatus:
        return replace(self.status(), usage=USED)

    async def stop(self, cause: Cause, grace: float) -> None:
        await trio.lowlevel.checkpoint()
        self.stops.append((cause, grace))


class FakeCatalog(dict[str, FakeJob]):
    """Fake jobs by their ids."""

    def cursor(self, job: FakeJob) -> str:
        return str(job.number)

    def after(self, cursor: str | None) -> Iterator[FakeJob]:
        return (job for job in self.values() if cursor is None or job.number > int(cursor))


class FakeRegistry:
    """A registry of fake jobs that starts none."""

    grace = 10.0
    bounds = Bounds()
    directory = b"/srv"

    def __init__(self, *jobs: FakeJob) -> None:
        self.jobs = FakeCatalog((job.id, job) for job in jobs)
        self.repeats = Repeats(cast("Catalog", self.jobs), StartRoom())
        self.removed: list[str] = []
        self.users = Users("nobody")
        for number, job in enumerate(jobs, 1):
            job.number = number
        self.started: list[tuple[ProcessSpec, str, Limits | None, float | None]] = []

    async def find(self, name: str) -> FakeJob:
        await trio.lowlevel.checkpoint()
        try:
            return self.jobs[name]
        except KeyError:
            raise RequestError(ErrorCode.NOT_FOUND, "There is no such job.") from None

    def remove(self, name: str) -> FakeJob:
        self.removed.append(name)
        return self.jobs.pop(name)

    async def start(
        self,
        spec: ProcessSpec,
        *,
        owner: str,
        limits: Limits | None,
        seconds: float | None,
        trail: Trail,
        claim: Claim,
    ) -> FakeJob:
        await trio.lowlevel.checkpoint()
        self.started.append((spec, owner, limits, seconds))
        return FakeJob("new", spec.argv)


@dataclass
class FakeCall:
    """A call whose credit and output the test sees."""

    fake: FakeRegistry
    role: Role = Role.ADMIN
    available: int = 2**20
    stall: float = 30.0
    trail: Trail = NO_TRAIL
    features: frozenset[str] = frozenset()
    alone: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    has_room: bool = False
    granted: trio.Event = field(default_factory=trio.Event)
    chunks: list[Chunk] = field(default_factory=list)
    gaps: list[Missing] = field(default_factory=list)

    @property
    def identity(self) -> Identity:
        return Identity("bob", "01", self.role)

    @property
    def registry(self) -> Registry:
        return cast("Registry", self.fake)

    def credit(self) -> int:
        return self.available

    async def turn(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_credit(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.available:
            self.granted = trio.Event()
            await self.granted.wait()

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()
        self.has_room = True

    def grant(self, amount: int) -> None:
        self.available += amount
        self.granted.set()

    def output(self, chunk: Chunk | Missing) -> None:
        assert self.has_room
        self.has_room = False
        if isinstance(chunk, Missing):
            self.gaps.append(chunk)
            return
        assert len(chunk.data) <= self.available
        self.available -= len(chunk.data)
        self.chunks.append(chunk)


async def answer(call: FakeCall, name: str, **params: Any) -> Any:
    return (await prepare(call.role, Request(1, name, params))(call))()


def ended_job(*pieces: tuple[int, bytes]) -> FakeJob:
    job = FakeJob("a")
    for stream, data in pieces:
        job.output.append(stream, data)
    job.output.close()
    job.ended.set()
    return job
