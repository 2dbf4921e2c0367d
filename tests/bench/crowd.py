"""Owns a program with many subscribers of one job.

It is `python -m tests.bench.crowd ADDRESS CERTS JOB CONNECTIONS EACH`. Once every subscriber has a line, it
prints as JSON which one, and when the last one got it, by the clock that all processes of a machine share. At
the job's end it prints how many subscribers got output of which hash.
"""

import hashlib
import json
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import trio

from client.trio_client import Client, open_client
from wire.messages import Output


class Crowd:
    """The subscribers of one process.

    Args:
        size: how many there are.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._got: Counter[int] = Counter()
        self._hashes: Counter[str] = Counter()

    async def follow(self, client: Client, job_id: str) -> None:
        """Be one subscriber, to the job's end."""
        found = hashlib.sha256()
        lines = 0
        async with client.stream(job_id) as stream:
            async for piece in stream:
                now = time.monotonic_ns()
                assert isinstance(piece, Output), piece
                found.update(piece.data)
                for _ in range(piece.data.count(b"\n")):
                    lines += 1
                    self._arrived(lines, now)
        self._hashes[found.hexdigest()] += 1

    def _arrived(self, line: int, now: int) -> None:
        self._got[line] += 1
        if self._got[line] == self._size:
            _print({"line": line, "at": now})

    def ended(self) -> None:
        """Tell what they got."""
        _print({"hashes": self._hashes})


async def main(address: str, certs: Path, job_id: str, connections: int, each: int) -> None:
    """Subscribe all of them, and follow the job to its end."""
    crowd = Crowd(connections * each)

    async def connection() -> None:
        async with (
            open_client(address, certs=certs, identity="user") as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(each):
                nursery.start_soon(crowd.follow, client, job_id)

    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(connection)
    crowd.ended()


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(
        partial(main, sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])),
    )
