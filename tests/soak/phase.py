"""Owns a phase of the soak: one server, its clients and their end, and what it must leave behind."""

import os
import random
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from client import trio_client
from client.trio_client import open_client
from tests.harness import Server, eventually, serve
from tests.host.common import find_cgroups
from tests.proxy import proxy
from tests.soak import samples, trail
from tests.soak.actor import Actor
from tests.soak.callers import TrioCaller, open_caller
from tests.soak.follow import DefectError, expect
from tests.soak.model import Model
from tests.soak.plans import MIB, Plan
from tests.soak.report import state_of
from tests.soak.settings import Setting
from tests.soak.settle import Settling
from tests.soak.talk import Spec
from tests.soak.watch import Watch
from tests.soak.world import World
from wire.errors import ErrorCode, RequestError
from wire.limits import Limits

#: The clients of the mixture: kind, identity, transport, whether through a proxy, and tasks that share it.
CLIENTS = (
    ("trio", "admin", "", False, 3),
    ("trio", "admin", "wss://", True, 2),
    ("blocking", "admin", "", True, 1),
    ("blocking", "admin", "wss://", False, 1),
    ("trio", "user", "", True, 2),
    ("trio", "user", "wss://", False, 1),
    ("blocking", "user", "wss://", True, 1),
)
#: Seconds for which a client tries to come back.
PATIENCE = 60.0
#: Jobs that are read again once all have ended.
REPLAYS = 60


