"""What is still taken of a job's pipe once all its processes are dead."""

import os
from contextlib import suppress

import trio

from tests.harness import PATIENCE
from tests.worker.common import KeptLog
from worker.child import ProcessSpec
from worker.job import DRAIN_BYTES, READ_BYTES, Job
from worker.process_tree import ProcessTree


async def test_a_stranger_that_writes_on_is_not_kept(log: KeptLog) -> None:
    """One that holds a job's pipe after its end: what it writes is the job's output no more."""
    spec = ProcessSpec((b"true",), {}, b"/", merge=False)
    job = Job("job", spec, "alice", None, None, 1, log)
    read, write = os.pipe()
    ended = trio.CancelScope()
    ended.cancel()
    dead = ProcessTree()
    wrote = 0

    async def stranger() -> None:
        nonlocal wrote
        async with trio.lowlevel.FdStream(write) as stream:
            with suppress(trio.BrokenResourceError):
                while wrote < 16 * DRAIN_BYTES:
                    await stream.send_all(bytes(READ_BYTES))
                    wrote += READ_BYTES

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stranger)
            async with trio.lowlevel.FdStream(read) as stream:
                await job._pump(stream, 1, ended, dead)
    assert DRAIN_BYTES <= job.output.size < 2 * DRAIN_BYTES
    assert log.messages == ["output was cut: a process outside the job writes to it"]
