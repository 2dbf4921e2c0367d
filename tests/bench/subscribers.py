"""Measures many subscribers of one job: whether each gets all, its cost, how soon a line reaches all."""

import hashlib
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from client.blocking import Client
from tests.bench.rows import Findings, Promise, Row, Series, median
from tests.bench.setting import Setting, line_of, program, say
from tests.harness import serve
from tests.proc import memory_of
from wire.messages import Output

KIB = 1024
PROCESSES, CONNECTIONS = 2, 10
#: The job's last words, without a newline.
BULK = bytes(range(128, 256)) * 2048
#: Pause before each line, in seconds: it comes to idle subscribers.
IDLE = 0.3
#: Prints the time for each byte that comes through a FIFO, and BULK at its end.
JOB = """\
import os, sys, time
print("begun", flush=True)
with open(sys.argv[1], "rb", buffering=0) as fifo:
    while fifo.read(1):
        print(time.monotonic_ns(), flush=True)
sys.stdout.buffer.write(bytes(range(128, 256)) * 2048)
"""


@dataclass(frozen=True, slots=True)
class _Crowd:
    """What one size of crowd gave: bytes of the server's memory a subscriber, and ms until all had a line."""

    memory: float
    line: float


def measure(setting: Setting) -> Findings:
    """The rows of the largest crowd, and how the time grows with it."""
    most = 100 if setting.quick else 1000
    sizes = [size for size in (20, 100, 300, 1000) if size <= most]
    crowds = {size: _crowd(setting, size) for size in sizes}
    last = crowds[most]
    rows = [
        Row(f"server memory for each of {most} idle subscribers", last.memory / KIB, "KiB",
            "limit", 150, Promise("figure", "<=", 150), f"all {most} got the exact bytes"),
        Row(f"one line reaches all of {most} subscribers", last.line, "ms"),
    ]  # fmt: skip
    points = [(float(size), crowd.line) for size, crowd in crowds.items()]
    return Findings(
        rows,
        [Series("One line to every subscriber", "subscribers", "time to reach all (ms)", {"ours": points})],
    )


def _crowd(setting: Setting, size: int) -> _Crowd:
    say(f"subscribers: {size} of them, {setting.runs} lines")
    fifo = setting.folder / f"fifo-{size}"
    os.mkfifo(fifo)
    own = size // PROCESSES
    connections = min(CONNECTIONS, own)
    with serve(setting.certs) as server, server.connect() as client, ExitStack() as stack:
        job = client.start([sys.executable, "-I", "-S", "-c", JOB, str(fifo)])
        wish = stack.enter_context(fifo.open("wb", buffering=0))
        before = memory_of(server.process.pid)
        arguments = (server.address, server.certs, job.id, connections, own // connections)
        processes = [stack.enter_context(program("crowd", *arguments)) for _ in range(PROCESSES)]
        for process in processes:
            line_of(process)  # everybody is told that it has begun
        time.sleep(IDLE)
        memory = (memory_of(server.process.pid) - before) / size
        arrived = []
        for _ in range(setting.runs):
            time.sleep(IDLE)
            wish.write(b"!")
            arrived.append(max(line_of(process)["at"] for process in processes))
        wish.close()
        hashes = [line_of(process)["hashes"] for process in processes]
        log = _log(client, job.id)
    assert hashes == [{hashlib.sha256(log).hexdigest(): own}] * PROCESSES, (
        "a subscriber's bytes are not exact"
    )
    assert log.endswith(BULK)
    stamps = [int(stamp) for stamp in log.split(b"\n")[1 : 1 + setting.runs]]
    line = median([(at - stamp) / 1e6 for at, stamp in zip(arrived, stamps, strict=True)])
    assert line is not None
    return _Crowd(memory, line)


def _log(client: Client, job_id: str) -> bytes:
    with client.stream(job_id) as stream:
        return b"".join(piece.data for piece in stream if isinstance(piece, Output))
