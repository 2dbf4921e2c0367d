"""Owns a program that measures how old lines are when they come.

It is `python -m tests.bench.stamps KIND ARGUMENTS...`. Each line is a time by the clock that all processes
of a machine share; it prints the age of each in µs.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from client.blocking import connect
from wire.messages import Output

#: The job: so many lines, each 20 ms after the one before. The pause at the start lets everybody settle.
JOB = """\
import sys, time
time.sleep(0.3)
for _ in range(int(sys.argv[1])):
    time.sleep(0.02)
    print(time.monotonic_ns(), flush=True)
"""


def ours(address: str, certs: str, *command: str) -> list[float]:
    """Start the command on our server, and follow it."""
    with connect(address, certs=Path(certs), identity="admin") as client:
        job = client.start(command)
        with client.stream(job.id) as stream:
            return _ages(piece.data for piece in stream if isinstance(piece, Output))


def piped(*command: str) -> list[float]:
    """Run the command, such as ssh, and read what it prints."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        return _ages(iter(lambda: process.stdout.read(65536), b""))  # type: ignore[union-attr]


def _ages(pieces: Iterable[bytes]) -> list[float]:
    ages = []
    for piece in pieces:
        now = time.monotonic_ns()
        ages += [(now - int(line)) / 1000 for line in piece.split()]
    return ages


if __name__ == "__main__":
    ages = (ours if sys.argv[1] == "ours" else piped)(*sys.argv[2:])
    sys.stdout.write(json.dumps(ages) + "\n")
