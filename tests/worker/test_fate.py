"""What is told of connections that came to no session, one by one and by their number."""

import json
from pathlib import Path

import trio
import trio.testing

from tests.worker.common import KeptLog
from worker.audit import Audit, Trail
from worker.fate import BURST, PERIOD, Failures, Fate
from worker.gate import Visit


async def test_a_flood_of_strangers_writes_no_line_for_each(
    log: KeptLog, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "audit.log"
    audit = Audit(str(path), log)
    trail = Trail(audit)
    failures = Failures(log, trail)
    visit = Visit("192.0.2.1:1", "192.0.2.1", 0)

    def fail(times: int) -> None:
        for _ in range(times):
            Fate(failures, visit, trail.about(peer=visit.peer)).refused("no")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(failures.run)
        await trio.testing.wait_all_tasks_blocked()
        fail(BURST + 5000)
        await trio.sleep(1.5 * PERIOD)
        fail(BURST + 1)
        nursery.cancel_scope.cancel()
    audit.close()
    told = [line for line in log.lines if line["message"] == "a TLS handshake was refused"]
    assert [(line["peer"], line["reason"]) for line in told] == [("192.0.2.1:1", "no")] * 2 * BURST
    assert [line["connections"] for line in log.lines if "connections" in line] == [5000, 1]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all((line["event"], line["outcome"]) == ("handshake_failed", "failed") for line in lines)
    assert [line["connections"] for line in lines if "connections" in line] == [5000, 1]
    assert len([line for line in lines if "peer" in line]) == 2 * BURST


async def test_one_connection_fails_once(log: KeptLog) -> None:
    await trio.lowlevel.checkpoint()
    trail = Trail()
    visit = Visit("192.0.2.1:1", "192.0.2.1", 0)
    fate = Fate(Failures(log, trail), visit, trail)
    fate.left()
    assert log.lines == []
    fate.refused("no")
    visit.dropped = visit.late = True
    fate.left()
    assert [line["reason"] for line in log.lines] == ["no"]
    fate.cut("reset")
    assert log.messages == ["a TLS handshake was refused", "a connection was cut"]
