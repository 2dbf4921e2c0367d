"""A start that is asked for again has one process, one answer and a line of its own in the audit log."""

import dataclasses
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from certs.roles import Identity, Role
from tests.harness import PATIENCE
from tests.worker.common import KeptLog
from wire import codec
from wire.errors import ErrorCode, RequestError
from wire.jobs import StartParams
from wire.limits import Limits
from wire.messages import Request
from worker import repeats as repeats_module
from worker import start_room
from worker.audit import NO_TRAIL, Audit, Trail
from worker.catalog import Catalog
from worker.hierarchy import Hierarchies
from worker.job import Job
from worker.methods import prepare
from worker.registry import Registry
from worker.repeats import Claim, Repeats
from worker.spawner import Spawner
from worker.start_room import StartRoom

ID = "0d9b7e3a-6c1f-4f52-9a58-1be5a6d2c7f4"
ALICE, BOB = (Identity(name, "01", Role.ADMIN) for name in ("alice", "bob"))
PARAMS = StartParams((b"true",), id=ID)


class World:
    """Repeats whose starts the test settles: `begun` are those that were called."""

    def __init__(self) -> None:
        self.jobs = Catalog(ID)
        self.room = StartRoom()
        self.repeats = Repeats(self.jobs, self.room)
        self.begun: list[Claim] = []
        self.go = trio.Event()
        self.failure: RequestError | None = None

    async def start(self, claim: Claim) -> Job:
        self.begun.append(claim)
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        claim.begun = True
        job = cast("Job", SimpleNamespace(id=claim.id))
        self.jobs.add(job)
        self.repeats.settle(claim)
        return job

    async def ask(
        self, params: StartParams = PARAMS, identity: Identity = ALICE, trail: Trail = NO_TRAIL
    ) -> Job | str:
        try:
            return await self.repeats.once(params, identity, trail, self.start)
        except RequestError as error:
            await trio.lowlevel.checkpoint()
            return error.code


async def together(*asked: Callable[[], Awaitable[Any]], then: Callable[[], Any] = lambda: None) -> list[Any]:
    """Ask for all of it at once, do something when all wait, and return the answers."""
    answers: list[Any] = [None] * len(asked)

    async def ask(place: int, one: Callable[[], Awaitable[Any]]) -> None:
        answers[place] = await one()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for place, one in enumerate(asked):
                nursery.start_soon(ask, place, one)
            await trio.testing.wait_all_tasks_blocked(0.05)
            then()
    return answers


async def test_the_same_start_has_one_job_while_it_is_under_way_and_later() -> None:
    world = World()
    first, *others = await together(*[world.ask] * 5, then=world.go.set)
    assert isinstance(first, SimpleNamespace)
    assert others == [first] * 4
    assert await together(world.ask) == [first]
    assert [claim.id for claim in world.begun] == [ID]
    assert not world.room._held


async def test_starts_without_an_id_are_each_their_own() -> None:
    world = World()
    found = await together(*[lambda: world.ask(replace(PARAMS, id=None))] * 3, then=world.go.set)
    assert len({job.id for job in found}) == 3


