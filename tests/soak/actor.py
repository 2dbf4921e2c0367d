"""Owns what one client of the soak does at random, and how each answer is judged."""

import math
import random
from collections.abc import Awaitable, Callable

import trio

from client.errors import ClientError, CutError
from tests.proxy import Proxy
from tests.soak.callers import Caller
from tests.soak.follow import expect
from tests.soak.model import Known
from tests.soak.plans import Plan, draw
from tests.soak.reader import Reader
from tests.soak.world import World
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobStatus, Status

#: From so many jobs on, ended ones are removed and running ones stopped, rather than others started.
MANY = 120


class Actor:
    """One client.

    Args:
        name: which one, for people.
        identity: its name in its certificate.
        chance: its random numbers.
        caller: its connection.
        between: the proxy that it goes through; None for none.
        world: what it shares.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        chance: random.Random,
        caller: Caller,
        between: Proxy | None,
        world: World,
    ) -> None:
        self.name = name
        self._identity = identity
        self._chance = chance
        self._caller = caller
        self._proxy = between
        self._world = world
        self._model = world.model
        self.reader = Reader(name, chance, caller, world, self.ask)

    async def run(self) -> None:
        """Do one thing after another until the world is over."""
        await trio.lowlevel.checkpoint()
        steps: dict[Callable[[], Awaitable[object]], float] = {
            self.start: 9.0 if self._identity == "admin" else 0.5,
            self.query: 3.0,
            self.reader.stream: 9.0,
            self.reader.part: 3.0,
            self.wait: 2.0,
            self.stop: 3.0,
            self.remove: 4.0,
            self.list: 0.5,
            self.cut: 0.7,
        }
        while not self._world.over:
            await trio.sleep(self._chance.choice((0, 0, 0.001, 0.02)))
            if len(self.running()) > MANY // 3:
                await self.stop()
            if len(self.ended()) > MANY:
                await self.remove()
            (step,) = self._chance.choices([*steps], [*steps.values()])
            try:
                await step()
            except ClientError:
                if not self._model.ending:
                    raise

    def running(self) -> list[Known]:
        return [known for known in self._model.known() if known.final is None]

    def ended(self) -> list[Known]:
        return [known for known in self._model.known() if known.final is not None]

    def _pick(self, among: list[Known]) -> Known | None:
        return self._chance.choice(among) if among else None

    async def ask(self, known: Known, method: str, **options: object) -> JobStatus | None:
        """Ask for a job's status; None if it is gone, as somebody asked for."""
        await trio.lowlevel.checkpoint()
        before = known.before()
        words = "".join(f" {name}={value}" for name, value in options.items())
        what = f"{method} {known.id} ({known.plan.name}){words}"
        with self._world.watch.doing(self.name, what, prompt=method in ("query", "remove")):
            try:
                prefix = known.id[: self._chance.choice((13, 36, 36))]
                status = await self._caller.ask(method, prefix, **options)
            except RequestError as error:
                gone = error.code is ErrorCode.NOT_FOUND and known.remove_asked
                expect(gone or self._model.refuses(error), f"{method} {known}: {error}")
                return None
            self._model.saw(known, before, status)
        return status

    async def start(self, plan: Plan | None = None) -> Known | None:
        """Start a job; None if there is none, or none that we know of."""
        await trio.lowlevel.checkpoint()
        model = self._model
        plan = plan or draw(self._chance, self._world.kinds, self._world.most)
        token = model.token(plan, self._identity)
        haste = self._hastes()
        what = f"start {token} {plan.name} {plan.spec}"
        with self._world.watch.doing(self.name, what), trio.move_on_after(haste):
            try:
                status = await self._caller.start(plan, token)
            except RequestError as error:
                del model.open[token]
                if self._identity == "user":
                    expect(error.code is ErrorCode.DENIED, f"a user's start is refused so: {error!r}")
                    model.denied += 1
                    return None
                lost = model.spawner_kills and "spawner" in error.message
                right = error.code is plan.refusal
                expect(right or lost or self._model.refuses(error), f"{plan.name} is refused so: {error!r}")
                model.refused += 1
                return None
            except CutError:
                return None
            expect(self._identity == "admin", "a user has started a job")
            return model.started(status)
        return None

    def _hastes(self) -> float:
        """Seconds after which we change our mind: mostly never, and never with a client that cannot."""
        if self._caller.patient or self._world.over or self._chance.random() < 0.9:
            return math.inf
        return self._chance.uniform(0, 0.02)

    async def query(self) -> None:
        await trio.lowlevel.checkpoint()
        if known := self._pick([*self._model.there.values()]):
            await self.ask(known, "query")

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        if known := self._pick([each for each in self._model.there.values() if each.ends]):
            status = await self.ask(known, "wait")
            expect(
                status is None or status.status is not Status.RUNNING, f"a wait ended before its job: {known}"
            )

    async def stop(self, known: Known | None = None) -> None:
        """Stop a job: by chance one that runs, or rarely one that has ended."""
        await trio.lowlevel.checkpoint()
        known = known or self._pick(self.running() if self._chance.random() < 0.9 else self.ended())
        if known is None or self._identity == "user":
            return
        grace = self._chance.choice((0.0, 0.05, 0.5, 5.0))
        known.stoppers.add(self._identity)
        status = await self.ask(known, "stop", grace=grace)
        if status is not None:
            known.stopped = True
            expect(status.status is not Status.RUNNING, f"a stop ended before its job: {status}")

    async def remove(self, known: Known | None = None) -> None:
        """Remove a job that has ended: one by chance."""
        await trio.lowlevel.checkpoint()
        known = known or self._pick(self.ended())
        if known is None or self._identity == "user":
            return
        known.remove_asked = True
        await self.ask(known, "remove")
        self._model.removed(known)

    async def list(self) -> list[JobStatus]:
        await trio.lowlevel.checkpoint()
        before, removals = self._model.before(), self._model.removals
        with self._world.watch.doing(self.name, "list", prompt=True):
            try:
                jobs = await self._caller.list()
            except RequestError as error:
                expect(self._model.refuses(error), f"list: {error}")
                return []
            if not self._model.ending:  # a successor may have answered, which knows nothing
                self._model.listed(jobs, before, removals)
        return jobs

    async def cut(self) -> None:
        """Cut our own connection, whatever goes over it."""
        await trio.lowlevel.checkpoint()
        if self._proxy is not None:
            self._proxy.cut()
