"""Owns the kinds of jobs that the soak starts, and what must become of each."""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.soak.talk import NO_FORK, Spec
from wire.errors import ErrorCode
from wire.jobs import CauseKind
from wire.limits import Limits

PROGRAM = Path(__file__).with_name("talk.py")
KIB, MIB = 2**10, 2**20
#: A ceiling of memory, and what a job holds that hits it; an interpreter alone takes some 8 MiB.
CEILING, HELD_MIB = 48 * MIB, 96


@dataclass(frozen=True)
class End:
    """How a job ends that nobody stops. ``code`` or ``signal`` None: it has none, or it may be any."""

    kind: CauseKind
    code: int | None = None
    signal: int | None = None


@dataclass(frozen=True)
class Plan:
    """A job to start.

    Args:
        name: its kind, for people.
        argv: the program, without the token that makes each job one of a kind.
        spec: what it prints.
        end: how it ends by itself; None if it does not.
        limits: its ceilings.
        seconds: its timeout.
        cwd: its directory.
        refusal: the error that its start must end with; None if it must not.
        sure: whether it must, or may.
    """

    name: str
    argv: tuple[str, ...]
    spec: Spec
    end: End | None = End(CauseKind.EXITED, 0)
    limits: Limits | None = None
    seconds: float | None = None
    cwd: str | None = None
    refusal: ErrorCode | None = None
    sure: bool = True

    @property
    def total(self) -> int:
        """The bytes that it prints if nobody stops it."""
        return self.spec.out + self.spec.err


def talking(name: str, spec: Spec, **options: object) -> Plan:
    """A job that runs talk.py."""
    argv = (sys.executable, "-I", "-S", str(PROGRAM), spec.encode())
    if spec.ending == "exit":
        options.setdefault("end", End(CauseKind.EXITED, spec.value))
    return Plan(name, argv, spec, **options)  # type: ignore[arg-type]


def zeros(size: int) -> Plan:
    """The cheapest job that prints much."""
    argv = ("sh", "-c", 'exec head -c "$1" /dev/zero', "sh", str(size))
    return Plan("zeros", argv, Spec(0, size, style="zeros"))


def short(chance: random.Random) -> Plan:
    """A job that is over at once."""
    code = chance.choice((0, 0, 1, 3, 255))
    return chance.choice(
        (
            Plan("true", ("true",), Spec(0)),
            Plan("exit", ("sh", "-c", f"exit {code}"), Spec(0), End(CauseKind.EXITED, code)),
            Plan("killed", ("sh", "-c", "kill -9 $$"), Spec(0), End(CauseKind.SIGNALED, signal=9)),
            Plan("ended", ("sh", "-c", "kill -15 $$"), Spec(0), End(CauseKind.SIGNALED, signal=15)),
            zeros(1),
            zeros(chance.randint(1, 300_000)),
        )
    )


def chatty(chance: random.Random, most: int) -> Plan:
    """A job that prints, up to so many bytes."""
    size = int(min(most, chance.choice((100, 10_000, 300_000, MIB, 6 * MIB)) * chance.uniform(0.1, 1)))
    piece = chance.choice((1, 7, 100, 4000, 4096, 65536, 250_000))
    piece = max(piece, size // 3000)
    pause = chance.choice((0, 0, 0, 0.5, 2)) / (size // piece + 1)
    merged = chance.random() < 0.25
    err = 0 if merged or chance.random() < 0.5 else int(size * chance.choice((0.01, 0.5, 0.9)))
    style = chance.choice(("binary", "lines", "short", "long"))
    spec = Spec(
        chance.getrandbits(32), size - err, err, style, piece, pause, merged, value=chance.choice((0, 0, 7))
    )
    return talking("chatty", spec)


def staying(chance: random.Random) -> Plan:
    """A job that prints, and stays until it is stopped; it may have last words."""
    spec = Spec(
        chance.getrandbits(32),
        out=chance.choice((0, 50, 70_000)),
        err=chance.choice((0, 0, 3000)),
        style=chance.choice(("binary", "lines")),
        piece=chance.choice((10_000, 333)),
        ending="stay",
        last=chance.choice((0, 20, 200_000)),
    )
    return talking("staying", spec, end=None)


def leaving(chance: random.Random) -> Plan:
    """A job that leaves a daemon with its pipes open."""
    spec = Spec(chance.getrandbits(32), chance.choice((3, 5000)), style="lines", ending="daemon")
    return talking("leaving", spec)


def failing(chance: random.Random) -> Plan:
    """A job that cannot start."""
    return chance.choice(
        (
            Plan("missing", ("/no/such/program",), Spec(0), refusal=ErrorCode.NO_SUCH_PROGRAM),
            Plan("unfit", ("/etc/passwd",), Spec(0), refusal=ErrorCode.NOT_EXECUTABLE),
            Plan("astray", ("true",), Spec(0), cwd="/no/such/place", refusal=ErrorCode.BAD_DIRECTORY),
        )
    )


def timed(chance: random.Random) -> Plan:
    """A job that its timeout ends, some by their last words, some by its signal alone."""
    spec = Spec(chance.getrandbits(32), 100, ending="stay", last=chance.choice((0, 10)))
    return talking("timed", spec, end=End(CauseKind.TIMEOUT), seconds=chance.uniform(0.05, 1.5))


def hungry(chance: random.Random) -> Plan:
    """A job that hits its ceiling of memory."""
    spec = Spec(chance.getrandbits(32), chance.choice((0, 60_000)), ending="hold", value=HELD_MIB)
    end = End(CauseKind.OOM, signal=9)
    return talking("hungry", spec, end=end, limits=Limits(memory=CEILING))


def forking(chance: random.Random) -> Plan:
    """A job that hits its ceiling of tasks, and leaves children."""
    spec = Spec(chance.getrandbits(32), 10, ending="fork")
    end = End(CauseKind.EXITED, NO_FORK)
    return talking("forking", spec, end=end, limits=Limits(pids=chance.choice((3, 8))))


def limited(chance: random.Random, kinds: frozenset[str]) -> Plan:
    """A job within ceilings that it does not hit, of those kinds that the host has."""
    wide = {"cpu": 500, "memory": 256 * MIB, "disk_ops": 1000, "pids": 32}
    chosen = {name: value for name, value in wide.items() if name in kinds and chance.random() < 0.6}
    size = chance.choice((0, 2000, 400_000))
    spec = Spec(chance.getrandbits(32), size, size // 3, "lines", piece=5000, value=chance.choice((0, 4)))
    return talking("limited", spec, limits=Limits(**chosen) if chosen else None)


def draw(chance: random.Random, kinds: frozenset[str], most: int) -> Plan:
    """A job by chance.

    Args:
        chance: the random numbers.
        kinds: the limits that this host has.
        most: bytes that it prints at most.
    """
    makers: list[tuple[Callable[[], Plan], float]] = [
        (lambda: short(chance), 6.0),
        (lambda: chatty(chance, most), 10.0),
        (lambda: staying(chance), 3.0),
        (lambda: leaving(chance), 1.0),
        (lambda: failing(chance), 1.5),
        (lambda: timed(chance), 0.7),
        (lambda: limited(chance, kinds), 2.0),
    ]
    if "memory" in kinds:
        makers.append((lambda: hungry(chance), 0.5))
    if "pids" in kinds:
        makers.append((lambda: forking(chance), 0.5))
    (make,) = chance.choices([maker for maker, _ in makers], [weight for _, weight in makers])
    return make()
