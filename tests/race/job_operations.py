"""Owns the operations on jobs that are cancelled: they depend on which cgroups a host has."""

import os
import signal
import uuid
from contextlib import suppress
from functools import partial

import trio

from certs.roles import Identity, Role
from tests.harness import alive
from tests.race.cancel import Cancelling, Operation
from tests.race.footprint import LeftError, expect, private
from tests.race.world import ALICE, STUBBORN, World, read_until, spec_of
from wire.errors import RequestError
from wire.jobs import Cause, CauseKind, StartParams
from worker.audit import NO_TRAIL
from worker.child import ProcessSpec, SpawnError
from worker.hierarchy import open_hierarchies
from worker.job import Job
from worker.registry import Registry
from worker.repeats import Claim
from worker.spawner import Spawner

CLIENT = Identity("alice", "01", Role.ADMIN)
SHUTDOWN = Cause(CauseKind.STOPPED, by="server")


async def start(world: World, cancelling: Cancelling) -> None:
    """Whoever asks for a job goes away: either there is a job that is listed, or there is nothing."""
    with cancelling:
        await world.start("echo out; exec sleep 600", limits=world.limits)
    await world.started()
    jobs = list(world.registry.jobs)
    expect(len(jobs) <= 1, f"{len(jobs)} jobs for one start")
    for job in jobs:
        expect(job.pid and alive(job.pid), "a job is listed that does not run")
        expect(await read_until(job.output, b"out\n") == b"out\n", "output was lost")


async def start_that_fails(world: World, cancelling: Cancelling) -> None:
    """There is no such program: no job comes of it, whoever waits for the answer."""
    spec = ProcessSpec((b"/no/such/program",), {}, b"/", merge=False)
    with cancelling, suppress(RequestError):
        await world.registry.start(spec, owner="alice", limits=world.limits, seconds=None)
    await world.started()
    expect(not list(world.registry.jobs), "a phantom job is listed")


async def start_again(world: World, cancelling: Cancelling) -> None:
    """Of two who ask for the same start, one goes away: the other gets the only job."""
    params = StartParams((b"sh",), id=str(uuid.uuid4()))

    async def begin(claim: Claim) -> Job:
        await trio.lowlevel.checkpoint()  # as where a user is looked up
        spec = spec_of("echo out; exec sleep 600")
        return await world.registry.start(
            spec, owner=CLIENT.name, limits=world.limits, seconds=None, claim=claim
        )

    async def ask() -> Job:
        return await world.registry.repeats.once(params, CLIENT, NO_TRAIL, begin)

    async def leave() -> None:
        with cancelling:
            await ask()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        job = await ask()
    expect(job.id == params.id, "the job has another id")
    expect(list(world.registry.jobs) == [job], "there is not one job for one start")
    expect(await read_until(job.output, b"out\n") == b"out\n", "output was lost")


async def life(world: World, cancelling: Cancelling) -> None:
    """A job's scope is cancelled, as by a hard end of the server."""
    job = Job("life", spec_of("echo out; sleep 600 & exit 0"), "alice", world.limits, None, 1, world.log)
    ran: list[bool] = []
    with cancelling:
        await job.run(world.hierarchies, world.spawner, lambda: ran.append(True))
    expect(job.ended.is_set() == bool(ran), "it ran and has no end" if ran else "it ended and never ran")
    expect(job.output.closed == bool(ran), "its output was not closed")


async def stop(world: World, cancelling: Cancelling) -> None:
    """Whoever stops a job goes away: it is stopped all the same."""
    job = await world.start(STUBBORN)
    await read_until(job.output, b"ready\n")
    with cancelling:
        await job.stop(ALICE, 0.005)
    await job.ended.wait()
    expect(job.cause == ALICE, f"a stopped job ended by {job.cause}")


async def drain(world: World, cancelling: Cancelling) -> None:
    """The jobs' end at a shutdown is cut short: they are killed then."""
    async with trio.open_nursery() as jobs:
        # Its own registry: one that was closed starts no more.
        registry = Registry(jobs, world.hierarchies, world.spawner, world.log, 10.0)
        start = partial(registry.start, owner="alice", limits=None, seconds=None)

        async def start_late() -> None:
            await trio.lowlevel.checkpoint()
            with suppress(RequestError):
                await start(spec_of("exec sleep 600"))

        await read_until((await start(spec_of(STUBBORN))).output, b"ready\n")
        jobs.start_soon(start_late)
        with cancelling:
            await registry.stop_all(SHUTDOWN, 0.005)
            await trio.sleep(0.02)  # what it may have missed has time to show
            for job in registry.jobs:
                expect(job.ended.is_set(), "a job outlived the end of all")
        jobs.cancel_scope.cancel()  # as Server.run does on its way out
    for job in registry.jobs:
        expect(job.ended.is_set(), "a job has no end")


async def restart(world: World, cancelling: Cancelling) -> None:
    """The spawner is killed while a job starts, and another one comes."""
    with open_hierarchies() as hierarchies:
        spawner = Spawner(hierarchies, world.log)
        with cancelling:
            async with trio.open_nursery() as link:
                await link.start(spawner.run)
                os.kill(spawner.pid, signal.SIGKILL)
                for number in range(100):
                    job = Job(str(number), spec_of("echo out"), "alice", None, None, 1, world.log)
                    with suppress(SpawnError):  # it was lost with the first one
                        await job.run(hierarchies, spawner, lambda: None)
                    if job.end is not None and not job.end.lost:
                        break
                else:
                    raise LeftError("no new spawner runs a job")
                link.cancel_scope.cancel()
        expect(not private(spawner, "_children"), "the link waits for a process of a dead spawner")


OPERATIONS: tuple[Operation, ...] = (
    start,
    start_that_fails,
    start_again,
    life,
    stop,
    drain,
    restart,
)
