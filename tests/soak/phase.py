"""Owns a phase of the soak: one server, its clients and their end, and what it must leave behind."""

import faulthandler
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from client.trio_client import open_client
from tests.cgroups import find_cgroups
from tests.harness import Server, eventually, serve
from tests.soak import logged, samples, trail
from tests.soak.actor import Actor
from tests.soak.callers import TrioCaller
from tests.soak.crew import PATIENCE, Crew, renew
from tests.soak.follow import DefectError, expect
from tests.soak.model import TOKEN, Model
from tests.soak.report import state_of
from tests.soak.settings import Ending, Setting
from tests.soak.settle import Settling
from tests.soak.watch import Watch
from tests.soak.world import World

#: A phase that lasts longer than its mixture by so many patiences hangs itself, and is ended as a whole.
LONGEST_PATIENCES = 20
#: Jobs that are read again once all have ended.
REPLAYS = 60


class PhaseFailedError(Exception):
    """A phase has failed; it holds the report, line by line."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines[0])
        self.lines = lines


@dataclass(frozen=True)
class Result:
    """What a phase did.

    Args:
        setting: its server's.
        counts: jobs, operations, and bytes that were checked.
        samples: of its server.
        rest: what its server held at rest; see `Settling.measure`.
        audit_lines: how many were checked.
        told: how often the server's log had each warning and error.
        round_ms: see `logged.longest_round`.
    """

    setting: Setting
    counts: tuple[int, int, int]
    samples: list[samples.Sample]
    rest: tuple[int, ...]
    audit_lines: int
    told: Counter[str]
    round_ms: float | None


class Phase:
    """One server, and all that its clients do.

    Args:
        seed: of the whole soak, and of this phase.
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
        seed: str,
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
        self._longest = seconds + LONGEST_PATIENCES * patience
        self._folder = folder
        self._spill = folder / "spill"
        self._spill.mkdir(parents=True)
        self._watch = Watch(patience, folder / "operations.log")
        self._model = Model(drops=setting.drop)
        self._rest: tuple[int, ...] = ()
        self._samples: list[samples.Sample] = []

    async def run(self) -> Result:
        """Run it.

        Raises:
            PhaseFailedError: the server hangs, differs from the model, or has left something.
        """
        await trio.lowlevel.checkpoint()
        renew(self._certs, whole=True)
        try:
            with self._server("audit.log") as server, last_resort(server, self._longest):
                await self._serve(server)
            self._check_host(server)
            told = logged.check(server.log)
            killed = self._setting.ending is Ending.KILL
            lines = trail.check(self._folder / "audit.log", self._model, killed=killed)
        except (DefectError, AssertionError) as error:
            raise PhaseFailedError([str(error)]) from error
        finally:
            self._watch.close()
        jobs = len(self._model.jobs)
        counts = (jobs, self._watch.count, self._watch.bytes)
        longest = logged.longest_round(server.log)
        return Result(self._setting, counts, self._samples, self._rest, lines, told, longest)

    @contextmanager
    def _server(self, audit: str, port: int = 0) -> Iterator[Server]:
        """A server with the phase's budget until the block ends."""
        flags = [*self._setting.flags, "--spill-dir", str(self._spill), "--audit", str(self._folder / audit)]
        environment = os.environ | {"PYTHONFAULTHANDLER": "1"}  # see report.py
        with serve(self._certs, *flags, env=environment, port=port) as server:
            yield server

    async def _serve(self, server: Server) -> None:
        """Let the clients do what they do; tell the server's state if something is wrong."""
        await trio.lowlevel.checkpoint()
        failed: BaseException | None = None
        self._current = server
        with samples.sampling(server, self._number, self._began, self._model) as sampler:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._look)
                    await self._play(server, sampler)
                    nursery.cancel_scope.cancel()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told with the server's state
                failed = error
        self._samples = sampler.samples
        for leaf in leaves(failed):
            if isinstance(leaf, PhaseFailedError):
                raise leaf
        if failed is not None:
            told = await trio.to_thread.run_sync(state_of, self._current)
            raise PhaseFailedError([*map(words, leaves(failed)), *self._watch.tell(), *told]) from failed

    async def _look(self) -> None:
        """Look whether all gets on. If not, the server is looked at, and ended, before its clients are."""
        while True:
            await trio.sleep(0.5)
            if (late := self._watch.late()) is not None:
                under_way = self._watch.tell()
                told = await trio.to_thread.run_sync(state_of, self._current)
                raise PhaseFailedError([late, *under_way, *told])

    async def _play(self, server: Server, sampler: samples.Sampler) -> None:
        """The mixture, and what comes after it."""
        connect = open_client(server.address, certs=self._certs, identity="admin", patience=PATIENCE)
        async with connect as client, trio.open_nursery() as beside:
            world = World(self._model, self._watch, self._setting.most, hasty=self._setting.stall is not None)
            crew = Crew(server, world, self._seed)
            chance = crew.chance("settling")
            actor = Actor("settler", "admin", chance, TrioCaller(client), None, world)
            settling = Settling(server, self._setting, self._model, actor, sampler, chance)
            world.kinds = await settling.kinds()
            if self._setting.full:
                beside.start_soon(settling.keep_room)
            with ExitStack() as successor:
                async with trio.open_nursery() as clients:
                    crew.start(clients)
                    await crew.trouble(self._seconds)
                    self._model.ending = self._setting.ending is not Ending.REST
                    world.over = True
                    before = set(self._model.jobs)
                    if self._model.ending:
                        await self._end(server, chance)
                        renew(self._certs, whole=True)
                        self._current = successor.enter_context(self._server("next.log", server.port))
                if self._model.ending:
                    await self._look_after(self._current, before)
            if not self._model.ending:
                await self._settle(settling)
            beside.cancel_scope.cancel()

    async def _end(self, server: Server, chance: random.Random) -> None:
        """End the server while its clients do what they do, and its spawner with it, or not."""
        await trio.lowlevel.checkpoint()
        if self._setting.ending is Ending.TERM:
            await trio.to_thread.run_sync(server.end)
            return
        spawner = server.spawner_pid
        server.process.kill()
        if chance.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(spawner, signal.SIGKILL)
        await trio.to_thread.run_sync(server.process.wait)

    async def _look_after(self, successor: Server, before: set[str]) -> None:
        """Look at the successor: it knows no job, but those whose start came to it after a cut."""
        async with open_client(successor.address, certs=self._certs, identity="admin") as client:
            for job in [job async for job in client.list()]:
                expect(job.id not in before, f"the successor has a job of before: {job}")
                self._model.jobs.pop(job.id, None)  # the audit log of before says nothing of it
                await client.stop(job.id, grace=0)
        await trio.to_thread.run_sync(eventually, lambda: not survivors(), "the end of the jobs of before")

    async def _settle(self, settling: Settling) -> None:
        """The burst, every byte again, and the way to rest."""
        await settling.burst(self._setting.burst)
        await settling.end_jobs()
        await settling.replay(REPLAYS)
        await settling.rest()
        await settling.remove()
        await settling.rest()
        self._rest = settling.measure()

    def _check_host(self, server: Server) -> None:
        """Look for what a server that has ended has left."""
        expect(not find_cgroups(f"worker-service-{server.process.pid}-*"), "cgroups are left")
        expect(not list(self._spill.iterdir()), "files are left in the spill directory")
        eventually(lambda: not survivors(), f"the end of {survivors()}, jobs of the soak")


@contextmanager
def last_resort(server: Server, seconds: float) -> Iterator[None]:
    """End the server and ourselves, with our stacks, should the block last longer: the soak itself hangs."""

    def end() -> None:
        server.process.kill()
        faulthandler.dump_traceback()
        os._exit(3)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def survivors() -> list[int]:
    """Processes of the soak's jobs: their last word is a token."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"\0" + TOKEN.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    """What went wrong, from within the groups that nurseries make of it."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    elif error is not None:
        yield error


def words(error: BaseException) -> str:
    """What went wrong, in a line."""
    return str(error) if isinstance(error, DefectError) else f"{type(error).__name__}: {error}"
