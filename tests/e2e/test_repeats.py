"""Starts that are cut or cancelled, or whose server is restarted: each runs once, or its client is told.

What ran is counted by what the jobs leave, a line each in a file, and by the audit log.
"""

import json
import random
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from client.errors import UncertainStartError
from client.trio_client import Client, open_client
from tests.client.either import KINDS, connected
from tests.harness import PATIENCE, Server, serve
from tests.proxy import Proxy, proxy
from wire.errors import ErrorCode, RequestError
from wire.jobs import CauseKind

STARTS, CUTS, TASKS = 500, 50, 10
#: About so many bytes come from the server for ten starts, of which a new connection's handshake are half.
WITHIN = 8 * 1024


@dataclass
class Told:
    """What the client was told of each start, by the job's id."""

    started: list[str] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)

    async def start(self, client: Client, path: Path) -> None:
        await trio.lowlevel.checkpoint()
        id_ = str(uuid.uuid4())
        try:
            job = await client.start(["sh", "-c", f"echo $0 >> {path}", id_], id=id_)
        except UncertainStartError as error:
            self.uncertain.append(str(error.job_id))
        else:
            self.started.append(job.id)


async def start_all(told: Told, between: Proxy, certs: Path, path: Path, count: int = STARTS) -> None:
    """So many starts, some at a time, through the proxy."""
    left = iter(range(count))

    async def some() -> None:
        await trio.lowlevel.checkpoint()
        for _ in left:
            await told.start(client, path)

    with trio.fail_after(PATIENCE):
        async with (
            open_client(between.address, certs=certs, identity="admin") as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(TASKS):
                nursery.start_soon(some)


async def all_ended(server: Server) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(server.address, certs=server.certs, identity="admin") as client:
            async for job in client.list():
                await client.wait(job.id)


def events(*logs: Path) -> Counter[tuple[str, str]]:
    """How often each event is in audit logs for each job."""
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return Counter((line["event"], line["job"]) for line in lines if "job" in line)


async def test_500_starts_over_50_cuts_run_once_each(shared_certificates: Path, tmp_path: Path) -> None:
    told, ran, audit = Told(), tmp_path / "ran", tmp_path / "audit.log"
    with serve(shared_certificates, "--audit", str(audit)) as server, proxy(server.port, seed=12) as between:
        between.cut_later(CUTS, WITHIN)
        await start_all(told, between, server.certs, ran)
        await all_ended(server)
    assert between.accepted > CUTS
    assert not told.uncertain
    assert Counter(ran.read_text().split()) == Counter(told.started)
    found = events(audit)
    assert {id_: count for (event, id_), count in found.items() if event == "job_started"} == dict.fromkeys(
        told.started, 1
    )
    assert sum(count for (event, _), count in found.items() if event == "start_repeated") > CUTS // 10


async def test_starts_over_cuts_and_a_restart_run_once_or_are_told(
    shared_certificates: Path, tmp_path: Path
) -> None:
    told, ran, audits = Told(), tmp_path / "ran", [tmp_path / "first.log", tmp_path / "second.log"]
    with ExitStack() as servers:
        first = servers.enter_context(serve(shared_certificates, "--audit", str(audits[0])))
        between = servers.enter_context(proxy(first.port, seed=13))

        async def restart() -> None:
            while len(told.started) < STARTS // 2:  # noqa: ASYNC110  # other tasks go on meanwhile
                await trio.sleep(0.001)
            first.process.kill()
            await trio.to_thread.run_sync(first.process.wait)
            second = serve(shared_certificates, "--audit", str(audits[1]))
            between.target = (await trio.to_thread.run_sync(servers.enter_context, second)).port

        between.cut_later(CUTS, WITHIN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await start_all(told, between, shared_certificates, ran)
    found = events(*audits)
    started = {id_: count for (event, id_), count in found.items() if event == "job_started"}
    assert len(told.started) + len(told.uncertain) == STARTS
    assert 0 < len(told.uncertain) <= TASKS
    lines = Counter(ran.read_text().split())
    assert set(lines.values()) == {1}
    assert set(started.values()) == {1}
    assert lines.keys() <= {*told.started, *told.uncertain}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_comes_back_to_a_server_that_was_restarted(
    shared_certificates: Path, kind: str
) -> None:
    with ExitStack() as servers:
        first = servers.enter_context(serve(shared_certificates))
        between = servers.enter_context(proxy(first.port))
        async with connected(kind, between.address, shared_certificates) as client:
            before = await client.start(["sh", "-c", "echo ready; exec sleep 600"])
            async with client.stream(before.id) as stream:
                assert await stream.piece() is not None
                first.process.send_signal(signal.SIGTERM)
                while await stream.piece() is not None:
                    pass
                assert stream.job.cause is not None
                assert stream.job.cause.kind is CauseKind.STOPPED
            first.end()
            second = servers.enter_context(serve(shared_certificates))
            between.target = second.port
            for ask in (client.query, client.wait, client.stop, client.remove):
                with pytest.raises(RequestError, match="if the job is of before, it is gone") as caught:
                    await ask(before.id)
                assert caught.value.code is ErrorCode.NOT_FOUND
            assert await client.list() == ()
            after = await client.start(["true"])
            assert (await client.wait(after.id[:8])).exit_code == 0


async def test_cancelled_starts_can_be_found_by_their_ids_or_never_ran(
    shared_certificates: Path, tmp_path: Path
) -> None:
    ran, audit, chance = tmp_path / "ran", tmp_path / "audit.log", random.Random(14)  # noqa: S311
    ids = [str(uuid.uuid4()) for _ in range(201)]
    found: dict[str, str | None] = {}

    async def start(client: Client, id_: str) -> None:
        await client.start(["sh", "-c", f"echo $0 >> {ran}", id_], id=id_)

    async def give_up(client: Client, id_: str, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await start(client, id_)
        try:
            assert (await client.query(id_)).pid
            found[id_] = None
        except RequestError as error:
            found[id_] = error.code

    async def some(client: Client, unit: float, left: Iterator[str]) -> None:
        await trio.lowlevel.checkpoint()
        for id_ in left:
            await give_up(client, id_, unit * chance.uniform(0.1, 2.1))

    with serve(shared_certificates, "--audit", str(audit)) as server:
        with trio.fail_after(PATIENCE):
            async with open_client(server.address, certs=server.certs, identity="admin") as client:
                begun = trio.current_time()
                await start(client, ids[0])
                unit = max(0.02, trio.current_time() - begun)  # else from 2 to 42 ms
                left = iter(ids[1:])
                async with trio.open_nursery() as nursery:
                    for _ in range(TASKS):
                        nursery.start_soon(some, client, unit, left)
        await all_ended(server)
    assert set(found.values()) <= {None, ErrorCode.NOT_FOUND}
    there = {ids[0]} | {id_ for id_, code in found.items() if code is None}
    assert len(there) > 1
    assert Counter(ran.read_text().split()) == Counter(there)
    outcomes = events(audit)
    assert all(outcomes["job_started", id_] == (id_ in there) for id_ in ids)
