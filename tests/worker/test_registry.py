"""Jobs are found by id and prefix, start once or not at all, and all end when the server does."""

import os
import signal
from collections.abc import AsyncIterator
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.harness import PATIENCE, children, eventually
from tests.worker.common import KeptLog, directories
from wire.errors import ErrorCode, RequestError
from wire.jobs import Cause, CauseKind, Status
from wire.limits import Limits
from worker import start_room
from worker.audit import Trail
from worker.catalog import Catalog
from worker.child import ProcessSpec
from worker.hierarchy import Hierarchies
from worker.job import Job
from worker.registry import Registry
from worker.retain import Retention
from worker.spawner import Spawner

SHUTDOWN = Cause(CauseKind.STOPPED, by="server")


def spec(*argv: str) -> ProcessSpec:
    return ProcessSpec(tuple(map(os.fsencode, argv)), {b"PATH": b"/usr/bin:/bin"}, b"/", merge=False)


@pytest.fixture
async def registry(hierarchies: Hierarchies, spawner: Spawner, log: KeptLog) -> AsyncIterator[Registry]:
    async with trio.open_nursery() as jobs:
        yield Registry(jobs, hierarchies, spawner, log, 10.0)
        jobs.cancel_scope.cancel()


async def start(registry: Registry, *argv: str, limits: Limits | None = None) -> Job:
    return await registry.start(spec(*argv), owner="alice", limits=limits, seconds=None)


# --- pages


INSTANCE = "0d9b7e3a-6c1f-4f52-9a58-1be5a6d2c7f4"


class Touched(list[SimpleNamespace]):
    """Jobs by number, and how many of them were looked at."""

    touched = 0

    def __getitem__(self, place: Any) -> Any:
        self.touched += 1
        return super().__getitem__(place)


@pytest.mark.parametrize(
    ("cursor", "first"),
    [
        (None, 1),
        ("1:0d9b7e3a", 3),
        ("2:0d9b7e3a", 3),
        ("15000:0d9b7e3a", 15001),
        ("19999:0d9b7e3a", None),
    ],
)
def test_what_is_behind_a_cursor_is_found_without_a_look_at_the_rest(
    cursor: str | None, first: int | None
) -> None:
    catalog = Catalog(INSTANCE)
    jobs = Touched(SimpleNamespace(number=number) for number in range(1, 20_000, 2))
    catalog._order, catalog._count = cast("list[Job]", jobs), 20_000
    found = list(islice(catalog.after(cursor), 3))
    assert [job.number for job in found[:1]] == ([] if first is None else [first])
    assert jobs.touched < 50


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", ":", "1:", "1:x", "1:0d9b7e3", "1:0D9B7E3A", "1:0d9b7e3a0", "1:e5b1c3a0:"),
        *("-1:0d9b7e3a", "1.5:0d9b7e3a", "\u0663:0d9b7e3a", "9" * 20, "0", "0:0d9b7e3a", "01:e5b1c3a0"),
        "4:0d9b7e3a",  # of this server, if it had started so many jobs
    ],
)
def test_what_no_server_gave_as_a_cursor_is_refused_as_that(cursor: str) -> None:
    catalog = Catalog(INSTANCE)
    for name in "abc":
        catalog.add(cast("Job", SimpleNamespace(id=name)))
    with pytest.raises(RequestError, match="is no `next` of a page") as caught:
        catalog.after(cursor)
    assert (caught.value.code, caught.value.field) == (ErrorCode.BAD_REQUEST, "after")


def test_a_cursor_of_before_a_restart_is_refused() -> None:
    """Else the jobs up to that number would be left out, and nobody told."""
    before, now = Catalog(INSTANCE), Catalog("e5b1c3a0-2f")
    for catalog in (before, now):
        for _ in range(3):
            catalog.add(cast("Job", SimpleNamespace(id=str(len(list(catalog))))))
    cursor = before.cursor(next(iter(before)))
    assert len(list(before.after(cursor))) == 2
    with pytest.raises(RequestError, match="before the server's restart"):
        now.after(cursor)
    with pytest.raises(RequestError, match="before the server's restart"):
        before.after("1")  # as servers gave it that knew of no instance


# --- find


@pytest.fixture
def named() -> Catalog:
    """A catalog of three names."""
    found = Catalog(INSTANCE)
    for name in ("abc1", "abd2", "abc1d"):
        found.add(cast("Job", SimpleNamespace(id=name)))
    return found


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("abd2", "abd2"),
        ("abd", "abd2"),
        ("abc1", "abc1"),  # a whole id, though another begins with it
        ("abc1d", "abc1d"),
        ("abc", ErrorCode.AMBIGUOUS),
        ("a", ErrorCode.AMBIGUOUS),
        ("", ErrorCode.NOT_FOUND),
        ("ABD2", ErrorCode.NOT_FOUND),
        ("abd22", ErrorCode.NOT_FOUND),
        ("bd2", ErrorCode.NOT_FOUND),
        ("x" * 1_000_000, ErrorCode.NOT_FOUND),
    ],
)
def test_find(named: Catalog, asked: str, found: str | ErrorCode) -> None:
    if not isinstance(found, ErrorCode):
        assert named.find(asked).id == found
        return
    with pytest.raises(RequestError) as caught:
        named.find(asked)
    assert caught.value.code is found
    assert len(caught.value.message) < 200


