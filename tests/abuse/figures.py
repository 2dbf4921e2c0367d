"""Owns what is measured under attack: how long another client's query takes, and the server's memory."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from client.blocking import Client
from tests.harness import SLOW, Server, eventually
from tests.proc import memory_of, processor_seconds, waited_seconds
from wire.errors import RequestError

#: The flood from outside that README and the tests speak of: 5,000 connections.
FLOOD = ("silent=2000", "hello=1500", "trickle=750", "garbage=750")
ALONE = (("silent=5000",), ("hello=5000",), ("trickle=5000",), ("garbage=5000",))
INSIDERS = ("pings", "cancels", "lists", "trickle", "key-updates", "ws-pings", "fragments", "headers")


@dataclass(frozen=True)
class Wait:
    """How long an answer took, and how much of that the server or its client waited for a processor."""

    seconds: float
    processor: float


@dataclass
class Figures:
    """What each query took, and the server's largest resident memory before and after, in bytes."""

    before: int
    queries: list[Wait] = field(default_factory=list)
    connects: list[Wait] = field(default_factory=list)
    after: int = 0
    told: dict[str, int] = field(default_factory=dict)
    #: Seconds of processor time for each second: the server's, the attacker's.
    processor: tuple[float, float] = (0, 0)

    def __str__(self) -> str:
        words = [f"query {_milliseconds(self.queries)}"]
        if self.connects:
            words.append(f"connect and query {_milliseconds(self.connects)}")
        words.append(f"memory {self.before / 2**20:.0f} -> {self.after / 2**20:.0f} MiB")
        words.append("processor {:.0%}, attackers {:.0%}".format(*self.processor))
        return ", ".join([*words, *(f"{name} {value}" for name, value in self.told.items())])


def _milliseconds(waits: list[Wait]) -> str:
    most = sorted(wait.seconds for wait in waits)
    median, late = statistics.median(most), most[len(most) * 99 // 100]
    return (
        f"median {median * 1e3:.1f} ms, 99% {late * 1e3:.0f} ms, max {most[-1] * 1e3:.0f} ms of {len(most)}"
    )


def quick(waits: list[Wait]) -> bool:
    """Whether nearly all took under 200 ms, but for what other programs had of the processor meanwhile."""
    served = sorted(wait.seconds - wait.processor for wait in waits)
    return served[len(served) * 9 // 10] < 0.2 * SLOW


@contextlib.contextmanager
def timed(server: Server, waits: list[Wait]) -> Iterator[None]:
    """Add what the block waits for the server."""
    pids = (server.process.pid, os.getpid())
    began, waited = time.monotonic(), sum(map(waited_seconds, pids))
    yield
    waits.append(Wait(time.monotonic() - began, sum(map(waited_seconds, pids)) - waited))


def measure(
    server: Server,
    module: str,
    *arguments: str,
    connects: bool = False,
    argv: Sequence[str] = ("sleep", "600"),
    identity: str = "admin",
) -> Figures:
    """Query, about as often as people would, while another program attacks; it tells what it did.

    Args:
        server: under attack.
        module: the attacking program.
        arguments: its command line.
        connects: whether to measure new connections too.
        argv: what the job runs whose id it gets for JOB.
        identity: who queries.
    """
    with server.connect() as starter, server.connect(identity) as client:
        job = starter.start(argv).id
        figures = Figures(memory_of(server.process.pid, "VmHWM"))
        command = [sys.executable, "-m", module, *(word.replace("JOB", job) for word in arguments)]
        start, used = time.monotonic(), processor_seconds(server.process.pid)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attack:
            attacked = 0.0
            while attack.poll() is None:
                with contextlib.suppress(OSError):  # it has just ended
                    attacked = processor_seconds(attack.pid)
                with timed(server, figures.queries):
                    client.query(job)
                if connects:
                    with timed(server, figures.connects), server.connect("user") as other:
                        other.query(job)
                time.sleep(0.02)
            assert attack.stdout is not None
            figures.told = json.loads(attack.stdout.read().splitlines()[-1])
        assert attack.returncode == 0
        used = processor_seconds(server.process.pid) - used
        figures.processor = (used / (time.monotonic() - start), attacked / (time.monotonic() - start))
        eventually(partial(_stopped, starter, job), "the attackers' requests have ended")
        figures.after = memory_of(server.process.pid, "VmHWM")
    return figures


def _stopped(client: Client, job: str) -> bool:
    """Stop a job, unless its identity has too many requests under way yet."""
    with contextlib.suppress(RequestError):
        client.stop(job, grace=0)
        return True
    return False


def flood(server: Server, seconds: float, *kinds: str) -> Figures:
    """Measure under the flood from outside."""
    return measure(
        server, "tests.abuse.attack", str(server.port), f"{seconds:g}", *(kinds or FLOOD), connects=True
    )


def insider(server: Server, kind: str, seconds: float) -> Figures:
    """Measure under the flood of a client with a certificate."""
    arguments = (kind, str(server.port), str(server.certs), "JOB", f"{seconds:g}")
    return measure(server, "tests.abuse.insider", *arguments)


def asking(
    server: Server,
    what: str,
    identity: str,
    connections: int,
    seconds: float,
    argv: Sequence[str] = ("sleep", "600"),
) -> Figures:
    """Measure while one identity asks for something over many connections, as `tests.abuse.asking` says."""
    arguments = (what, identity, str(connections), str(server.port), str(server.certs), "JOB", f"{seconds:g}")
    return measure(server, "tests.abuse.asking", *arguments, argv=argv, identity=other_than(identity))


def other_than(identity: str) -> str:
    """Whose queries are measured while an identity attacks."""
    return "user" if identity == "admin" else "admin"


def frames(server: Server, kind: str, identity: str, connections: int, seconds: float) -> Figures:
    """Measure while a client sends what costs much to read, as `tests.abuse.frames` says."""
    arguments = (kind, identity, str(connections), str(server.port), str(server.certs), "JOB", f"{seconds:g}")
    return measure(server, "tests.abuse.frames", *arguments, identity=other_than(identity))
