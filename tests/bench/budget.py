"""Measures the server's peak of memory while a job prints far more than its budget, and replays all of it."""

import hashlib
import random
import sys

from tests.bench.rows import Findings, Promise, Row
from tests.bench.setting import MB, MIB, Setting, result, say
from tests.harness import serve
from tests.proc import memory_of

BUDGET = 256 * MIB
OVER = 128 * MIB
#: Prints so many MB, each different from the others.
PRINTER = """\
import random, sys
block = random.Random(1).randbytes(1_000_000 - 8)
for number in range(int(sys.argv[1])):
    sys.stdout.buffer.write(number.to_bytes(8, "big") + block)
"""


def measure(setting: Setting) -> Findings:
    """One row, of one run: a peak is a peak."""
    size = (200 if setting.quick else 10_000 if setting.full else 2_000) * MB
    say(f"budget: a job that prints {size // MB} MB")
    budget = f"{BUDGET // MIB}M"
    room = ("--output-memory", budget, "--job-memory", budget)  # so that one job fills the server's
    with serve(setting.certs, *room) as server, server.connect() as client:
        argv = [sys.executable, "-I", "-S", "-c", PRINTER, str(size // MB)]
        job = client.wait(client.start(argv).id)
        assert job.output == size, job
        told = result("readers", "digest", server.address, server.certs, job.id)
        assert told["came"] == _expected(size), "the replay is not what was printed"
        peak = memory_of(server.process.pid, "VmHWM")
    name = f"peak memory, a job prints {size // MB} MB, then its exact replay"
    limit = (BUDGET + OVER) / MIB
    return Findings([Row(name, peak / MIB, "MiB", "budget + 128 MiB", limit, Promise("ratio", "<=", 1))])


def _expected(size: int) -> str:
    """The hash of what PRINTER prints."""
    block = random.Random(1).randbytes(MB - 8)  # noqa: S311  # no secret
    found = hashlib.sha256()
    for number in range(size // MB):
        found.update(number.to_bytes(8, "big") + block)
    return found.hexdigest()
