"""What one client asks of the spawner, or a job leaves to it, holds up nobody else: its rounds are short."""

import array
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.harness import PATIENCE, SLOW, alive, children, eventually
from tests.worker.common import KeptLog, descriptors
from tests.worker.test_spawner import start
from wire.limits import Limits
from worker import spawner_main
from worker.cgroup import JobCgroup
from worker.hierarchy import Hierarchies
from worker.lag import Lag
from worker.link import GOODBYE, Incoming, frame
from worker.spawner import Spawner

pytestmark = pytest.mark.host
#: The most processor time that one round of its loop may take, in milliseconds.
ROUND_MS = 12 * SLOW
#: More requests than the kernel holds between server and spawner.
QUEUED = 100
ORPHANS = """
import os, sys
hear, say = os.pipe()
for _ in range(3000):
    if not os.fork():
        os.close(say)
        os.read(hear, 1)
        os._exit(0)
open(sys.argv[1]).close()
"""


@pytest.fixture
def lag(log: KeptLog) -> Lag:
    """What is told of a spawner's rounds."""
    return Lag(log, "late", "round")


@pytest.fixture
async def spawner(hierarchies: Hierarchies, log: KeptLog, lag: Lag) -> AsyncIterator[Spawner]:
    """A running spawner that tells of its rounds."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as link:
            spawner = Spawner(hierarchies, log, lag=lag)
            await link.start(spawner.run)
            yield spawner
            link.cancel_scope.cancel()


def longest(lag: Lag) -> float:
    return lag.figures()["longest_round_cpu_ms"]


async def test_many_starts_are_taken_one_a_round(spawner: Spawner, lag: Lag) -> None:
    await (await start(spawner, "true")).wait()
    os.kill(spawner.pid, signal.SIGSTOP)  # so that as many wait at once as can
    done: list[int] = []

    async def one(number: int) -> None:
        await (await start(spawner, "true", job=str(number))).wait()
        done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(400):
            nursery.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(spawner.pid, signal.SIGCONT)
    assert sorted(done) == list(range(400))
    await spawner.ping()
    assert 0 < longest(lag) < ROUND_MS


async def test_three_thousand_orphans_are_reaped_in_turns(spawner: Spawner, lag: Lag, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = await start(spawner, sys.executable, "-I", "-S", "-c", ORPHANS, str(fifo))
    eventually(lambda: len(children(child.pid)) == 3000, "its processes")
    os.kill(spawner.pid, signal.SIGSTOP)  # so that they have all ended when it looks
    fifo.write_text("")
    eventually(lambda: len(children(spawner.pid)) == 3001, "the end of their parent")
    eventually(lambda: not any(map(alive, children(spawner.pid))), "their own end")
    os.kill(spawner.pid, signal.SIGCONT)
    eventually(lambda: children(spawner.pid) == [], "every orphan reaped")
    assert (await child.wait()).code == 0
    await spawner.ping()
    assert 0 < longest(lag) < ROUND_MS


async def test_large_starts_are_no_long_rounds(spawner: Spawner, lag: Lag) -> None:
    words = ["x" * 21] * 65_000  # 2 MB, counted as the kernel does
    ends: list[int | None] = []

    async def one(number: int) -> None:
        ends.append((await (await start(spawner, "true", *words, job=str(number))).wait()).code)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
    assert ends == [0] * 20
    await spawner.ping()
    assert 0 < longest(lag) < ROUND_MS


async def test_a_source_that_asks_for_little_waits_for_little(spawner: Spawner) -> None:
    order: list[str] = []
    os.kill(spawner.pid, signal.SIGSTOP)

    async def one(job: str, source: str) -> None:
        await start(spawner, "true", job=job, source=source)
        order.append(source)

    async def ping() -> None:
        await spawner.ping()
        order.append("ping")

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(one, f"many {number}", "many")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(one, "few", "few")
        nursery.start_soon(ping)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(spawner.pid, signal.SIGCONT)
    assert order.index("few") < QUEUED, order.index("few")
    assert order.index("ping") < QUEUED, order.index("ping")


async def test_a_long_round_is_told(lag: Lag, log: KeptLog) -> None:
    await trio.lowlevel.checkpoint()
    lag.add(0.049, 0.012)
    assert log.messages == []
    lag.add(0.32, 0.001)
    assert lag.figures() == {"longest_round_ms": 320, "longest_round_cpu_ms": 12}
    (line,) = log.lines
    assert (line["message"], line["milliseconds"], line["cpu_milliseconds"]) == ("late", 320, 1)


async def test_a_start_that_is_born_dead_is_tried_again(spawner: Spawner, hierarchies: Hierarchies) -> None:
    for number in range(2):
        cgroup = JobCgroup(hierarchies, f"job {number}", Limits(pids=5))
        kill = cgroup.path / "cgroup.kill"
        if not kill.exists():
            pytest.skip("NOT TESTED: no cgroup.kill in the hierarchy that tracks")
        kill.write_text("1")
        assert (await (await start(spawner, "true", cgroup=cgroup)).wait()).code == 0
        assert await cgroup.remove()


def test_a_start_whose_descriptors_did_not_all_arrive_is_refused() -> None:
    """Its cgroups may be among them, and with those its limits."""
    ours, theirs = socket.socketpair()
    program = [sys.executable, "-I", "-S", spawner_main.__file__, str(theirs.fileno()), "1024", ""]
    null = os.open(os.devnull, os.O_RDWR)
    request = {"job": "a", "argv": 1, "user": None, "merge": True, "keep": False, "fds": 3}
    message = frame(request, b"/\0/bin/true")
    heard = Incoming()

    def answer(*ops: str) -> dict[str, object]:
        while True:
            while not heard.has_message():
                heard.feed(ours.recv(4096))
            told = heard.take()[0]
            if told["op"] in ops:
                return told

    with subprocess.Popen(program, pass_fds=[theirs.fileno()]) as process, ours:
        theirs.close()
        ours.settimeout(PATIENCE)
        ours.sendall(frame({"op": "ping"}))
        answer("pong")
        held = {int(name) for name in descriptors(process.pid)}
        usual = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        free = next(number for number in range(1024) if number not in held)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (free + 1, usual[1]))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 3))]
        ours.sendmsg([message[:10]], rights)
        eventually(lambda: len(descriptors(process.pid)) == len(held) + 1, "what there is room for")
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, usual)
        ours.sendmsg([message[10:]])
        told = answer("failed", "started")
        assert (told["op"], told["errno"]) == ("failed", errno.EMFILE)
        ours.sendmsg([frame(request, b"/\0/bin/true")], rights)  # and the next one has its own
        assert answer("failed", "started")["errno"] == errno.ENOTDIR  # joined /dev/null, as it was asked to
        ours.sendall(GOODBYE)
        ours.close()
        assert process.wait(PATIENCE) == 0
    os.close(null)
