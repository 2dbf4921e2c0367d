"""What is told of refusals, one by one and by their number, and that nothing else is left out."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from certs.roles import Identity, Role
from tests.worker.common import KeptLog
from wire.errors import ErrorCode, RequestError
from wire.messages import Request
from worker import refusals as refusals_module
from worker.audit import Audit, Event, Outcome, Trail
from worker.refusals import BURST, PERIOD, Refusal, Refusals

EVE, BOB = (Identity(name, "01", Role.USER) for name in ("eve", "bob"))
ADMIN = Identity("eve", "02", Role.ADMIN)
DENIED = RequestError(ErrorCode.DENIED, "no")
NOT_FOUND = RequestError(ErrorCode.NOT_FOUND, "none")
START, QUERY = Request(1, "start", {"argv": ["x"]}), Request(2, "query", {"id": "a"})


def of(lines: list[dict[str, Any]], **fields: object) -> list[dict[str, Any]]:
    return [line for line in lines if fields.items() <= line.items()]


async def test_a_flood_of_refusals_writes_no_line_for_each_and_leaves_out_nobody_elses(
    log: KeptLog, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path, refusals = tmp_path / "audit.log", Refusals(log)
    audit = Audit(str(path), log)
    root = Trail(audit).counting(refusals)
    eve, bob, admin = map(root.client, (EVE, BOB, ADMIN))
    told = Counter[bool]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refusals.run, root.more)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(BURST + 5000):
            told[eve.request(START).refused(START, DENIED)] += 1
            eve.request(QUERY).allowed(QUERY)
            eve.request(QUERY).failed(NOT_FOUND)
        for client in (bob, admin):
            assert client.request(START).refused(START, DENIED)
        for _ in range(BURST + 3):
            admin.request(START).failed(NOT_FOUND)
            root.about(peer="p", identity="nobody").denied("no role")
        await trio.sleep(1.5 * PERIOD)
        for _ in range(BURST + 1):
            eve.request(START).refused(START, DENIED)
        nursery.cancel_scope.cancel()
    audit.close()
    assert told == {True: BURST, False: 5000}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    eves = of(lines, identity="eve", role="User")
    denied = of(eves, event="request", outcome="denied")
    assert [line["requests"] for line in denied if "requests" in line] == [5000, 1]
    assert len(denied) == 2 * BURST + 2
    failed = of(eves, event="request_failed")
    assert [line["requests"] for line in failed if "requests" in line] == [5000]
    assert len(of(eves, outcome="allowed")) == BURST + 5000
    assert len(of(lines, identity="bob")) == 1
    assert len(of(lines, role="Admin", outcome="denied")) == 1
    assert len(of(lines, role="Admin", event="job_refused")) == BURST + 3
    shut_out = of(lines, event="connection_denied", identity="nobody")
    assert [line["connections"] for line in shut_out if "connections" in line] == [3]
    assert sorted(line["times"] for line in log.lines) == [1, 3, 5000, 5000]


async def test_what_fails_while_it_tells_tells_nothing_twice(
    log: KeptLog, autojump_clock: trio.testing.MockClock
) -> None:
    refusals, told = Refusals(log), list[tuple[str | None, int]]()

    def refuse(name: str) -> None:
        for _ in range(BURST + 7):
            refusals.may_tell(Refusal(Event.REQUEST, Outcome.DENIED, name, "User"))

    def tell(kind: Refusal, count: int) -> None:
        told.append((kind.identity, count))
        if len(told) == 1:
            refuse("ann")  # in the next period
            raise MemoryError

    refuse("eve")
    refuse("bob")
    with pytest.raises(MemoryError):
        await refusals.run(tell)
    with trio.move_on_after(2.5 * PERIOD):
        await refusals.run(tell)
    assert sorted(told) == [("ann", 7), ("bob", 7), ("eve", 7)]


def test_however_many_clients_there_are_they_take_bounded_room(
    log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "MOST_KINDS", 10)
    refusals = Refusals(log)
    kinds = [Refusal(Event.REQUEST, Outcome.DENIED, str(number), "User") for number in range(10 + BURST + 5)]
    told = [refusals.may_tell(kind) for kind in kinds]
    assert told == [True] * (10 + BURST) + [False] * 5
    assert len(refusals._counts) == 11
