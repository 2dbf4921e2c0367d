"""A job without a cgroup, and its keeper: the job may do what it likes to it."""

import os
import signal

import pytest
import trio

from tests.harness import PATIENCE
from tests.worker.common import KeptLog
from tests.worker.test_job import ALICE, make
from worker.hierarchy import Hierarchies
from worker.process_tree import ProcessTree
from worker.spawner import Spawner

pytestmark = [pytest.mark.host, pytest.mark.parametrize("kind", ["none"], indirect=True)]


@pytest.mark.parametrize("then", ["exec sleep 600", "exit 0"])
async def test_a_job_that_stops_its_keeper_can_be_stopped(
    spawner: Spawner, hierarchies: Hierarchies, log: KeptLog, then: str
) -> None:
    job, running = make(log, f"kill -STOP $PPID; {then}"), trio.Event()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.run, hierarchies, spawner, running.set)
            await running.wait()
            await job.stop(ALICE, 0.1)
    assert job.ended.is_set()


def test_a_pid_that_was_the_keepers_is_a_strangers(kind: str) -> None:
    del kind
    tree = ProcessTree()
    tree.adopt(os.getpid())
    child = os.fork()
    if not child:
        signal.pause()
    try:
        assert child in tree.pids()
        tree._birth = b"1"  # as if our pid had been another's before
        assert tree.pids() == []
        trio.run(tree.signal, signal.SIGKILL)
        trio.run(tree.kill)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