OTHERS: list[dict[str, Any]] = [
    {"argv": (b"true", b"")},
    {"argv": (b"tru", b"e")},
    {"env": {b"A": b"1"}},
    {"cwd": b"/"},
    {"merge": True},
    {"timeout": 1.0},
    {"limits": Limits(pids=5)},
    {"user": "nobody"},
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
async def test_an_id_is_refused_to_a_start_with_other_parameters(other: dict[str, Any]) -> None:
    world = World()
    repeat = partial(world.ask, replace(PARAMS, **other))

    async def early() -> Any:
        await trio.testing.wait_all_tasks_blocked()
        return await repeat()

    found = await together(world.ask, early, then=world.go.set)
    assert found == [world.jobs.find(ID), ErrorCode.BAD_REQUEST]
    assert await repeat() is ErrorCode.BAD_REQUEST
    assert len(world.begun) == 1


async def test_every_parameter_counts() -> None:
    assert {*itertools.chain(*OTHERS), "id"} == {each.name for each in dataclasses.fields(StartParams)}
    world = World()
    world.go.set()
    with_env = replace(PARAMS, env={b"A": b"1", b"B": b"2"})
    assert isinstance(await world.ask(with_env), SimpleNamespace)
    for env in ({b"A": b"1"}, {b"A": b"2", b"B": b"1"}, {b"A": b"1", b"B": b""}, {b"A": b"1", b"B": b"3"}):
        assert await world.ask(replace(PARAMS, env=env)) is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("identity", [BOB, replace(ALICE, role=Role.USER)], ids=lambda one: one.principal)
async def test_an_id_is_refused_to_another_identity(identity: Identity) -> None:
    world = World()
    world.go.set()
    await world.ask()
    assert await world.ask(identity=identity) is ErrorCode.BAD_REQUEST
    assert isinstance(await world.ask(identity=replace(ALICE, serial="02")), SimpleNamespace)


async def test_what_means_the_same_is_the_same() -> None:
    world = World()
    world.go.set()
    one = {
        "argv": [b"a", b"b"],
        "env": {b"A": b"1", b"B": b"2"},
        "timeout": 5.0,
        "limits": {},
        "merge": False,
    }
    other = {"argv": ["a", "b"], "env": {"B": "2", "A": "1"}, "timeout": 5, "limits": None, "cwd": None}
    first = await world.ask(codec.from_map(StartParams, {**one, "id": ID}))
    assert await world.ask(codec.from_map(StartParams, {**other, "id": ID})) is first
    assert len(world.begun) == 1


@pytest.mark.parametrize(
    "id_", ["", "x", ID.upper(), ID.replace("-", ""), f"{ID}\n", f" {ID}", "../../etc" * 4]
)
async def test_an_id_is_a_uuid(id_: str) -> None:
    world = World()
    assert await world.ask(replace(PARAMS, id=id_)) is ErrorCode.BAD_REQUEST
    assert not world.begun


async def test_a_start_that_fails_is_told_to_all_that_wait_and_frees_its_id() -> None:
    world = World()
    world.failure = RequestError(ErrorCode.START_FAILED, "no")
    assert await together(*[world.ask] * 3, then=world.go.set) == [ErrorCode.START_FAILED] * 3
    assert len(world.begun) == 1
    world.failure = None
    assert isinstance(await world.ask(replace(PARAMS, argv=(b"other",))), SimpleNamespace)


async def test_a_start_that_is_cancelled_before_it_was_begun_leaves_its_id_to_one_that_waits() -> None:
    world = World()
    scope = trio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await world.ask()

    async def repeat() -> Any:
        await trio.testing.wait_all_tasks_blocked()
        return await world.ask()

    async def look() -> Job:
        await trio.testing.wait_all_tasks_blocked()
        await world.repeats.wait_settled(ID)
        return world.jobs.find(ID)

    def go_on() -> None:
        assert len(world.begun) == 1
        scope.cancel()
        world.go.set()

    _, *found = await together(cancelled, repeat, repeat, look, then=go_on)
    assert scope.cancelled_caught
    assert len(world.begun) == 2
    assert found == [world.jobs.find(ID)] * 3


async def test_whoever_asks_for_a_job_right_after_its_start_finds_it() -> None:
    for _ in range(12):  # which of two tasks comes first is chance
        world = World()

        async def look(world: World = world) -> Job:
            await world.repeats.wait_settled(ID)
            return world.jobs.find(ID)

        world.go.set()
        job, found = await together(world.ask, look)
        assert found is job


async def test_the_newest_ids_of_removed_jobs_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats_module, "MOST_FORGOTTEN", 3)
    world = World()
    world.go.set()
    ids = [ID[:-1] + digit for digit in "01234"]
    for id_ in ids:
        await world.ask(replace(PARAMS, id=id_))
        world.jobs.forget(id_)
        world.repeats.forget(id_)
    assert len(world.begun) == 5
    for id_ in ids[2:]:
        assert await world.ask(replace(PARAMS, id=id_)) is ErrorCode.NOT_FOUND
        assert await world.ask(replace(PARAMS, id=id_), BOB) is ErrorCode.NOT_FOUND
    assert len(world.begun) == 5
    assert not world.repeats._digests
    assert isinstance(await world.ask(replace(PARAMS, id=ids[0])), SimpleNamespace)


async def test_repeats_that_wait_hold_what_their_identity_may_hold_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = replace(PARAMS, argv=(b"true", *[b"x" * 20] * 1000))
    monkeypatch.setattr(start_room, "MOST", 2 * start_room.weight_of(large.argv, {}))
    world = World()
    found = await together(*[lambda: world.ask(large)] * 5, then=world.go.set)
    assert sorted(map(str, found)).count(ErrorCode.BUSY) == 2
    assert len(world.begun) == 1
    assert not world.room._held


# --- on a real registry


@dataclass
class Asking:
    """What a method is given of one client."""

    registry: Registry
    trail: Trail
    identity: Identity = ALICE
    requests: int = 0

    async def ask(self, method: str, **params: Any) -> Any:
        self.requests += 1
        request = Request(self.requests, method, params)
        call = replace(self, trail=self.trail.request(request))
        call.trail.allowed(request)
        try:
            return (await prepare(Role.ADMIN, request)(cast("Any", call)))().job  # type: ignore[attr-defined]
        except RequestError as error:
            call.trail.failed(error)
            await trio.lowlevel.checkpoint()
            return error.code
        except trio.Cancelled:
            call.trail.cancelled()
            raise


