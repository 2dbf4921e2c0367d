"""Owns the quiet half of a phase: the burst, the end of every job, every byte again, and a server at rest."""

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

from tests.harness import SLOW, Server
from tests.host.common import bases
from tests.proc import memory_of, processor_seconds
from tests.soak.actor import Actor
from tests.soak.follow import expect
from tests.soak.model import Known, Model
from tests.soak.plans import Plan, talking, zeros
from tests.soak.samples import MIB, Sampler, counts
from tests.soak.settings import Burst, Setting
from tests.soak.talk import Spec
from wire.errors import ErrorCode
from wire.jobs import Status
from wire.limits import Limits

T = TypeVar("T")
#: Requests at once.
LANES = 8
#: A server at rest uses less of a processor than this share.
IDLE = 0.05
#: Seconds in which a server comes to rest.
REST_SECONDS = 20.0 * SLOW
#: MiB that a server may take above what it took at its start and its budget of output: windows for readers,
#: and what its connections buffer.
SLACK_MIB = 160
#: What a server's log says when the room for output on the disk is used up.
USED_UP = "the room for output on the disk is used up"
#: Descriptors and threads that a server at rest, without jobs, may have above what it had at its start.
SLACK_DESCRIPTORS, SLACK_THREADS = 16, 12


async def each(items: Iterable[T], do: Callable[[T], Awaitable[object]], lanes: int = LANES) -> None:
    """Do something with each item, a few at a time."""
    limiter = trio.CapacityLimiter(lanes)

    async def one(item: T) -> None:
        async with limiter:
            await do(item)

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(one, item)


class Settling:
    """Brings a server to rest, and looks at what is left.

    Args:
        server: the server.
        setting: its budget.
        model: what is known of its jobs.
        actor: an Admin with a Trio client, whose steps are used.
        sampler: what asks the server for samples.
        chance: random numbers.
    """

    def __init__(
        self,
        server: Server,
        setting: Setting,
        model: Model,
        actor: Actor,
        sampler: Sampler,
        chance: random.Random,
    ) -> None:
        self._server = server
        self._setting = setting
        self._model = model
        self._actor = actor
        self._sampler = sampler
        self._chance = chance
        self._pid = server.process.pid
        self._memory = memory_of(self._pid)
        self._counts = counts(self._pid)

    async def kinds(self) -> frozenset[str]:
        """The limits that this host has, tried one by one."""
        found = set()
        for name, value in (("cpu", 500), ("memory", 256 * MIB), ("disk_ops", 1000), ("pids", 32)):
            limits = Limits(**{name: value})
            plan = Plan(name, ("true",), Spec(0), limits=limits, refusal=ErrorCode.LIMIT_REFUSED, sure=False)
            if await self._actor.start(plan):
                found.add(name)
        return frozenset(found)  # noqa: ASYNC910  # there are limits to try

    async def keep_room(self) -> None:
        """Remove ended jobs whenever others wait for room, as an operator's script may; until cancelled."""
        while True:
            await trio.sleep(0.3)
            running = [status for status in await self._actor.list() if status.status is Status.RUNNING]
            if any("room for output is used up" in note for status in running for note in status.notes):
                await each(self._actor.ended(), self._actor.remove)

    async def burst(self, burst: Burst) -> None:
        """Let many jobs print at once, after others have filled the budget."""

        async def finish(size: int) -> None:
            if self._chance.random() < 0.7:
                plan = zeros(size)
            else:
                plan = talking("loud", Spec(self._chance.getrandbits(32), size))
            known = await self._actor.start(plan)
            expect(known is not None, "a start of a burst has failed")
            assert known is not None
            if self._chance.random() < 0.2:
                await self._actor.reader.whole(known)
            await self._actor.ask(known, "wait")

        await each([burst.ended_bytes] * burst.ended, finish)
        await each([burst.at_once_bytes] * burst.at_once, finish, burst.at_once)

    async def end_jobs(self) -> None:
        """See every job to its end: those whose start had no answer too."""
        await self._actor.list()

        async def finish(known: Known) -> None:
            if not known.ends:
                await self._actor.stop(known)
            await self._actor.ask(known, "wait")

        await each(self._model.known(), finish, 32)
        await self._actor.list()
        expect(not self._actor.running(), f"jobs run on: {self._actor.running()}")

    async def replay(self, most: int) -> None:
        """Read every byte of the jobs that are there, of so many jobs at most."""
        there = self._model.known()
        await each(self._chance.sample(there, min(most, len(there))), self._actor.reader.whole, 4)

    async def remove(self) -> None:
        """Remove every job."""
        await each(self._model.known(), self._actor.remove)
        await self._actor.list()
        expect(not self._model.known(), "jobs are left")

    async def rest(self) -> float:
        """Wait until the server is at rest; the share of a processor that it still uses."""
        await trio.lowlevel.checkpoint()
        share = 1.0
        with self._sampler.quiet(), trio.move_on_after(REST_SECONDS):
            while share > IDLE:
                used, then = processor_seconds(self._pid), trio.current_time()
                await trio.sleep(1)
                share = (processor_seconds(self._pid) - used) / (trio.current_time() - then)
        expect(share <= IDLE, f"the server does not come to rest: {share:.0%} of a processor")
        return share

    def measure(self) -> tuple[int, ...]:
        """Check what a server at rest, without jobs, holds.

        Returns:
            MiB at its start, at most and now; descriptors and threads now.
        """
        memory, most = memory_of(self._pid), memory_of(self._pid, "VmHWM")
        descriptors, threads = counts(self._pid)
        bound = self._memory + (self._setting.memory + SLACK_MIB) * MIB
        figures = (
            f"memory {self._memory // MIB} MiB at the start, {most // MIB} at most, {memory // MIB} at rest; "
            f"descriptors {self._counts[0]} and {descriptors}, threads {self._counts[1]} and {threads}"
        )
        left = [path for base in bases(self._server) for path in base.iterdir() if path.is_dir()]
        expect(not left, f"cgroups of jobs are left: {left}")
        used_up = any(line.get("message") == USED_UP for line in list(self._server.log))
        expect(used_up or not self._setting.full, "the room on the disk was never used up")
        expect(max(memory, most) <= bound, f"more than {bound // MIB} MiB of memory: {figures}")
        expect(descriptors <= self._counts[0] + SLACK_DESCRIPTORS, f"descriptors were not closed: {figures}")
        expect(threads <= self._counts[1] + SLACK_THREADS, f"threads have not ended: {figures}")
        return (self._memory // MIB, most // MIB, memory // MIB, descriptors, threads)
