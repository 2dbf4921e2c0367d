"""Owns random programs: several clients at work on one real server, checked against a model of it.

A seed decides what each client does and, by Trio's own random numbers, in which order tasks run. Server and
clients share one Trio run, so that the seed has a say over both; spawner, cgroups, jobs, TLS and the proxies
that cut connections are real, and have a timing of their own. So a seed that has failed is likely, not
certain, to fail again.
"""

import math
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from client.errors import CutError
from client.trio_client import Client, open_client
from tests.harness import PATIENCE, children
from tests.proxy import Proxy, proxy
from tests.race.footprint import Footprint, LeftError, assert_same, expect, until
from tests.race.signals import kept_signals
from tests.race.world import patched
from tests.worker.common import KeptLog
from wire.errors import ErrorCode, RequestError
from wire.jobs import CauseKind, JobStatus, Status
from wire.limits import Limits
from wire.messages import STDERR, STDOUT, Output
from worker.hierarchy import open_hierarchies
from worker.server import Config, Server
from worker.store import Budget

#: (identity, scheme) of each client.
CLIENTS = (("admin", ""), ("admin", "wss://"), ("user", "wss://"), ("user", ""), ("admin", ""))
STEPS = 14
#: Budgets of output, small enough for the larger jobs to spill.
MEMORY, JOB_MEMORY = 300_000, 200_000
#: No step and no program should take so long, in seconds.
STEP_SECONDS, PROGRAM_SECONDS = 3 * PATIENCE, 6 * PATIENCE


@dataclass(frozen=True)
class Kind:
    """A kind of job: its script, what it prints if nobody stops it, and its exit code; None for no end."""

    script: str
    out: bytes
    err: bytes = b""
    code: int | None = 0


def _numbers(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(1, count + 1))


KINDS = (
    Kind("exit 3", b"", code=3),
    Kind("printf x", b"x"),
    Kind("seq 2000; exit 7", _numbers(2000), code=7),
    Kind("seq 60000", _numbers(60_000)),
    Kind("seq 300; seq 200 >&2; seq 300", _numbers(300) * 2, _numbers(200)),
    Kind("seq 5000; sleep 600 & exit 1", _numbers(5000), code=1),
    Kind("seq 50; exec sleep 600", _numbers(50), code=None),
    Kind("trap '' TERM; seq 50; while :; do sleep 0.01; done", _numbers(50), code=None),
    Kind("for n in 1 2 3 4 5; do echo $n; sleep 0.02; done", _numbers(5)),
)


@dataclass(eq=False)
class Known:
    """What the model knows of a job. What was asked for may have happened; what was answered has."""

    kind: Kind
    id: str
    number: int
    stop_asked: bool = False
    stopped: bool = False
    remove_asked: bool = False
    removed: bool = False
    final: JobStatus | None = None


@dataclass
class Model:
    """Every job that a client knows to have started, in the order in which it heard of it."""

    jobs: list[Known] = field(default_factory=list)
    #: Programs of starts whose answer never came: they may run or not.
    unknown: set[bytes] = field(default_factory=set)
    spawner_killed: bool = False
    count: int = 0

    def saw(self, job: Known, before: Known, status: JobStatus) -> None:
        """Take a status that was asked for when the job was as ``before`` says."""
        expect(status.id == job.id, "the status of another job")
        ended = status.status is not Status.RUNNING
        if before.final is not None or before.stopped:
            expect(ended, f"an ended job runs again: {status}")
        if not ended:
            return
        if job.final is not None:
            expect(status == job.final, f"two ends of one job: {status}, {job.final}")
        job.final = status
        expect(status.cause is not None, "an end without a cause")
        assert status.cause is not None
        whole = len(job.kind.out) + len(job.kind.err)
        match status.cause.kind:
            case CauseKind.EXITED:
                expect(status.exit_code == job.kind.code, f"a wrong exit code: {status}")
                expect(status.output == whole, f"{status.output} bytes of output, not {whole}")
            case CauseKind.STOPPED:
                expect(job.stop_asked, f"nobody had stopped it: {status}")
            case CauseKind.LOST:
                expect(self.spawner_killed, f"it was lost without a cause: {status}")
            case _:
                raise LeftError(f"an end that cannot be: {status}")
        expect(status.output <= whole, f"{status.output} bytes of output, more than {whole}")


