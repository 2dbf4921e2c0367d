"""Owns the operations whose audit log is read afterwards: each request that was allowed has one outcome."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
import trio.testing

from certs.roles import Identity, Role
from client.errors import ClientError
from client.trio_client import Client, client_over
from tests.race.cancel import Cancelling, Operation
from tests.race.connection_operations import MemoryTransport
from tests.race.footprint import expect
from tests.race.world import World
from wire.errors import RequestError
from worker.audit import Audit, Trail
from worker.session import Session

ALICE = Identity("alice", "01", Role.ADMIN)
OUTCOMES = {
    "start": {"job_started", "job_refused", "start_repeated"},
    "stop": {"job_stopping", "request_failed"},
    "remove": {"job_removed", "request_failed"},
}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What an audit log says, which is then removed."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    path.unlink()
    return found


@asynccontextmanager
async def audited(world: World, path: Path) -> AsyncIterator[Trail]:
    """The trail of a client whose every line must be written; in the end, each request has one outcome."""
    await trio.lowlevel.checkpoint()
    audit = Audit(str(path), world.log, required=True)
    try:
        yield Trail(audit).client(ALICE)
        await world.started()
    finally:
        audit.close()
        found = lines_of(path)
    asked = {line["request"]: line["method"] for line in found if line["event"] == "request"}
    outcomes = Counter(
        line["request"] for line in found if line["event"] in OUTCOMES.get(str(line.get("method")), ())
    )
    for request, method in asked.items():
        if method in OUTCOMES:
            expect(outcomes[request] == 1, f"a {method} has {outcomes[request]} outcomes in the audit log")


async def day(client: Client) -> None:
    """All that changes something, and a start that fails."""
    job = await client.start(["sh", "-c", "exec sleep 600"])
    with suppress(RequestError):
        await client.start(["/no/such/program"])
    await client.stop(job.id, grace=0.005)
    await client.remove(job.id)


async def audited_request(world: World, cancelling: Cancelling) -> None:
    """A client's requests are cancelled."""
    near, far = trio.testing.memory_stream_pair()
    async with audited(world, world.folder / "audit") as trail, trio.open_nursery() as nursery:

        async def serve() -> None:
            await Session(far, ALICE, world.registry, world.log, "test", trail=trail).run()
            await trio.aclose_forcefully(far)

        nursery.start_soon(serve)
        async with client_over(MemoryTransport(near), "memory") as client:
            with cancelling:
                await day(client)


async def audited_session(world: World, cancelling: Cancelling) -> None:
    """A connection is cut while its client asks."""
    near, far = trio.testing.memory_stream_pair()

    async def ask() -> None:
        await trio.lowlevel.checkpoint()
        with suppress(ClientError):
            async with client_over(MemoryTransport(near), "memory") as client:
                await day(client)

    async with audited(world, world.folder / "audit") as trail, trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        with cancelling:
            await Session(far, ALICE, world.registry, world.log, "test", trail=trail).run()
        await trio.aclose_forcefully(far)
        nursery.cancel_scope.cancel()


OPERATIONS: tuple[Operation, ...] = (audited_request, audited_session)
