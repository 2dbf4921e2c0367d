"""Owns what the tests on a real kernel share: jobs that run program.py, their cgroups, measured ceilings."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from client.blocking import Client
from tests.cgroups import find_cgroups
from tests.harness import SLOW, Server
from wire.jobs import JobStatus
from wire.limits import Limits, parse_limits
from wire.messages import STDOUT

MIB = 2**20
#: One ceiling of each of the four kinds, wide enough for small programs.
FOUR = parse_limits(cpu="512", memory="500M", disk="500", pids="50")
#: No job here should run for so long, in seconds; one that does is stopped, with cause timeout.
MOST_SECONDS = 60.0 * SLOW
#: How often a ceiling is measured at most.
TRIES = 3
PROGRAM = Path(__file__).with_name("program.py")


#: Of tests that cgroups do not matter to: an emulated machine, which is there for them, shows nothing new.
NOT_EMULATED = pytest.mark.skipif(
    SLOW > 1, reason="NOT TESTED: without cgroups, a slow machine is like any other; `just test` tests it"
)


def skip_if_emulated() -> None:
    """Skip a test that NOT_EMULATED would be said of, were it not for one of its parameters."""
    if SLOW > 1:
        pytest.skip(NOT_EMULATED.kwargs["reason"])


def program(name: str, *arguments: object) -> list[str]:
    """The argv of a function of program.py. Without ``site``, so that little happens before it."""
    return [sys.executable, "-I", "-S", str(PROGRAM), name, *map(str, arguments)]


def finish(client: Client, argv: Sequence[str], limits: Limits | None = None) -> tuple[JobStatus, str]:
    """Run a job to its end; return its final status and what it wrote to stdout."""
    output = {STDOUT: b""}
    with client.stream(client.start(argv, limits=limits, seconds=MOST_SECONDS).id) as stream:
        for piece in stream:
            output[piece.stream] = output.get(piece.stream, b"") + piece.data
    return stream.job, output[STDOUT].decode()


def numbers(client: Client, argv: Sequence[str], limits: Limits | None = None) -> list[float]:
    """Run a job that must succeed; return the numbers of the line that it wrote."""
    job, text = finish(client, argv, limits)
    assert job.exit_code == 0, (job, text)
    return [float(word) for word in text.split()]


def begin(client: Client, argv: Sequence[str], limits: Limits | None = None) -> tuple[JobStatus, str]:
    """Start a job that stays; return it and its first line once that has come."""
    job = client.start(argv, limits=limits, seconds=MOST_SECONDS)
    line = b""
    with client.stream(job.id) as stream:
        for piece in stream:
            line += piece.data
            if b"\n" in line:
                return job, line.decode()
    raise AssertionError(f"it ended: {stream.job}, {line!r}")


def figure(what: str, value: float, unit: str) -> None:
    """Tell a measured value to whoever runs pytest with -s."""
    sys.stdout.write(f"figure: {what}: {value:.3g} {unit}\n")


def directories(job: JobStatus) -> list[Path]:
    """The directories of a job's cgroups, in every hierarchy."""
    return find_cgroups(job.id)


def bases(server: Server) -> list[Path]:
    """The directories of a server's base cgroups, in every hierarchy."""
    return find_cgroups(f"worker-service-{server.process.pid}-*")


def control(job: JobStatus, *names: str) -> Path:
    """The first of these control files that there is in a job's cgroups."""
    files = [folder / name for name in names for folder in directories(job)]
    return next(file for file in files if file.exists())


def descriptors(server: Server) -> tuple[int, int]:
    """How many descriptors the server and its spawner hold."""
    server_fds, spawner_fds = (Path(f"/proc/{pid}/fd") for pid in (server.process.pid, server.spawner_pid))
    return len(list(server_fds.iterdir())), len(list(spawner_fds.iterdir()))


def check_stretched(what: str, measure: Callable[[], float], seconds: float, tolerance: float) -> None:
    """Check that a ceiling stretches some work to so many seconds, give or take a share of them.

    Other load on the machine makes the work take longer, and can never make it shorter than its ceiling
    allows. So no try may be too short, and it is enough if the best of TRIES is not too long.
    """
    tries: list[float] = []
    while len(tries) < TRIES:
        tries.append(measure())
        figure(what, tries[-1], f"s, where {seconds:g} are due")
        assert tries[-1] >= seconds * (1 - tolerance), tries
        if tries[-1] <= seconds * (1 + tolerance):
            return
    raise AssertionError(f"every try took longer than {seconds} s: {tries}")
