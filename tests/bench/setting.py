"""Owns what every benchmark is given: how much to measure, where, beside whom; and how figures take turns."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.ssh import Ssh

ROOT = Path(__file__).parents[2]
#: Pause before each figure is taken, in seconds: what the one before left to do is not charged to it.
SETTLE = 0.2
MB = 1_000_000
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run is made.

    Args:
        runs: how often each figure is taken.
        quick: a tenth of everything, to see that it works.
        full: the sizes that take minutes.
        folder: for files of the run; gone with it.
        certs: a directory as `make_directory` makes it.
        ssh: OpenSSH on loopback, or why it is missing.
    """

    runs: int
    quick: bool
    full: bool
    folder: Path
    certs: Path
    ssh: Ssh | str

    @property
    def size(self) -> int:
        """Bytes of a large output."""
        return 100 * MB if self.quick else 1000 * MB

    def file(self, size: int) -> Path:
        """A file of so many random bytes; it is in the page cache."""
        path = self.folder / f"{size}.bin"
        if not path.exists():
            with path.open("wb") as file:
                for begin in range(0, size, MB):
                    file.write(os.urandom(min(MB, size - begin)))
        return path


def say(sentence: str) -> None:
    """Tell whoever waits what is being done."""
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


def take_turns(runs: int, figures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Take each figure ``runs`` times, in turns, so that noise hits them alike."""
    taken: dict[str, list[float]] = {name: [] for name in figures}
    for _ in range(runs):
        for name, figure in figures.items():
            time.sleep(SETTLE)
            taken[name].append(figure())
    return taken


def command(module: str, *args: object) -> list[str]:
    """The command line of one of the programs here."""
    return [sys.executable, "-m", f"tests.bench.{module}", *map(str, args)]


def result(module: str, *args: object) -> Any:
    """Run one of the programs here to its end, and return the JSON that it prints."""
    done = subprocess.run(command(module, *args), cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


@contextmanager
def program(module: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Run one of the programs here beside the block; it is killed with it."""
    with subprocess.Popen(
        command(module, *args), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> Any:
    """Wait for the next line of JSON from such a program."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended without its answer")
    return json.loads(line)


def tell(process: subprocess.Popen[str], line: str = "") -> None:
    """Send such a program a line."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