def test_an_empty_id_names_nobody_also_where_there_is_one_job_only() -> None:
    """It is the beginning of every id, and what a program has whose variable was never set."""
    catalog = Catalog(INSTANCE)
    catalog.add(cast("Job", SimpleNamespace(id="abc")))
    with pytest.raises(RequestError) as caught:
        catalog.find("")
    assert caught.value.code is ErrorCode.NOT_FOUND


# --- start


@pytest.mark.host
async def test_a_started_job_is_listed_and_logged(registry: Registry, log: KeptLog) -> None:
    first = await start(registry, "sleep", "600")
    second = await start(registry, "true")
    await second.ended.wait()
    assert list(registry.jobs) == [first, second]
    assert (first.status().status, second.status().status) == (Status.RUNNING, Status.EXITED)
    assert registry.jobs.find(first.id[:13]) is first
    await trio.testing.wait_all_tasks_blocked()
    assert log.messages == ["job started", "job started", "job ended"]
    assert (log.lines[0]["job"], log.lines[0]["owner"], log.lines[0]["program"]) == (
        first.id,
        "alice",
        "sleep",
    )
    assert (log.lines[2]["job"], log.lines[2]["code"], log.lines[2]["cause"]) == (second.id, 0, "exited")


@pytest.mark.host
async def test_a_start_that_fails_is_explained_and_not_listed(
    registry: Registry, hierarchies: Hierarchies, log: KeptLog
) -> None:
    for argv, limits, code in (
        ("/no/such/program", None, ErrorCode.NO_SUCH_PROGRAM),
        ("/etc/passwd", Limits(pids=5), ErrorCode.NOT_EXECUTABLE),
        ("true", Limits(pids=-5), ErrorCode.LIMIT_REFUSED),
    ):
        with pytest.raises(RequestError) as caught:
            await start(registry, argv, limits=limits)
        assert caught.value.code is code
    del hierarchies.controllers["cpu"]
    with pytest.raises(RequestError, match="cpu limit cannot be enforced") as caught:
        await start(registry, "true", limits=Limits(cpu=500))
    assert caught.value.code is ErrorCode.LIMIT_REFUSED
    assert list(registry.jobs) == []
    assert directories(hierarchies) == []
    assert log.messages == []


@pytest.mark.host
async def test_a_start_goes_on_if_its_caller_is_cancelled(registry: Registry, spawner: Spawner) -> None:
    os.kill(spawner.pid, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, registry, "true")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    os.kill(spawner.pid, signal.SIGCONT)
    while not (jobs := list(registry.jobs)):  # noqa: ASYNC110  # nobody tells of it: its caller has gone
        await trio.sleep(0.001)
    await jobs[0].ended.wait()
    assert jobs[0].status().exit_code == 0


