"""Owns `just soak`: clients by the seed against a server of each budget, until the time is over or one fails.

The exit code says whether all went well, and the last line sums up.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.harness import SLOW
from tests.soak import samples
from tests.soak.phase import Phase, PhaseFailedError, Result
from tests.soak.settings import SETTINGS
from tests.tlshelp import make_directory

#: The longest mixture of one phase, in seconds: a soak of hours runs many servers.
LONGEST = 45.0
#: What a phase takes besides its mixture, in seconds, and the least that a mixture lasts.
BESIDES, LEAST = 8.0, 3.0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def describe(number: int, result: Result) -> str:
    """A phase, in a line for people."""
    waits = [each.wait for each in result.samples if each.wait is not None]
    return (
        f"phase {number}, {result.setting.name}: {result.jobs} jobs, {result.operations} operations, "
        f"{result.bytes / 1e6:.0f} MB checked, {result.audit_lines} audit lines; {result.figures}; "
        f"another client's query {max(waits, default=0):.0f} ms at most"
    )


def soak(asked: argparse.Namespace, out: Path) -> bool:
    """Run phase after phase; return whether all went well."""
    began = time.monotonic()
    certs = make_directory(out / "certs")
    chosen = [each for each in SETTINGS if not asked.budget or each.name in asked.budget]
    mixture = min(LONGEST, max(LEAST, asked.seconds / len(chosen) - BESIDES))
    totals = [0, 0, 0]
    first = 0 if asked.phase is None else asked.phase
    for number in itertools.count(first):
        setting = chosen[number % len(chosen)]
        folder = out / f"phase-{number}"
        phase = Phase(
            f"{asked.seed}-{number}", number, setting, mixture, asked.patience, certs, folder, began
        )
        try:
            result = trio.run(phase.run)
        except PhaseFailedError as failed:
            (out / "report.txt").write_text("\n".join(failed.lines) + "\n")
            say(f"phase {number}, {setting.name}: FAILED")
            for line in failed.lines:
                say(f"  {line}")
            budget = "".join(f" --budget {name}" for name in asked.budget or ())
            say(
                f"FAILED: {failed}\nagain: just soak --seed {asked.seed} --phase {number} "
                f"--seconds {asked.seconds:g}{budget}; the report, and what was done, is in {out}"
            )
            return False
        samples.write(result.samples, out / "samples.csv")
        if not asked.keep:
            shutil.rmtree(folder)
        for index, count in enumerate((result.jobs, result.operations, result.bytes)):
            totals[index] += count
        say(describe(number, result))
        if asked.phase is not None or time.monotonic() - began > asked.seconds - mixture:
            break
    say(
        f"soak: all well with seed {asked.seed}: {totals[0]} jobs, {totals[1]} operations, "
        f"{totals[2] / 1e6:.0f} MB checked in {time.monotonic() - began:.0f} s; samples in {out}"
    )
    return True


def main() -> int:
    """Soak as the command line says."""
    parser = argparse.ArgumentParser(prog="just soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long in all (default: 120)")
    parser.add_argument("--seed", type=int, default=1, help="decides what the clients do (default: 1)")
    parser.add_argument("--out", type=Path, help="a directory for samples and reports (default: a new one)")
    parser.add_argument(
        "--budget", action="append", choices=[each.name for each in SETTINGS], help="may be repeated"
    )
    parser.add_argument("--phase", type=int, help="run this one alone")
    parser.add_argument(
        "--patience",
        type=float,
        default=60 * SLOW,
        help="seconds in which everything must get on (default: 60)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the files of phases that went well, too")
    asked = parser.parse_args()
    out = asked.out or Path(tempfile.mkdtemp(prefix="soak-"))
    out.mkdir(parents=True, exist_ok=True)
    say(f"seed {asked.seed}, {asked.seconds:g} s, files in {out}")
    return 0 if soak(asked, out) else 1


if __name__ == "__main__":
    sys.exit(main())
