"""Owns `just race`: cancellation at every checkpoint, state machines, and random programs, seed after seed.

As root it works on this host's cgroups. A failure is one sentence with the command that runs it again.
"""

import argparse
import itertools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis
import trio
from hypothesis.stateful import run_state_machine_as_test

from tests.race.cancel import Moment, sweep
from tests.race.cores import MACHINES
from tests.race.footprint import LeftError
from tests.race.operations import HOST_OPERATIONS, OPERATIONS
from tests.race.programs import run_program
from tests.race.seeds import seed_scheduler
from tests.race.world import kinds, open_world
from tests.tlshelp import make_directory

PARTS = ("cancel", "cores", "programs")
#: Programs of a run that is given neither --seeds nor --seconds.
SEEDS = 20
#: Histories of each machine a round.
EXAMPLES = 200
#: A long run sweeps every operation again after so many programs, with another order of tasks.
ROUND = 200


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Runner:
    """Runs the parts, and counts what was done.

    Args:
        folder: for output that spills.
        certs: a directory as ``certs init`` makes it.
        stride: 1 to cancel at every checkpoint, n at every n-th.
    """

    def __init__(self, folder: Path, certs: Path, stride: int) -> None:
        self._folder = folder
        self._certs = certs
        self._stride = stride
        self.checkpoints = self.histories = self.programs = self.jobs = 0

    def cancel(self, name: str, seed: int) -> None:
        """Sweep one operation, on each kind of host that makes a difference to it."""
        for kind in kinds() if name in HOST_OPERATIONS else ["here"]:
            counts = []
            for moment in Moment:
                seed_scheduler(seed)
                counts.append(trio.run(self._sweep, name, kind, moment))
            self.checkpoints += sum(counts)
            where = "" if kind == "here" else {"v1": " (cgroup v1)", "none": " (no cgroup)"}[kind]
            say(f"  {name + where:34} {counts[0]:6} {counts[1]:6}")

    async def _sweep(self, name: str, kind: str, moment: Moment) -> int:
        async with open_world(self._folder, self._certs, kind) as world:
            swept = await sweep(world, OPERATIONS[name], moment, stride=self._stride)
        return swept.runs - 1

    def cores(self, name: str, seed: int) -> None:
        """Run one machine's histories."""
        hypothesis.core.global_force_seed = seed  # type: ignore[assignment]  # as its pytest plugin does
        settings = hypothesis.settings(
            max_examples=EXAMPLES, stateful_step_count=60, deadline=None, database=None
        )
        run_state_machine_as_test(MACHINES[name], settings=settings)
        self.histories += EXAMPLES
        say(f"  {name:34} {EXAMPLES:6} histories")

    def program(self, seed: int) -> None:
        """Run one seed's program."""
        seed_scheduler(seed)
        self.jobs += len(trio.run(run_program, seed, self._certs, self._folder).jobs)
        self.programs += 1


def attempt(what: str, again: str, run: Callable[[], None]) -> bool:
    """Run one piece of work; say how to run it again if it fails."""
    try:
        run()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is told with its seed
        say(f"FAILED: {what}: {words(error)}\n  again: just race {again}")
        return False
    return True


def words(error: BaseException) -> str:
    """What went wrong, in one line, from within the groups that nurseries make of it."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(words, error.exceptions))
    if isinstance(error, LeftError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def race(asked: argparse.Namespace, runner: Runner) -> bool:
    """Run what was asked for, until it fails or is done; return whether all went well."""
    began = time.monotonic()
    parts = asked.only or PARTS
    first = 0 if asked.seed is None else asked.seed
    count = asked.seeds or (math.inf if asked.seconds is not None else SEEDS if asked.seed is None else 1)

    def time_is_up() -> bool:
        return asked.seconds is not None and time.monotonic() - began > asked.seconds

    for number in itertools.takewhile(lambda number: number < count, itertools.count()):
        seed = first + number
        if "cancel" in parts and number % ROUND == 0:
            say(f"cancelled at every checkpoint (seed {seed}): as a task goes to sleep, and as it wakes")
            for name in asked.operation or OPERATIONS:
                if time_is_up():
                    return True
                again = f"--only cancel --operation {name} --seed {seed}"
                if not attempt(name, again, lambda name=name, seed=seed: runner.cancel(name, seed)):  # type: ignore[misc]
                    return False
        if "cores" in parts and number % ROUND == 0:
            say(f"state machines over the cores (seed {seed})")
            for name in MACHINES:
                if time_is_up():
                    return True
                again = f"--only cores --seed {seed}"
                if not attempt(name, again, lambda name=name, seed=seed: runner.cores(name, seed)):  # type: ignore[misc]
                    return False
        if "programs" in parts:
            if number == 0:
                say(f"random programs, from seed {seed} on")
            if time_is_up():
                return True
            again = f"--only programs --seed {seed}"
            if not attempt(f"seed {seed}", again, lambda seed=seed: runner.program(seed)):  # type: ignore[misc]
                return False
    return True


def main() -> int:
    """Race, and tell what was done."""
    parser = argparse.ArgumentParser(prog="just race", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="may be given more than once")
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="cancel these alone")
    parser.add_argument("--seed", type=int, help="the first seed; without --seeds or --seconds, the only one")
    parser.add_argument("--seeds", type=int, help=f"how many seeds (default: {SEEDS})")
    parser.add_argument("--seconds", type=float, help="go on with new seeds for so long")
    parser.add_argument("--stride", type=int, default=1, help="cancel at every n-th checkpoint only")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        say("NOT AS ROOT: what needs cgroups of this host is not raced")
    with tempfile.TemporaryDirectory(prefix="race-") as folder:
        runner = Runner(Path(folder), make_directory(Path(folder) / "certs"), max(1, asked.stride))
        well = race(asked, runner)
    say(
        f"{'nothing left, nothing lost' if well else 'FAILED'}: {runner.checkpoints} checkpoints cancelled, "
        f"{runner.histories} histories, {runner.programs} programs with {runner.jobs} jobs"
    )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
