"""Owns how a client of the soak reads output at random, and how what it gets is judged."""

import random
from collections.abc import Awaitable, Callable

import trio

from tests.soak.callers import Caller
from tests.soak.follow import Follower, expect
from tests.soak.model import Known
from tests.soak.watch import Operation
from tests.soak.world import World
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobStatus, Status
from wire.messages import GapReason

#: Seconds for which a reader stops.
REST_SECONDS = 1.5


class Reader:
    """The reading half of a client.

    Args:
        name: which one, for people.
        chance: its random numbers.
        caller: its connection.
        world: what it shares.
        ask: asks for a job's status, by a method's name.
    """

    def __init__(
        self,
        name: str,
        chance: random.Random,
        caller: Caller,
        world: World,
        ask: Callable[[Known, str], Awaitable[JobStatus | None]],
    ) -> None:
        self.name = name
        self._chance = chance
        self._caller = caller
        self._world = world
        self._model = world.model
        self._ask = ask

    def _pick(self) -> Known | None:
        there = [*self._model.there.values()]
        return self._chance.choice(there) if there else None

    async def stream(self) -> None:
        """Follow a job, from its beginning or within it, to its end or not."""
        await trio.lowlevel.checkpoint()
        if (known := self._pick()) is None:
            return
        offset = self._chance.choice((0, 0, 0, self._chance.randint(0, known.plan.total)))
        only = self._chance.choice((None, None, None, 1, 2))
        follow = self._chance.random() < 0.8
        await self._follow(known, offset, follow=follow, stream=only)

    async def whole(self, known: Known) -> None:
        """Read all of a job's output."""
        follower = Follower(known.plan.spec, 0)
        before = known.before()
        with self._world.watch.doing(self.name, f"stream {known.id} ({known.plan.name})") as operation:
            job = await self._read(known, follower, operation, 1 << 60, -1)
        assert job is not None
        self._model.saw(known, before, job)
        follower.end(job, follow=True)

    async def part(self) -> None:
        """Read the end of a job's output."""
        await trio.lowlevel.checkpoint()
        if (known := self._pick()) is None:
            return
        parts: tuple[dict[str, object], ...] = (
            {"tail_bytes": self._chance.choice((0, 1, 1000, 10**7))},
            {"tail_lines": self._chance.choice((0, 1, 10, 10**5))},
            {"since": known.started + self._chance.uniform(-5, 5)},
        )
        options = self._chance.choice(parts)
        await self._follow(known, None, follow=self._chance.random() < 0.3, **options)

    async def _follow(self, known: Known, offset: int | None, *, follow: bool, **options: object) -> None:
        follow = follow and (known.ends or not self._caller.patient)
        follower = Follower(known.plan.spec, offset, options.get("stream"))  # type: ignore[arg-type]
        enough = self._chance.choice((1, 100_000, 1 << 40, 1 << 40))
        rest = self._chance.randint(0, 40) if self._chance.random() < 0.15 else -1
        seconds = float("inf") if self._caller.patient or known.ends else self._chance.uniform(0, 2)
        if offset is not None:
            options["offset"] = offset
        words = " ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        what = f"stream {known.id} ({known.plan.name}) follow={follow} {words}"
        before, job = known.before(), None
        try:
            with self._world.watch.doing(self.name, what) as operation, trio.move_on_after(seconds) as scope:
                job = await self._read(known, follower, operation, enough, rest, follow=follow, **options)
        except RequestError as error:
            await self._judge(before, offset or 0, error, follow=follow)
            return
        if job is None or scope.cancelled_caught:
            return
        self._model.saw(known, before, job)
        if GapReason.REMOVED not in follower.gaps:
            follower.end(job, follow=follow or before.final is not None)

    async def _read(
        self,
        known: Known,
        follower: Follower,
        operation: Operation,
        enough: int,
        rest: int,
        **options: object,
    ) -> JobStatus | None:
        """Read pieces until there are enough, or all; the final status if it was all."""
        async with self._caller.stream(known.id, **options) as stream:
            async for piece in stream:
                size = follower.bytes
                follower.take(piece)
                operation.touch(follower.bytes - size)
                expect(
                    GapReason.REMOVED not in follower.gaps or known.remove_asked,
                    f"nobody removed it: {piece}",
                )
                expect(
                    GapReason.DROPPED not in follower.gaps or self._model.drops,
                    f"output was dropped: {piece}",
                )
                if follower.bytes > enough:
                    return None
                rest -= 1
                if rest == 0:
                    await trio.sleep(REST_SECONDS)
        job: JobStatus = stream.job
        return job

    async def _judge(self, before: Known, offset: int, error: RequestError, *, follow: bool) -> None:
        """Judge the error that a stream has ended with."""
        await trio.lowlevel.checkpoint()
        known = self._model.jobs[before.id]
        if (error.code is ErrorCode.NOT_FOUND and known.remove_asked) or self._model.refuses(error):
            return
        right = error.code is ErrorCode.BAD_REQUEST and offset > before.seen
        if right and follow and (status := await self._ask(known, "query")) is not None:
            right = status.status is not Status.RUNNING and offset > status.output
        expect(right, f"a stream from {offset}, follow={follow}, of {before}: {error!r}")
