"""Owns a program that runs jobs of /bin/true through one connection.

It is `python -m tests.bench.burst ADDRESS CERTS`. For each count that comes in as a line, it runs so many
jobs to their end, 16 at once, and prints the seconds.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import trio

from client.trio_client import Client, open_client

AT_ONCE = 16


async def run(client: Client, count: int) -> float:
    """Run so many jobs, and return how many seconds it took."""
    left = iter(range(count))

    async def one_after_the_other() -> None:
        await trio.lowlevel.checkpoint()  # the others may have left it none
        for _ in left:
            job = await client.wait((await client.start(["/bin/true"])).id)
            assert job.exit_code == 0, job

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(one_after_the_other)
    return time.perf_counter() - began


async def main(address: str, certs: Path) -> None:
    """Do what the lines of stdin say."""
    async with open_client(address, certs=certs, identity="admin") as client:
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            sys.stdout.write(json.dumps(await run(client, int(line))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    trio.run(partial(main, sys.argv[1], Path(sys.argv[2])))
