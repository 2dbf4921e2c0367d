"""Measures how long a thrashing job lives: `python -m tests.bench.thrash [RUNS]`; memory limits are needed.

Each run is a job whose own data grows to its limit of 64 MiB while it looks at every page of a mapped cold
file, pinned to one CPU: what the kernel's OOM killer alone may let go on for minutes.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.harness import serve
from tests.host.test_thrash import LIMIT, THRASH, cold
from tests.tlshelp import make_directory

RUNS = 20


def main() -> None:
    """Run RUNS such jobs one after the other; tell how long each lived, in seconds, and its cause."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    seconds: list[float] = []
    causes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serve(make_directory(folder / "certs")) as server, server.connect() as client:
            for _ in range(runs):
                file = cold(folder / "cold", 16)
                argv = ["taskset", "--cpu-list", "1", sys.executable, "-I", "-S", "-c", THRASH, str(file)]
                began = time.monotonic()
                job = client.wait(client.start(argv, limits=LIMIT).id)
                seconds.append(time.monotonic() - began)
                causes.append(str(job.cause.kind) if job.cause else "none")
                sys.stdout.write(f"{seconds[-1]:7.2f} s  {causes[-1]}\n")
                sys.stdout.flush()
    median = statistics.median(seconds)
    sys.stdout.write(
        f"{runs} runs: median {median:.2f} s, most {max(seconds):.2f} s, {causes.count('oom')} oom\n"
    )


if __name__ == "__main__":
    main()