class PhaseFailedError(Exception):
    """A phase has failed; it holds the report, line by line."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines[0])
        self.lines = lines


@dataclass(frozen=True)
class Result:
    """What a phase did."""

    setting: Setting
    jobs: int
    operations: int
    bytes: int
    samples: list[samples.Sample]
    figures: str
    audit_lines: int


class Phase:
    """One server, and all that its clients do.

    Args:
        seed: of the whole soak.
        number: the phase's.
        setting: the server's.
        seconds: how long the mixture lasts.
        patience: seconds in which each operation must end or get on.
        certs: a directory as ``certs init`` makes it.
        folder: for the phase's files.
        began: when the soak began, by time.monotonic().
    """

    def __init__(
        self,
        seed: int,
        number: int,
        setting: Setting,
        seconds: float,
        patience: float,
        certs: Path,
        folder: Path,
        began: float,
    ) -> None:
        self._seed = seed
        self._number = number
        self._setting = setting
        self._seconds = seconds
        self._certs = certs
        self._began = began
        self._audit = folder / "audit.log"
        self._spill = folder / "spill"
        self._spill.mkdir(parents=True)
        self._watch = Watch(patience, folder / "operations.log")
        self._model = Model(drops=setting.drop)
        self._figures = ""
        self._samples: list[samples.Sample] = []

    async def run(self) -> Result:
        """Run it.

        Raises:
            PhaseFailedError: the server hangs, differs from the model, or has left something.
        """
        await trio.lowlevel.checkpoint()
        flags = [*self._setting.flags, "--spill-dir", str(self._spill), "--audit", str(self._audit)]
        environment = os.environ | {"PYTHONFAULTHANDLER": "1"}  # see report.py
        try:
            with serve(self._certs, *flags, env=environment) as server:
                await self._serve(server)
            self._check_host(server)
            lines = trail.check(self._audit, self._model)
        except (DefectError, AssertionError) as error:
            raise PhaseFailedError([str(error)]) from error
        finally:
            self._watch.close()
        jobs = len(self._model.jobs)
        return Result(
            self._setting, jobs, self._watch.count, self._watch.bytes, self._samples, self._figures, lines
        )

    async def _serve(self, server: Server) -> None:
        """Let the clients do what they do; tell the server's state if something is wrong."""
        await trio.lowlevel.checkpoint()
        failed: BaseException | None = None
        with samples.sampling(server, self._number, self._began, self._model) as sampler:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._look)
                    await self._play(server)
                    nursery.cancel_scope.cancel()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told with the server's state
                failed = error
        self._samples = sampler.samples
        if failed is not None:
            told = await trio.to_thread.run_sync(state_of, server)
            raise PhaseFailedError([*words(failed), *self._watch.tell(), *told]) from failed

    async def _look(self) -> None:
        while True:
            await trio.sleep(0.5)
            self._watch.look()

    async def _play(self, server: Server) -> None:
        """The mixture, the burst, and the way to rest."""
        chance = self._chance("settling")
        connect = open_client(server.address, certs=self._certs, identity="admin", patience=PATIENCE)
        async with connect as client:
            kinds = await self._kinds(client)
            world = World(self._model, self._watch, kinds, self._setting.most)
            actor = Actor("settler", "admin", chance, TrioCaller(client), None, world)
            settling = Settling(server, self._setting, self._model, actor, chance)
            async with trio.open_nursery() as nursery:
                for number in range(len(CLIENTS)):
                    nursery.start_soon(self._client, number, server, world)
                await self._trouble(server)
                world.over = True
            await settling.burst(self._setting.burst)
            await settling.end_jobs()
            await settling.replay(REPLAYS)
            await settling.rest()
            await settling.remove()
            await settling.rest()
            self._figures = settling.measure()

    async def _trouble(self, server: Server) -> None:
        """While the mixture lasts, reload the server now and then, and in some phases kill its spawner."""
        await trio.lowlevel.checkpoint()
        chance = self._chance("trouble")
        kill = chance.choice((0.3, 0.6, 2, 2)) * self._seconds
        began = trio.current_time()
        while (passed := trio.current_time() - began) < self._seconds:
            if passed > kill:
                kill = float("inf")
                self._model.spawner_kills += 1
                os.kill(server.spawner_pid, signal.SIGKILL)
            else:
                server.process.send_signal(signal.SIGHUP)
            await trio.sleep(chance.uniform(0.1, 2))

    def _chance(self, name: str) -> random.Random:
        return random.Random(f"{self._seed}-{self._number}-{name}")  # noqa: S311  # it is to come again

    async def _client(self, number: int, server: Server, world: World) -> None:
        """One client of the mixture, and the tasks that share it."""
        kind, identity, scheme, cut, lanes = CLIENTS[number]
        with proxy(server.port, seed=self._seed) as between:
            address = scheme + (between.address if cut else server.address)
            async with (
                open_caller(kind, address, self._certs, identity, PATIENCE) as caller,
                trio.open_nursery() as nursery,
            ):
                for lane in range(lanes):
                    name = f"{identity}-{kind}-{number}.{lane}"
                    chance = self._chance(name)
                    actor = Actor(name, identity, chance, caller, between if cut else None, world)
                    nursery.start_soon(actor.run)

    async def _kinds(self, client: trio_client.Client) -> frozenset[str]:
        """The limits that this host has, tried one by one."""
        found = set()
        for name, value in (("cpu", 500), ("memory", 256 * MIB), ("disk_ops", 1000), ("pids", 32)):
            plan = Plan(name, ("true",), Spec(0), limits=Limits(**{name: value}))
            token = self._model.token(plan, "admin")
            try:
                self._model.started(await client.start([*plan.argv, token], limits=plan.limits))
                found.add(name)
            except RequestError as error:
                expect(error.code is ErrorCode.LIMIT_REFUSED, f"a limit is refused so: {error!r}")
                del self._model.open[token]
        return frozenset(found)  # noqa: ASYNC910  # there are limits to try

    def _check_host(self, server: Server) -> None:
        """Look for what a server that has ended has left."""
        expect(not find_cgroups(f"worker-service-{server.process.pid}-*"), "cgroups are left")
        expect(not list(self._spill.iterdir()), "files are left in the spill directory")
        eventually(lambda: not survivors(), f"the end of {survivors()}, jobs of the soak")


def survivors() -> list[int]:
    """Processes of the soak's jobs: their last word is a token."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"\0soak-" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def words(error: BaseException) -> list[str]:
    """What went wrong, from within the groups that nurseries make of it."""
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in words(each)]
    return [f"{type(error).__name__}: {error}" if not isinstance(error, DefectError) else str(error)]
