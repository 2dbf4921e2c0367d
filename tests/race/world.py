"""Owns the world under test: real cgroups, a real spawner, a registry and a store, all in one Trio run."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from tests.harness import PATIENCE
from tests.race.footprint import LeftError, assert_none, private, until
from tests.worker.common import KeptLog
from wire.jobs import Cause, CauseKind
from wire.limits import Limits
from worker import hierarchy as hierarchy_module
from worker import output as output_module
from worker import spawner as spawner_module
from worker.blocks import Chunk
from worker.child import ProcessSpec
from worker.hierarchy import Hierarchies, open_hierarchies
from worker.job import Job
from worker.mounts import read_mounts
from worker.output import OutputLog
from worker.reader import Reader
from worker.registry import Registry
from worker.spawner import Spawner
from worker.spill_file import SpillFile
from worker.store import Budget, OutputStore

ALICE = Cause(CauseKind.STOPPED, by="alice")
#: Small budgets, so that a job of some hundred kilobytes spills.
MEMORY, JOB_MEMORY, BATCH_BYTES = 128 * 1024, 96 * 1024, 64 * 1024
#: A job that leaves a daemon behind, and that TERM does not end.
STUBBORN = "trap '' TERM; setsid sleep 600 & echo ready; while :; do sleep 0.01; done"


def spec_of(script: str) -> ProcessSpec:
    """A job that runs a shell script."""
    return ProcessSpec(
        (b"sh", b"-c", script.encode()), {b"PATH": os.fsencode(os.environ["PATH"])}, b"/", False
    )


@dataclass
class World:
    """What operations work on."""

    hierarchies: Hierarchies
    spawner: Spawner
    registry: Registry
    store: OutputStore
    log: KeptLog
    folder: Path
    certs: Path

    async def start(self, script: str, *, limits: Limits | None = None) -> Job:
        return await self.registry.start(spec_of(script), owner="alice", limits=limits, seconds=None)

    @property
    def limits(self) -> Limits | None:
        """A limit where the host can enforce one."""
        return Limits(pids=20) if self.hierarchies.tracking is not None else None

    async def started(self) -> None:
        """Wait until no start is under way: one goes on when its caller is cancelled."""
        await until(lambda: not private(self.registry, "_starting"))

    async def settle(self) -> None:
        """End and forget every job, as a client would; then nothing of any may be left.

        Raises:
            LeftError: a job is shown that is none.
        """
        await self.started()
        for job in self.registry.jobs:
            with trio.move_on_after(PATIENCE / 2) as scope:
                await job.stop(ALICE, 0.01)
            if scope.cancelled_caught:
                raise LeftError(f"phantom job {job.id}: it does not end")
            await until(partial(private(self.registry, "_ended").__contains__, job.id))  # a step later
            self.registry.remove(job.id)
        await assert_none(self._held)  # the spawner may yet tell of the end of one that was given up

    def _held(self) -> list[str]:
        """What is held for jobs though there are none, in words."""
        held = {
            "a job that nobody lists": private(self.registry, "_ended"),
            "a process that the link waits for": private(self.spawner, "_children"),
            "an id that is being started": private(self.registry.repeats, "_claims"),
            "the start of a job that is gone": private(self.registry.repeats, "_digests"),
            "room of a start": private(private(self.registry, "_room"), "_held"),
            "bytes in memory": self.store.resident,
            "bytes on the disk": self.store.spilled,
            "a traceback in the log": [line["message"] for line in self.log.lines if "traceback" in line],
        }
        return [f"{what}: {value}" for what, value in held.items() if value]

    async def assert_works(self) -> None:
        """A fresh job starts, streams and stops.

        Raises:
            LeftError: it does not.
        """
        job = await self.start("echo fresh; exec sleep 600", limits=self.limits)
        with trio.move_on_after(PATIENCE / 2) as scope:
            if await read_until(job.output, b"fresh\n") != b"fresh\n":
                raise LeftError("a fresh job's output is not what it printed")
            await job.stop(ALICE, 10)
        if scope.cancelled_caught:
            raise LeftError("a fresh job does not start, stream and stop")
        if job.cause != ALICE:
            raise LeftError(f"a fresh job ended by {job.cause}")
        await self.settle()


async def read_until(log: OutputLog, end: bytes) -> bytes:
    """Read a log from its first byte until what was read ends so, or the log does."""
    await trio.lowlevel.checkpoint()
    data = bytearray()
    reader = Reader(log, 0)
    with log.subscribe() as doorbell:
        while not data.endswith(end):
            piece = await reader.next()
            if isinstance(piece, Chunk):
                data += piece.data
            elif log.closed:
                break
            else:
                await doorbell.receive()
    return bytes(data)


def kinds() -> list[str]:
    """The kinds of hosts that this one can be: as it is, with its v1 hierarchies alone, without cgroups."""
    v1 = any(mount.version == 1 for mount in read_mounts())
    return ["here", "v1", "none"] if v1 else ["here", "none"]


@contextmanager
def patched(kind: str = "here") -> Iterator[None]:
    """Small steps, and no pause, so that there is more to cancel in less time; and a kind of host."""
    mounts = [mount for mount in read_mounts() if kind == "here" or (kind == "v1" and mount.version == 1)]
    changes = (
        (spawner_module, "RESTART_PAUSE", 0),
        (output_module, "BATCH_BYTES", BATCH_BYTES),
        # What the page cache has is read at once, with nothing to cancel.
        (SpillFile, "read_cached", lambda *_: None),
        (hierarchy_module, "read_mounts", lambda: mounts),
    )
    with ExitStack() as stack:
        for module, name, value in changes:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        yield


@asynccontextmanager
async def open_world(folder: Path, certs: Path, kind: str = "here") -> AsyncIterator[World]:
    """A world of its own, whose spawner starts again without a pause.

    Args:
        folder: where output spills to.
        certs: a directory as ``certs init`` makes it.
        kind: which of this host's cgroups to use, one of `kinds`.
    """
    log = KeptLog()
    with patched(kind), open_hierarchies() as hierarchies:
        async with trio.open_nursery() as link:
            spawner = Spawner(hierarchies, log)
            await link.start(spawner.run)
            with closing(OutputStore(Budget(MEMORY, JOB_MEMORY, 64 * 2**20, folder), log)) as store:
                async with trio.open_nursery() as jobs:
                    registry = Registry(jobs, hierarchies, spawner, log, 10.0, store)
                    yield World(hierarchies, spawner, registry, store, log, folder, certs)
                    jobs.cancel_scope.cancel()
            link.cancel_scope.cancel()
