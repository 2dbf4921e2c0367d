"""Loads a real server's store of output: many ended jobs fill its budget, then many print at once.

`python -m tests.store_load` runs each load with each budget. Each run is one line: whether every job ended
with every byte, how long that took, and what the idle server uses of a processor after it and keeps in memory
once all is removed. The exit code says whether all went well.
"""

import argparse
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from client.trio_client import Client, open_client
from tests.harness import Server, serve
from tests.proc import memory_of, processor_seconds
from tests.tlshelp import make_directory
from wire.messages import Gap

MB = 1_000_000
#: Files whose bytes differ, so that output which got into another job's log is found.
FILES = 8
#: The longest that a load may take, and how long the idle server is watched after it, in seconds.
DEADLINE_SECONDS, IDLE_SECONDS = 60.0, 2.0
#: The most that an idle server may use of a processor.
IDLE_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Load:
    """Jobs that print ``small`` bytes each and end, then ``at_once`` that print ``large`` bytes at once."""

    ended: int
    small: int
    at_once: int
    large: int


LOADS = {
    "many": Load(70, MB, 20, 5 * MB),
    "large": Load(200, MB, 30, 10 * MB),
    "few": Load(70, MB, 6, 5 * MB),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What one run came to: jobs that ended, and those whose bytes were right; seconds, CPU share, MiB."""

    ended: int
    exact: int
    seconds: float
    idle: float
    kept: float

    def good(self, load: Load) -> bool:
        """Whether all of it is as it should be."""
        jobs = load.ended + load.at_once
        return (self.ended, self.exact) == (jobs, jobs) and self.idle <= IDLE_SHARE

    def __str__(self) -> str:
        return (
            f"{self.ended} ended, {self.exact} exact, {self.seconds:.1f} s, idle at {100 * self.idle:.0f} % "
            f"of a CPU, {self.kept:.0f} MiB once all is removed"
        )


async def run(server: Server, load: Load, files: list[Path]) -> Found:
    """Put one load on a server."""
    jobs: list[tuple[str, Path, int]] = []
    ended: set[str] = set()
    exact = 0
    began = trio.current_time()

    async def start(client: Client, number: int, size: int) -> str:
        file = files[number % FILES]
        job = await client.start(["head", "-c", str(size), str(file)])
        jobs.append((job.id, file, size))
        return job.id

    async def end(client: Client, id_: str) -> None:
        await client.wait(id_)
        ended.add(id_)

    async with open_client(server.address, certs=server.certs, identity="admin") as client:
        for number in range(load.ended):
            await end(client, await start(client, number, load.small))
        with trio.move_on_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(load.at_once):
                    nursery.start_soon(end, client, await start(client, number, load.large))
        seconds = trio.current_time() - began
        await trio.sleep(0.5)
        used = processor_seconds(server.process.pid)
        await trio.sleep(IDLE_SECONDS)
        idle = (processor_seconds(server.process.pid) - used) / IDLE_SECONDS
        for id_, file, size in jobs:
            if id_ in ended:
                exact += await printed(client, id_) == digest_of(file, size)
                await client.remove(id_)
        await trio.sleep(1)
        return Found(len(ended), exact, seconds, idle, memory_of(server.process.pid) / 2**20)


async def printed(client: Client, id_: str) -> str:
    """The hash of what a job has printed."""
    found = hashlib.sha256()
    async with client.stream(id_, gaps="yield") as stream:
        async for piece in stream:
            found.update(b"a gap" if isinstance(piece, Gap) else piece.data)
    return found.hexdigest()


def digest_of(file: Path, size: int) -> str:
    """The hash of a file's first bytes."""
    return hashlib.sha256(file.read_bytes()[:size]).hexdigest()


@contextmanager
def written(size: int) -> Iterator[tuple[Path, list[Path]]]:
    """A folder with certificates, and files of so many bytes."""
    with tempfile.TemporaryDirectory(prefix="store-load-", dir="/var/tmp") as name:  # it is on a disk
        folder = Path(name)
        (folder / "certs").mkdir()
        files = [folder / str(number) for number in range(FILES)]
        for number, file in enumerate(files):
            file.write_bytes(random.Random(number).randbytes(size))  # noqa: S311  # nothing secret
        yield make_directory(folder / "certs"), files


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.store_load", description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="of each load with each budget (default: 1)")
    parser.add_argument("--budget", action="append", help="of --output-memory (default: 1M, 16M, 64M, 256M)")
    parser.add_argument("--load", action="append", choices=LOADS, help="may be given more than once")
    asked = parser.parse_args()
    bad = 0
    with written(max(load.large for load in LOADS.values())) as (certs, files):
        for turn in range(asked.runs):
            for budget in asked.budget or ("1M", "16M", "64M", "256M"):
                for name in asked.load or LOADS:
                    began = time.strftime("%H:%M:%S")
                    with serve(certs, "--output-memory", budget) as server:
                        found = trio.run(run, server, LOADS[name], files)
                        if found.ended < LOADS[name].ended + LOADS[name].at_once:
                            server.process.kill()  # it would wait for its jobs
                    good = found.good(LOADS[name])
                    bad += not good
                    word = "good" if good else "BAD"
                    sys.stdout.write(f"{began} {turn + 1} {budget:>5} {name:>6}: {word}: {found}\n")
                    sys.stdout.flush()
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
