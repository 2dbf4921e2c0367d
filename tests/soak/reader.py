"""Owns how a client of the soak reads output at random, and how what it gets is judged."""

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from tests.soak.callers import Caller
from tests.soak.follow import Follower, expect
from tests.soak.model import Known
from tests.soak.talk import STDOUT, Spec
from tests.soak.watch import Operation
from tests.soak.world import World
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobStatus, Status
from wire.messages import GapReason

#: How much earlier may have come what `since` shows, in seconds.
SINCE_SECONDS = 1.0
#: Seconds for which a reader stops.
REST_SECONDS = 1.5


@dataclass(frozen=True)
class Manner:
    """How a reader reads.

    Args:
        follow: whether it waits for the job's end.
        enough: bytes after which it leaves.
        rest: the piece after which it stops for a while; 0 for none.
        seconds: after which it leaves.
    """

    follow: bool = True
    enough: int = 1 << 40
    rest: int = 0
    seconds: float = math.inf


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
        await self._follow(known, offset, self._manner(known, 0.8), stream=only)

    async def whole(self, known: Known) -> None:
        """Read all of a job's output."""
        await self._follow(known, 0, Manner())

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
        await self._follow(known, None, self._manner(known, 0.3), **options)

    def _manner(self, known: Known, follow: float) -> Manner:
        """How a reader reads, by chance; it follows with this probability."""
        chance = self._chance
        seconds = math.inf
        if not self._caller.patient and (not known.ends or chance.random() < 0.5):
            seconds = chance.uniform(0, 1.5)
        return Manner(
            follow=chance.random() < follow and (known.ends or not self._caller.patient),
            enough=chance.choice((1, 100_000, 1 << 40, 1 << 40)),
            rest=chance.randint(1, 40) if chance.random() < 0.15 else 0,
            seconds=seconds,
        )

    async def _follow(self, known: Known, offset: int | None, manner: Manner, **options: object) -> None:
        follow = manner.follow
        follower = Follower(known.plan.spec, offset, options.get("stream"))  # type: ignore[arg-type]
        options |= {} if offset is None else {"offset": offset}
        words = " ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        what = f"stream {known.id} ({known.plan.name}) follow={follow} {words}"
        before, job = known.before(), None
        try:
            doing = self._world.watch.doing(self.name, what, prompt=not follow)
            with doing as operation, trio.move_on_after(manner.seconds):
                job = await self._read(known, follower, operation, manner, follow=follow, **options)
        except RequestError as error:
            await self._judge(before, offset or 0, error, follow=follow)
            return
        if job is None:
            return
        self._model.saw(known, before, job)
        if GapReason.REMOVED in follower.gaps:
            return
        follower.end(job, follow=follow or before.final is not None)
        if before.final is not None and not (self._model.drops or known.remove_asked) and offset is None:
            self._check_part(before.final, known.plan.spec, follower.bytes, options)

    def _check_part(self, job: JobStatus, spec: Spec, size: int, options: dict[str, object]) -> None:
        """Check how much came of an ended job, of which the end was asked for."""
        what = f"{size} bytes came for {options} of {job}"
        if isinstance(count := options.get("tail_bytes"), int):
            expect(size == min(count, job.output), what)
        elif isinstance(lines := options.get("tail_lines"), int) and spec.single:
            whole = spec.content(STDOUT, 0, job.output)
            expect(size == len(last_lines(whole, lines)), what)
        elif isinstance(since := options.get("since"), float):
            assert job.ended is not None
            expect(size == job.output or since > job.started, what)
            expect(size == 0 or since < job.ended + SINCE_SECONDS, what)

    async def _read(
        self,
        known: Known,
        follower: Follower,
        operation: Operation,
        manner: Manner,
        **options: object,
    ) -> JobStatus | None:
        """Read pieces until there are enough, or all; the final status if it was all."""
        pieces = 0
        async with self._caller.stream(known.id, gaps="yield", **options) as stream:
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
                if follower.bytes > manner.enough:
                    return None
                pieces += 1
                if pieces == manner.rest:
                    await trio.sleep(REST_SECONDS)
        job: JobStatus = stream.job
        return job

    async def _judge(self, before: Known, offset: int, error: RequestError, *, follow: bool) -> None:
        """Judge the error that a stream has ended with."""
        await trio.lowlevel.checkpoint()
        known = self._model.jobs[before.id]
        if (error.code is ErrorCode.NOT_FOUND and known.remove_asked) or self._model.refuses(error):
            return
        if error.code is ErrorCode.STALLED:
            expect(self._world.hasty, f"a stream of {before}: {error!r}")
            return
        right = error.code is ErrorCode.BAD_REQUEST and offset > before.seen
        if right and follow and (status := await self._ask(known, "query")) is not None:
            right = status.status is not Status.RUNNING and offset > status.output
        expect(right, f"a stream from {offset}, follow={follow}, of {before}: {error!r}")


def last_lines(data: bytes, count: int) -> bytes:
    """The last so many lines; the very last may lack its newline."""
    begin = len(data) - data.endswith(b"\n")
    for _ in range(count):
        begin = data.rfind(b"\n", 0, begin)
        if begin < 0:
            return data
    return data[begin + 1 :] if count else b""
