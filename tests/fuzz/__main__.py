"""Owns `just fuzz`: fuzzes each target for its share of the time, and keeps what fails."""

import argparse
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

from tests.fuzz.runner import FoundError, fuzz, keep, replay
from tests.fuzz.targets import TARGETS

#: Inputs in a round, each of which has a seed of its own.
ROUND = 500


def main() -> int:
    """Fuzz as the command line says; return 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="just fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (60)")
    parser.add_argument(
        "--seed", type=int, help="of the first round (by chance); those of the next follow it"
    )
    parser.add_argument(
        "--target", choices=TARGETS, action="append", help="fuzz this one alone; may be repeated"
    )
    parser.add_argument("--replay", type=Path, action="append", help="try the input in this file alone")
    arguments = parser.parse_args()
    if arguments.replay:
        return sum(_replay(path) for path in arguments.replay) and 1
    warnings.simplefilter("error")  # as in the tests
    seed = int.from_bytes(os.urandom(4), "big") if arguments.seed is None else arguments.seed
    names = arguments.target or list(TARGETS)
    _say(f"seed {seed}, {arguments.seconds:g} s, {ROUND} inputs a round")
    failures = sum(_fuzz(name, seed, arguments.seconds / len(names)) for name in names)
    return failures and 1


def _fuzz(name: str, seed: int, seconds: float) -> bool:
    """Fuzz one target; return whether a check failed."""
    end = time.monotonic() + seconds
    count = rounds = 0
    while rounds == 0 or time.monotonic() < end:
        try:
            count += fuzz(name, seed + rounds, ROUND)
        except FoundError as found:
            path = keep(name, found.data)
            traceback.print_exception(found.__cause__)
            _say(f"{name}: FAILED with seed {seed + rounds} after {count + found.count} inputs: {found}")
            _say(f"{name}: again with: just fuzz --replay {path}")
            return True
        rounds += 1
    _say(f"{name}: {count} inputs, seeds {seed} to {seed + rounds - 1}, none fails")
    return False


def _replay(path: Path) -> bool:
    try:
        replay(path)
    except Exception:  # noqa: BLE001  # whatever it is, it is shown
        traceback.print_exc()
        _say(f"{path}: fails")
        return True
    _say(f"{path}: does not fail")
    return False


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
