"""Owns `just soak`: clients by the seed against a server of each budget, until the time is over or one fails.

The exit code says whether all went well, and the last line sums up.
"""

import argparse
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import trio

from tests.harness import SLOW
from tests.proc import memory_of
from tests.soak import samples
from tests.soak.phase import Phase, PhaseFailedError
from tests.soak.picture import HEAD, draw, row
from tests.soak.samples import MIB
from tests.soak.settings import SETTINGS, Setting
from tests.tlshelp import make_directory

#: The longest mixture of one phase, in seconds: a soak of hours runs many servers.
LONGEST = 120.0
#: What a phase takes besides its mixture, in seconds, and the least that a mixture lasts.
BESIDES, LEAST = 8.0, 3.0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Soak:
    """Phase after phase.

    Args:
        asked: the command line.
        out: where files go.
    """

    def __init__(self, asked: argparse.Namespace, out: Path) -> None:
        self._asked = asked
        self._out = out
        self._began = time.monotonic()
        self._certs = make_directory(out / "certs")
        chosen = [each for each in SETTINGS if not asked.budget or each.name in asked.budget]
        # Another budget comes first with another seed, so that short runs on slow machines reach all in time.
        first = asked.seed % len(chosen)
        self._chosen = chosen[first:] + chosen[:first]
        share = asked.seconds / len(self._chosen)
        self._mixture = max(LEAST, min(share - BESIDES, LONGEST))
        self._table = [HEAD]
        self._totals = [0, 0, 0, 0]
        self._told: Counter[str] = Counter()

    def run(self) -> bool:
        """Run until the time is over; whether all went well."""
        first = 0 if self._asked.phase is None else self._asked.phase
        reached = set()
        for number in itertools.count(first):
            setting = self._chosen[number % len(self._chosen)]
            if not self._phase(number, setting):
                return False
            reached.add(setting)
            left = self._asked.seconds - (time.monotonic() - self._began)
            if self._asked.phase is not None or left < self._mixture:
                break
        self._conclude([each.name for each in self._chosen if each not in reached])
        return True

    def _phase(self, number: int, setting: Setting) -> bool:
        asked = self._asked
        folder = self._out / f"phase-{number}"
        phase = Phase(
            f"{asked.seed}-{number}",
            number,
            setting,
            self._mixture,
            asked.patience,
            self._certs,
            folder,
            self._began,
        )
        try:
            result = trio.run(phase.run)
        except PhaseFailedError as failed:
            self._tell(number, setting, failed)
            return False
        samples.write(result.samples, self._out / "samples.csv")
        if not asked.keep:
            shutil.rmtree(folder)
        for index, count in enumerate((*result.counts, result.audit_lines)):
            self._totals[index] += count
        self._told += result.told
        self._table.append(
            row(f"{number} {setting.name}", result.counts, result.samples, result.rest, result.round_ms)
        )
        say(self._table[-1])
        return True

    def _tell(self, number: int, setting: Setting, failed: PhaseFailedError) -> None:
        """Tell of a phase that has failed, and how to run it again."""
        report = self._out / "report.txt"
        report.write_text("\n".join(failed.lines) + "\n")
        for line in failed.lines:
            say(f"  {line}")
        budget = "".join(f" --budget {name}" for name in self._asked.budget or ())
        say(
            f"again: just soak --seed {self._asked.seed} --phase {number} --seconds {self._asked.seconds:g}"
            f"{budget}; {report} has this report, and {self._out}/phase-{number} what was done\n"
            f"soak: FAILED with seed {self._asked.seed} in phase {number}, {setting.name}: {failed}"
        )

    def _conclude(self, missed: list[str]) -> None:
        """Keep table and picture, and sum up."""
        (self._out / "table.md").write_text("\n".join(self._table) + "\n")
        jobs, operations, size, lines = self._totals
        names = [
            self._chosen[number % len(self._chosen)].name
            for number in range((self._asked.phase or 0) + len(self._table))
        ]
        for message, count in self._told.most_common():
            say(f"the servers' logs have {count} times: {message}")
        ours = memory_of(os.getpid()) // MIB
        draw(self._out / "samples.csv", names, self._out / "soak.png")
        say(f"not reached in this time: {', '.join(missed)}" if missed else "every budget was reached")
        say(
            f"soak: passed with seed {self._asked.seed}: {jobs} jobs, {operations} operations, "
            f"{size / 1e6:.0f} MB and {lines} audit lines checked in {time.monotonic() - self._began:.0f} s; "
            f"the soak itself has {ours} MiB; table and picture in {self._out}"
        )


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
    say(f"seed {asked.seed}, {asked.seconds:g} s, files in {out}\n{HEAD}")
    # So that the phase ends in its order, and its server with it; Trio sees to SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        return 0 if Soak(asked, out).run() else 1
    except (KeyboardInterrupt, BaseExceptionGroup):
        say(f"soak: ended from outside, with seed {asked.seed}")
        return 130


if __name__ == "__main__":
    sys.exit(main())
