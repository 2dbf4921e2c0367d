"""Measures what a start costs: `just bench`. Prints one table; ratios are against peers of the same run."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from client.blocking import Client
from tests.harness import serve
from tests.tlshelp import make_directory
from wire.limits import Limits, parse_limits

RUNS = 300
HELD = 1_500_000_000
FOUR = parse_limits(cpu="512", memory="500M", disk="500", pids="50")

#: Pause before each call, in seconds: what a start leaves to do (a job's end) is not charged to the next.
SETTLE = 0.02

Figures = tuple[float, float]


def measure(*calls: Callable[[], object], runs: int = RUNS) -> list[Figures]:
    """Median and 99th percentile of each call, in ms; the calls take turns, so that noise hits them alike."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, own in zip(calls, times, strict=True):
            time.sleep(SETTLE)
            began = time.perf_counter()
            call()
            own.append((time.perf_counter() - began) * 1000)
    return [(statistics.median(own), sorted(own)[int(runs * 0.99)]) for own in times]


def row(name: str, figures: Figures, peer: Figures) -> None:
    """Print one line of the table."""
    sys.stdout.write(f"{name:46}{figures[0]:9.2f}{figures[1]:9.2f}{figures[0] / peer[0]:9.2f}\n")


def start(client: Client, limits: Limits | None = None) -> Callable[[], object]:
    """A start of /bin/true, request to reply, after which the job's end is not waited for."""
    return lambda: client.start(["/bin/true"], limits=limits)


def main() -> None:
    """Measure two servers side by side, one with HELD bytes of output in it, beside a local fork and exec."""
    with tempfile.TemporaryDirectory() as folder:
        certs = make_directory(Path(folder) / "certs")
        with serve(certs) as empty, serve(certs) as full, empty.connect() as client, full.connect() as holder:
            holder.wait(holder.start(["head", "-c", str(HELD), "/dev/zero"]).id)
            job = client.start(["/bin/true"])
            local, plain, limited, held, query = measure(
                lambda: subprocess.run(["/bin/true"], check=True),
                start(client),
                start(client, FOUR),
                start(holder),
                lambda: client.query(job.id),
            )
    sys.stdout.write(f"{'':46}{'median':>9}{'p99':>9}{'ratio':>9}   (ms; ratio to the first row)\n")
    row("local subprocess.run of /bin/true, to its end", local, local)
    row("start of /bin/true over an open connection", plain, local)
    row("the same with all four limits", limited, local)
    row("  likewise, ratio to the start without limits", limited, plain)
    row(f"the start with {HELD / 1e9:.1f} GB held in the server", held, local)
    row("query over an open connection", query, local)


if __name__ == "__main__":
    main()
