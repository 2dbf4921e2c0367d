"""Owns `just test-slow`: the tests on a machine made slow in three ways, each several times.

A test that passes only where the machine is fast and idle tests the machine. So the same tests run with half
a CPU, pinned to one CPU, and beside a busy neighbour. Other arguments go to pytest: name files or folders to
run a part. The exit code says whether all went well; the last lines sum up what failed in which mode.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import trio

from tests.harness import PATIENCE
from wire.limits import parse_limits
from worker.ceilings import LimitRefusedError, check_enforceable
from worker.cgroup import JobCgroup
from worker.hierarchy import open_hierarchies

#: Half of one CPU, in the unit of --cpu-limit.
HALF = parse_limits(cpu="512")
#: A process that uses a CPU for as long as its parent lives.
SPINNER = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"

#: What the process that becomes pytest does before.
Enter = Callable[[], None]


@contextlib.contextmanager
def half() -> Iterator[Enter]:
    """Half a CPU for all processes together, by a cgroup's quota: they stop for a part of each 0.1 s."""
    with open_hierarchies() as hierarchies:
        check_enforceable(hierarchies, HALF)
        cgroup = JobCgroup(hierarchies, "half", HALF)

        def enter() -> None:
            for path in cgroup.paths:
                (path / "cgroup.procs").write_text("0")

        try:
            yield enter
        finally:
            trio.run(cgroup.remove)


@contextlib.contextmanager
def pinned() -> Iterator[Enter]:
    """One CPU: what runs beside each other elsewhere takes turns."""
    cpu = max(os.sched_getaffinity(0))
    yield lambda: os.sched_setaffinity(0, {cpu})


@contextlib.contextmanager
def busy() -> Iterator[Enter]:
    """As many processes that never sleep as there are CPUs."""
    with contextlib.ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            spinner = stack.enter_context(subprocess.Popen([sys.executable, "-I", "-S", "-c", SPINNER]))
            stack.callback(spinner.kill)
        yield lambda: None


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Enter]]] = {
    "half": half,
    "pinned": pinned,
    "busy": busy,
}


def say(line: str) -> None:
    """Write a line before anything else is written."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_tests(enter: Enter, arguments: list[str]) -> tuple[int, list[str]]:
    """Run pytest once; return its exit code, and the lines that name what failed."""
    command = [sys.executable, "-m", "pytest", *arguments]
    failed = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=enter) as tests:
        assert tests.stdout is not None
        try:
            for line in tests.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                if line.startswith(("FAILED ", "ERROR ")):
                    failed.append(line.rstrip())
        except BaseException:
            tests.send_signal(signal.SIGINT)  # the one at which pytest ends what its tests have started
            with contextlib.suppress(subprocess.TimeoutExpired):
                tests.wait(PATIENCE)
            tests.kill()
            raise
    return tests.returncode, failed


def main() -> int:
    """Run every mode, whichever fails, and sum up."""
    parser = argparse.ArgumentParser(prog="just test-slow", description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="runs in each mode (default: 3)")
    parser.add_argument("--mode", action="append", choices=MODES, help="may be given more than once")
    asked, arguments = parser.parse_known_args()
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, lambda caught, _: sys.exit(128 + caught))  # and what was begun is undone
    summary, well = [], True
    for mode in asked.mode or MODES:
        for number in range(1, asked.times + 1):
            name = f"{mode}, {number} of {asked.times}"
            say(f"--- {name}: {' '.join((MODES[mode].__doc__ or '').split())}")
            began = time.monotonic()
            try:
                with MODES[mode]() as enter:
                    code, failed = run_tests(enter, arguments)
            except LimitRefusedError as error:
                code, failed = 1, [str(error)]
            well = well and code == 0
            verdict = "passed" if code == 0 else f"FAILED with status {code}"
            summary.append(f"{name}: {verdict}, {time.monotonic() - began:.0f} s")
            summary += [f"  {line}" for line in failed]
    say(f"--- {'passed' if well else 'FAILED'}")
    for line in summary:
        say(line)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