@dataclass
class Audited:
    """A real registry, and what its audit log says."""

    registry: Registry
    audit: Audit
    path: Path
    clients: dict[Identity, Asking] = field(default_factory=dict)

    def client(self, identity: Identity = ALICE) -> Asking:
        return Asking(self.registry, Trail(self.audit).client(identity), identity)

    def outcomes(self) -> list[tuple[Any, ...]]:
        self.audit.close()
        lines = map(json.loads, self.path.read_text().splitlines())
        names = ("event", "outcome", "request", "job", "code")
        return [tuple(line.get(name) for name in names) for line in lines if line["event"] != "request"]


@pytest.fixture
async def audited(
    hierarchies: Hierarchies, spawner: Spawner, log: KeptLog, tmp_path: Path
) -> AsyncIterator[Audited]:
    audit = Audit(str(tmp_path / "audit.log"), log)
    async with trio.open_nursery() as jobs:
        registry = Registry(jobs, hierarchies, spawner, log, 10.0, trail=Trail(audit))
        yield Audited(registry, audit, tmp_path / "audit.log")
        jobs.cancel_scope.cancel()


@pytest.mark.host
async def test_a_repeat_is_answered_and_recorded_and_runs_once(audited: Audited, tmp_path: Path) -> None:
    client, told = audited.client(), tmp_path / "told"
    start = {"argv": ["sh", "-c", f"echo $0 >> {told}", ID], "id": ID}
    first = await client.ask("start", **start)
    assert (first.id, first.argv[-1]) == (ID, ID.encode())
    await client.ask("wait", id=ID)
    again = await client.ask("start", **start)
    assert (again.id, again.pid, again.exit_code) == (ID, first.pid, 0)
    assert await audited.client(BOB).ask("start", **start) is ErrorCode.BAD_REQUEST
    assert (await client.ask("remove", id=ID)).id == ID
    assert await client.ask("start", **start) is ErrorCode.NOT_FOUND
    assert told.read_text() == f"{ID}\n"
    assert audited.outcomes() == [
        ("job_started", "done", 1, ID, None),
        ("job_ended", "exited", 1, ID, None),
        ("start_repeated", "done", 3, ID, None),
        ("job_refused", "failed", 1, None, "bad_request"),
        ("job_removed", "done", 4, ID, None),
        ("job_refused", "failed", 5, None, "not_found"),
    ]


@pytest.mark.host
async def test_a_start_that_has_begun_goes_on_when_it_is_cancelled_and_can_be_found(
    audited: Audited, spawner: Spawner
) -> None:
    client = audited.client()
    start = {"argv": ["true"], "id": ID}
    os.kill(spawner.pid, signal.SIGSTOP)
    scopes: list[trio.CancelScope] = []

    async def cancelled() -> Any:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            return await client.ask("start", **start)
        return None

    async def repeat_that_is_cancelled() -> Any:
        await trio.testing.wait_all_tasks_blocked()
        return await cancelled()

    async def later(method: str, **params: Any) -> Any:
        await trio.testing.wait_all_tasks_blocked(0.01)
        return await client.ask(method, **params)

    def go_on() -> None:
        for scope in scopes:
            scope.cancel()
        os.kill(spawner.pid, signal.SIGCONT)

    found = await together(
        cancelled,
        repeat_that_is_cancelled,
        *(partial(later, method, id=ID) for method in ("query", "wait", "stop")),
        partial(later, "start", **start),
        then=go_on,
    )
    assert found[:2] == [None, None]
    assert {(status.id, status.pid) for status in found[2:]} == {(ID, found[2].pid)}
    assert found[2].pid
    outcomes = [line[:2] + line[4:] for line in audited.outcomes()]
    assert sorted(outcomes[:4], key=str) == [
        ("job_started", "done", None),
        ("job_stopping", "done", None),
        ("start_repeated", "done", None),
        ("start_repeated", "failed", "cancelled"),
    ]


@pytest.mark.host
async def test_a_failed_start_frees_its_id(audited: Audited) -> None:
    client = audited.client()
    missing = {"argv": ["/no/such/program"], "id": ID}
    found = await together(*[lambda: client.ask("start", **missing)] * 2, lambda: client.ask("query", id=ID))
    assert found == [ErrorCode.NO_SUCH_PROGRAM] * 2 + [ErrorCode.NOT_FOUND]
    assert (await client.ask("start", argv=["true"], id=ID)).id == ID
    await client.ask("wait", id=ID)
    assert sorted(line[:2] for line in audited.outcomes()) == [
        ("job_ended", "exited"),
        ("job_refused", "failed"),
        ("job_started", "done"),
        ("request_failed", "failed"),
        ("start_repeated", "failed"),
    ]
