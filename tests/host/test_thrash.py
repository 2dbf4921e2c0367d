"""A job that thrashes at its memory ceiling is ended soon; one that merely reads much there goes on."""

import os
import sys
import time
from pathlib import Path

import pytest

from client.blocking import Client
from tests.harness import SLOW
from tests.host.common import MIB, finish
from wire.jobs import CauseKind
from wire.limits import parse_limits

pytestmark = pytest.mark.host
LIMIT = parse_limits(memory="64M")
#: Its own data grows to the ceiling, while it looks at every page of a mapped file again and again.
THRASH = """
import mmap, os, sys
size = os.path.getsize(sys.argv[1])
pages = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), size, prot=mmap.PROT_READ)
data = []
while True:
    data.append(bytearray(b"x" * (1 << 20)))
    for offset in range(0, size, 4096):
        pages[offset]
"""
#: It reads a file larger than its ceiling three times.
READ = """
import sys
data = bytearray(b"x") * (40 << 20)
for _ in range(3):
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
print("done")
"""


def cold(path: Path, mib: int) -> Path:
    """A file on the disk, and not in memory."""
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def test_a_thrashing_job_is_ended_as_out_of_memory(admin: Client, tmp_path: Path) -> None:
    """The kernel alone was seen to let it go on for three minutes; the bound is for a busy machine."""
    file = cold(tmp_path / "cold", 16)
    began = time.monotonic()
    argv = ["taskset", "--cpu-list", "1", sys.executable, "-I", "-S", "-c", THRASH, str(file)]
    job, _ = finish(admin, argv, LIMIT)
    assert job.cause is not None
    assert job.cause.kind is CauseKind.OOM, job
    assert time.monotonic() - began < 45 * min(SLOW, 3)


def test_reading_more_than_fits_is_no_thrashing(admin: Client, tmp_path: Path) -> None:
    file = cold(tmp_path / "cold", 100)
    job, text = finish(admin, [sys.executable, "-I", "-S", "-c", READ, str(file)], LIMIT)
    assert (job.exit_code, text) == (0, "done\n"), job