class Actor:
    """One client, and what it does at random.

    Args:
        name: its place among the clients.
        chance: its random numbers.
        model: what all of them know.
        client: its connection.
        proxy: what stands between.
        identity: who it is.
        server: kills its spawner.
    """

    def __init__(
        self,
        name: int,
        chance: random.Random,
        model: Model,
        client: Client,
        between: Proxy,
        identity: str,
        kill_spawner: Callable[[], None],
    ) -> None:
        self._name = name
        self._chance = chance
        self._model = model
        self._client = client
        self._proxy = between
        self._identity = identity
        self._kill_spawner = kill_spawner
        self._doing = ""

    async def run(self) -> None:
        await trio.lowlevel.checkpoint()
        steps = (
            (self.start, 6),
            (self.query, 3),
            (self.stream, 6),
            (self.stop, 3),
            (self.wait, 1),
            (self.list, 1),
            (self.remove, 2),
            (self.cut, 1),
            (self.reload, 1),
            (self.lose, 0.2),
        )
        methods, weights = zip(*steps, strict=True)
        for _ in range(STEPS):
            (step,) = self._chance.choices(methods, weights)
            # Some change their mind: what they asked for has then happened, or not.
            patience = self._chance.choice((math.inf, math.inf, math.inf, 0.0, 0.003, 0.02))
            with trio.move_on_after(STEP_SECONDS) as scope, trio.move_on_after(patience):
                await step()
            expect(not scope.cancelled_caught, f"a {step.__name__} does not end: {self._doing}")

    def _pick(self) -> Known | None:
        return self._chance.choice(self._model.jobs) if self._model.jobs else None

    async def _ask(self, job: Known, ask: Callable[[], Awaitable[JobStatus]]) -> bool:
        """Ask for a job's status; whether there was an answer, and the job is not gone."""
        await trio.lowlevel.checkpoint()
        before = Known(**vars(job))
        try:
            status = await ask()
        except RequestError as error:
            expect(error.code is ErrorCode.NOT_FOUND and job.remove_asked, f"{job}: {error}")
            return False
        expect(not before.removed, f"a removed job is there: {status}")
        self._model.saw(job, before, status)
        return True

    async def start(self) -> None:
        await trio.lowlevel.checkpoint()
        kind = self._chance.choice(KINDS)
        self._model.count += 1
        number = self._model.count
        program = [b"sh", b"-c", kind.script.encode(), b"%d" % number]
        self._model.unknown.add(program[3])
        try:
            job = await self._client.start(program, limits=Limits(pids=64))
        except RequestError as error:
            denied = error.code is ErrorCode.DENIED and self._identity == "user"
            expect(denied or self._lost(error), str(error))
            if error.code is ErrorCode.DENIED:
                self._model.unknown.discard(program[3])
            return
        except CutError:
            return
        expect(self._identity == "admin", "a user has started a job")
        expect(job.argv == tuple(program), f"another program was started: {job}")
        self._model.unknown.discard(program[3])
        self._model.jobs.append(Known(kind, job.id, number))

    def _lost(self, error: RequestError) -> bool:
        return self._model.spawner_killed and "spawner" in error.message

    async def query(self) -> None:
        await trio.lowlevel.checkpoint()
        if job := self._pick():
            await self._ask(job, lambda: self._client.query(job.id))

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        if (job := self._pick()) and (job.kind.code is not None or job.stopped):
            await self._ask(job, lambda: self._client.wait(job.id))
            expect(job.final is not None or job.remove_asked, "a wait came back before the end")

    async def stop(self) -> None:
        await trio.lowlevel.checkpoint()
        job = self._pick()
        if job is None or self._identity == "user":
            return
        job.stop_asked = True
        grace = self._chance.choice((0.0, 0.01, 0.1))
        if await self._ask(job, lambda: self._client.stop(job.id, grace=grace)):
            job.stopped = True
            expect(job.final is not None, "a stop came back before the end")

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()
        job = self._pick()
        if job is None or self._identity == "user" or job.final is None:
            return
        job.remove_asked = True
        before = Known(**vars(job))
        try:
            self._model.saw(job, before, await self._client.remove(job.id))
        except RequestError as error:  # also when it is asked again after a cut
            expect(error.code is ErrorCode.NOT_FOUND, f"{job}: {error}")
        job.removed = True

    async def list(self) -> None:
        before = [Known(**vars(job)) for job in self._model.jobs]
        jobs = list(self._model.jobs)
        listed = [status async for status in self._client.list()]
        ids = [status.id for status in listed]
        expect(len(set(ids)) == len(ids), f"a job is listed twice: {ids}")
        expect(
            [status.started for status in listed] == sorted(status.started for status in listed), "no order"
        )
        for was, job in zip(before, jobs, strict=True):
            expect(job.id in ids or job.remove_asked, f"a job is missing from the list: {job}")
            expect(not was.removed or job.id not in ids, f"a removed job is listed: {job}")
            if job.id in ids:
                self._model.saw(job, was, listed[ids.index(job.id)])

    async def stream(self) -> None:
        await trio.lowlevel.checkpoint()
        job = self._pick()
        if job is None:
            return
        whole = {STDOUT: job.kind.out, STDERR: job.kind.err}
        only = self._chance.choice((None, None, STDOUT, STDERR))
        offset = 0 if job.kind.err else self._chance.choice((0, 0, 1, 37, len(job.kind.out) // 2))
        follow = self._chance.random() < 0.7 and (job.kind.code is not None or job.stopped)
        enough = self._chance.choice((1, 5000, math.inf, math.inf))
        before = Known(**vars(job))
        got = {STDOUT: bytearray(), STDERR: bytearray()}
        place = offset
        self._doing = f"{job}, from {offset}, follow={follow}, stream={only}"
        try:
            async with self._client.stream(
                job.id, gaps="yield", offset=offset, follow=follow, stream=only
            ) as stream:
                async for piece in stream:
                    if not isinstance(piece, Output):
                        expect(job.remove_asked, f"output is missing: {piece}")
                        return
                    expect(piece.offset == place or only, f"byte {piece.offset} came, not {place}")
                    place = piece.offset + len(piece.data)
                    got[piece.stream] += piece.data
                    first = 0 if job.kind.err else offset
                    data = bytes(got[piece.stream])
                    expect(
                        whole[piece.stream][first : first + len(data)] == data or only,
                        f"other bytes came than {job.kind.script!r} prints",
                    )
                    if place > enough:
                        return
        except RequestError as error:
            # Its first bytes may not have been printed yet when it was asked to begin behind them.
            early = error.code is ErrorCode.BAD_REQUEST and offset > 0
            expect(early or (error.code is ErrorCode.NOT_FOUND and job.remove_asked), f"{job}: {error}")
            return
        self._model.saw(job, before, stream.job)
        if follow and only is None:
            expect(stream.job.output == max(place, offset), f"the stream ended at {place}: {stream.job}")
        if follow and only and stream.job.cause is not None and stream.job.cause.kind is CauseKind.EXITED:
            expect(
                bytes(got[only]) == whole[only][0 if job.kind.err or only == STDERR else offset :],
                "lost bytes",
            )

    async def cut(self) -> None:
        await trio.lowlevel.checkpoint()
        self._proxy.cut()

    async def reload(self) -> None:
        await trio.lowlevel.checkpoint()
        os.kill(os.getpid(), signal.SIGHUP)

    async def lose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._model.spawner_killed = True
        self._kill_spawner()


@asynccontextmanager
async def serving(certs: Path, folder: Path, log: KeptLog) -> AsyncIterator[int]:
    """A server in this process, until the block ends; then it is ended by SIGTERM. Its port."""
    budget = Budget(MEMORY, JOB_MEMORY, 64 * 2**20, folder)
    server = Server(Config("127.0.0.1", 0, certs, grace=0.05, budget=budget), log)
    async with kept_signals(), trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await until(lambda: "listening" in log.messages)
        yield next(line["port"] for line in log.lines if line["message"] == "listening")
        os.kill(os.getpid(), signal.SIGTERM)


def _spawner_pids() -> list[int]:
    found = []
    for pid in children(os.getpid()):
        with suppress(OSError):
            if b"spawner_main.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def kill_spawner() -> None:
    """Kill the server's spawner, if it has one now."""
    for pid in _spawner_pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def run_program(seed: int, certs: Path, folder: Path) -> Model:
    """Run the clients of a seed to their end, and the server; return what the model has learned.

    Args:
        seed: decides what they do.
        certs: a directory as ``certs init`` makes it.
        folder: where output spills to.

    Raises:
        LeftError: the server differs from the model, or has left something behind.
    """
    log, model = KeptLog(), Model()
    root = trio.lowlevel.current_task()
    with open_hierarchies() as hierarchies:
        before = Footprint.take(hierarchies, root)
        with trio.fail_after(PROGRAM_SECONDS), patched():
            async with serving(certs, folder, log) as port, trio.open_nursery() as nursery:
                for name, (identity, scheme) in enumerate(CLIENTS):
                    nursery.start_soon(_act, name, seed, model, port, certs, identity, scheme)
        await assert_same(before, hierarchies, root)
    if tracebacks := [line for line in log.lines if "traceback" in line]:
        raise LeftError(f"the server's log has a traceback: {tracebacks[0]}")
    return model


async def _act(
    name: int, seed: int, model: Model, port: int, certs: Path, identity: str, scheme: str
) -> None:
    chance = random.Random(f"{seed}-{name}")  # noqa: S311  # it is to come again
    with proxy(port, seed=seed) as between:
        address = scheme + between.address
        async with open_client(address, certs=certs, identity=identity, patience=20) as client:
            await Actor(name, chance, model, client, between, identity, kill_spawner).run()
