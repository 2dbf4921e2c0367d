"""Measures what one subscriber that is stopped (SIGSTOP) costs the job and the nine others."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.bench.rows import Findings, Promise, Row, median
from tests.bench.setting import MB, Setting, line_of, program, say, take_turns
from tests.harness import Server, serve

OTHERS = 9
#: Prints a word, and a file once a line comes through a FIFO.
JOB = 'echo begun; read -r _ <"$1"; exec cat "$2"'


def measure(setting: Setting) -> Findings:
    """Throughput of the job, and of the slowest of the others, beside the run without the stopped one."""
    size = (20 if setting.quick else 200) * MB
    say(f"stopped: {OTHERS} subscribers of {size // MB} MB, with another that is stopped, and without")
    slowest: dict[bool, list[float]] = {True: [], False: []}

    def job_speed(*, stopped: bool) -> float:
        with serve(setting.certs) as server:
            job, others = _run(setting, server, size, stopped=stopped)
        slowest[stopped].append(size / MB / others)
        return size / MB / job

    calls: dict[str, Callable[[], float]] = {
        "with": lambda: job_speed(stopped=True),
        "without": lambda: job_speed(stopped=False),
    }
    jobs = take_turns(setting.runs, calls)
    rows = []
    for name, ours, theirs in (
        ("the job's throughput", jobs["with"], jobs["without"]),
        (f"the slowest of the other {OTHERS} subscribers", slowest[True], slowest[False]),
    ):
        figure = median(ours)
        assert figure is not None
        promise = Promise("ratio", ">=", 0.9)
        title = f"{name}, one stopped"
        rows.append(Row(title, figure, "MB/s", "the same without it", median(theirs), promise))
    return Findings(rows)


def _run(setting: Setting, server: Server, size: int, *, stopped: bool) -> tuple[float, float]:
    """Seconds from the job's leave to print until the job has ended, and until the others have all."""
    fifo = setting.folder / "fifo"
    os.mkfifo(fifo)
    try:
        with server.connect() as client, ExitStack() as stack:
            job = client.start(["sh", "-c", JOB, "sh", str(fifo), str(setting.file(size))])
            readers = [
                stack.enter_context(program("witness", server.address, server.certs, job.id))
                for _ in range(OTHERS + stopped)
            ]
            for reader in readers:
                line_of(reader)
            if stopped:
                readers.pop().send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            with fifo.open("w") as leave:
                began, began_unix = time.monotonic(), time.time()
                leave.write("\n")
            told = [line_of(reader) for reader in readers]
            ended = client.wait(job.id).ended
    finally:
        fifo.unlink()
    assert ended is not None
    assert all(each["came"] == size + len("begun\n") for each in told), told
    return ended - began_unix, max(each["at"] for each in told) - began
