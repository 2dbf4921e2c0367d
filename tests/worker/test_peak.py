"""The most memory that is told of a job's program is the program's own, or it is not told (BEHAVIOURS 32)."""

import os
import re
import sys

import pytest
import trio

from tests.host.common import NOT_EMULATED
from wire.jobs import Usage
from worker.child import ProcessSpec
from worker.launch import PEAK_SLACK
from worker.spawner import Spawner

pytestmark = [
    pytest.mark.parametrize("keep", [pytest.param(False, id="reaped"), pytest.param(True, id="kept")]),
    NOT_EMULATED,
]
MIB = 2**20
#: Fills memory, gives it back, and says what its peak was, as the kernel counts it for this program alone.
GROW = f"""
data = bytearray(b"x") * (int(__import__("sys").argv[1]) * {MIB})
del data
print(open("/proc/self/status").read())
"""


async def run(spawner: Spawner, keep: bool, *argv: str) -> tuple[str, Usage]:
    """What a program prints, and what it used."""
    read, write = os.pipe()
    async with trio.lowlevel.FdStream(read) as stream:
        env = {b"PATH": os.fsencode(os.environ["PATH"])}
        spec = ProcessSpec(tuple(map(os.fsencode, argv)), env, b"/", merge=True)
        child = await spawner.spawn("job", spec, [write], keep=keep)
        os.close(write)
        output = b"".join([data async for data in stream])
        usage = (await child.wait()).usage
    assert usage is not None
    return output.decode(), usage


@pytest.mark.parametrize("argv", [("sleep", "0.01"), ("true",)])
async def test_a_small_programs_peak_is_not_told(spawner: Spawner, keep: bool, argv: tuple[str, ...]) -> None:
    """It was that of a process of ours, 9 MiB, from before the program began; it is not known."""
    _, usage = await run(spawner, keep, *argv)
    assert usage.max_rss is None


@pytest.mark.parametrize("size", [32, 200])
async def test_a_large_programs_peak_is_its_own(spawner: Spawner, keep: bool, size: int) -> None:
    said, usage = await run(spawner, keep, sys.executable, "-I", "-S", "-c", GROW, str(size))
    found = re.search(r"VmHWM:\s+(\d+) kB", said)
    assert found is not None
    assert usage.max_rss is not None
    assert abs(usage.max_rss - int(found[1]) * 1024) < PEAK_SLACK
    assert usage.max_rss >= size * MIB