@pytest.mark.host
async def test_a_jobs_scope_that_fails_is_told_and_ends_nobody_else(
    registry: Registry, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Job, *rest: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("odd", [ZeroDivisionError()])

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", fail)
        with pytest.raises(RequestError) as caught:
            await start(registry, "true")
    assert caught.value.code is ErrorCode.INTERNAL
    assert "ZeroDivisionError" in log.lines[0]["traceback"]
    assert (await start(registry, "true")).pid


# --- the end


@pytest.mark.host
async def test_stop_all_stops_all_and_starts_no_more(
    registry: Registry, hierarchies: Hierarchies, spawner: Spawner
) -> None:
    jobs = [await start(registry, "sleep", "600") for _ in range(5)]
    await registry.stop_all(SHUTDOWN, 10)
    assert [job.cause for job in jobs] == [SHUTDOWN] * 5
    with pytest.raises(RequestError) as caught:
        await start(registry, "true")
    assert caught.value.code is ErrorCode.SHUTTING_DOWN
    assert directories(hierarchies) == []
    eventually(lambda: children(spawner.pid) == [], "no process left")
    await registry.stop_all(SHUTDOWN, 0)


@pytest.mark.host
class Ending(Trail):
    """The end of the server begins when a start has been looked at, and its task has not begun."""

    registry: Registry

    def hand_over(self) -> Trail:
        stopping = self.registry.stop_all(SHUTDOWN, 10)
        stopping.send(None)  # to its first checkpoint
        stopping.close()
        return super().hand_over()


async def test_a_start_that_has_just_been_asked_for_ends_with_stop_all(
    registry: Registry, spawner: Spawner
) -> None:
    trail = Ending()
    trail.registry = registry
    with pytest.raises(RequestError) as caught:
        await registry.start(spec("sleep", "600"), owner="alice", limits=None, seconds=None, trail=trail)
    assert caught.value.code is ErrorCode.SHUTTING_DOWN
    assert list(registry.jobs) == []
    assert children(spawner.pid) == []


async def test_starts_under_way_end_with_stop_all(
    registry: Registry, hierarchies: Hierarchies, spawner: Spawner
) -> None:
    codes: list[str] = []

    async def refused() -> None:
        with pytest.raises(RequestError) as caught:
            await start(registry, "sleep", "600")
        codes.append(caught.value.code)

    os.kill(spawner.pid, signal.SIGSTOP)
    with trio.fail_after(PATIENCE / 4):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(refused)
            await trio.testing.wait_all_tasks_blocked()
            await registry.stop_all(SHUTDOWN, 10)
    assert codes == [ErrorCode.SHUTTING_DOWN] * 3
    assert list(registry.jobs) == []
    os.kill(spawner.pid, signal.SIGCONT)
    with open(os.devnull, "wb") as null:  # noqa: PTH123, ASYNC230  # it does not block
        child = await spawner.spawn("last", ProcessSpec((b"/bin/true",), {}, b"/", True), [null.fileno()])
    await child.wait()
    eventually(lambda: children(spawner.pid) == [], "no process left")
    assert directories(hierarchies) == []


# --- remove and retention


async def ended(registry: Registry, *argv: str) -> Job:
    job = await start(registry, *argv)
    await job.ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    return job


@pytest.mark.host
async def test_an_ended_job_can_be_removed_and_is_then_unknown(registry: Registry) -> None:
    job = await ended(registry, "echo", "hello")
    assert registry.remove(job.id[:8]) is job
    with pytest.raises(RequestError) as caught:
        registry.jobs.find(job.id)
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert (list(registry.jobs), job.output.resident, job.output.dropped) == ([], 0, 6)


@pytest.mark.host
async def test_a_running_job_cannot_be_removed(registry: Registry) -> None:
    job = await start(registry, "sleep", "600")
    with pytest.raises(RequestError, match="stop it first") as caught:
        registry.remove(job.id)
    assert caught.value.code is ErrorCode.RUNNING
    assert list(registry.jobs) == [job]
    await job.stop(SHUTDOWN, 0)


@pytest.mark.host
async def test_pages_go_by_the_order_of_starts(registry: Registry) -> None:
    jobs = [await ended(registry, "true") for _ in range(4)]
    assert list(registry.jobs.after(None)) == jobs
    registry.remove(jobs[1].id)
    assert list(registry.jobs.after(registry.jobs.cursor(jobs[1]))) == jobs[2:]
    with pytest.raises(RequestError) as caught:
        registry.jobs.after("no cursor")
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.host
async def test_only_the_last_to_end_are_kept(registry: Registry) -> None:
    registry._retention = Retention(count=2)
    running = await start(registry, "sleep", "600")
    jobs = [await ended(registry, "true") for _ in range(4)]
    assert list(registry.jobs) == [running, *jobs[2:]]
    await running.stop(SHUTDOWN, 0)


@pytest.mark.host
async def test_jobs_are_kept_for_so_long(registry: Registry) -> None:
    registry._retention = Retention(seconds=0.3)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            running = await start(registry, "sleep", "600")
            for first in (True, False):
                before = trio.current_time()
                await ended(registry, "true")
                if first:
                    nursery.start_soon(registry.expire)
                while list(registry.jobs) != [running]:  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(0.001)
                assert trio.current_time() - before >= 0.3
            await running.stop(SHUTDOWN, 0)
            nursery.cancel_scope.cancel()


async def test_starts_under_way_hold_so_much_for_each_identity_and_no_more(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = spec("true", *("x" * 20 for _ in range(1000)))
    monkeypatch.setattr(start_room, "MOST", 2 * start_room.weight_of(large.argv, large.env))
    ended = list[str]()

    async def one(owner: str) -> None:
        try:
            await registry.start(large, owner=owner, limits=None, seconds=None)
        except RequestError as error:
            ended.append(error.code)
            await trio.lowlevel.checkpoint()
        else:
            ended.append("runs")

    async with trio.open_nursery() as nursery:
        for owner in ("alice", "alice", "alice", "bob"):
            nursery.start_soon(one, owner)
    assert sorted(ended) == [ErrorCode.BUSY, "runs", "runs", "runs"]
    # Those that failed or were cancelled give back what they held, too.
    missing = spec("/no/such/program", *("x" * 20 for _ in range(1000)))
    for _ in range(3):
        with pytest.raises(RequestError, match="no program"):
            await registry.start(missing, owner="alice", limits=None, seconds=None)
    with trio.CancelScope() as scope:
        scope.cancel()
        await one("alice")
    with trio.fail_after(PATIENCE):
        while registry._room._held:
            await trio.lowlevel.checkpoint()
    await one("alice")
    assert ended[-1] == "runs"
