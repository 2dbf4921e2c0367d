"""Owns the command line as tests run it: a process, told by its environment where the server is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.harness import PATIENCE, next_line

#: What starts the command line; a test may put it into a shell's script.
PROGRAM = (sys.executable, "-m", "client.cli")
ROOT = Path(__file__).parents[2]

Word = str | bytes


@dataclass(frozen=True)
class Result:
    """How a run ended and what it wrote."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def sentence(self) -> str:
        """What it complained, which must be one line of its own and no traceback."""
        complaint = self.err.decode()
        assert complaint.startswith("worker-service: "), complaint
        assert complaint.endswith((".\n", "?\n")), complaint
        assert complaint.count("\n") == 1, complaint
        return complaint.removeprefix("worker-service: ").rstrip("\n")


@dataclass(frozen=True)
class Program:
    """The command line with one environment.

    Args:
        environment: without where Python finds its packages.
        command: what starts it.
        root: the directory that holds its packages.
    """

    environment: dict[str, str]
    command: tuple[str, ...] = PROGRAM
    root: Path = ROOT

    def having(self, **changes: str | None) -> "Program":
        """The same with other variables; None takes one away."""
        changed = {**self.environment, **changes}
        kept = {name: value for name, value in changed.items() if value is not None}
        return replace(self, environment=kept)

    def __call__(self, *words: Word) -> Result:
        """Run a command line to its end."""
        return self.shell('exec "$@"', *words)

    def shell(self, script: str, *words: Word) -> Result:
        """Run a shell script whose ``"$@"`` is a command line."""
        done = subprocess.run(
            ["sh", "-c", script, "sh", *self.command, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self._full(),
            timeout=PATIENCE,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def begin(self, *words: Word) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command line beside the block; it is killed if the block leaves it running."""
        with subprocess.Popen(
            [*self.command, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._full(),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def start(self, *words: Word) -> str:
        """Start a job and return its id."""
        result = self("start", *words)
        assert result.code == 0, result
        return result.text.split()[3]

    def _full(self) -> dict[str, str]:
        return self.environment | {"PYTHONPATH": str(self.root)}


def bare() -> dict[str, str]:
    """Our own environment without a word about a server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WORKER_SERVICE_")}


def finish(process: subprocess.Popen[bytes]) -> Result:
    """Wait for a run's end."""
    out, err = process.communicate(timeout=PATIENCE)
    return Result(process.returncode, out, err)


def read_until(process: subprocess.Popen[bytes], mark: bytes) -> bytes:
    """Read stdout, a line at a time, up to the line that is a mark."""
    found = b""
    for line in iter(lambda: next_line(process), b""):
        found += line
        if line == mark:
            return found
    raise AssertionError(f"{mark!r} never came, but {found!r}")


def has_limits(server_log: list[dict[str, Any]]) -> bool:
    """Whether the host of a server, as its log tells, can enforce limits on CPU, memory and disk."""
    missing = {line["controller"] for line in server_log if line["message"] == "limits are missing"}
    return not missing & {"cpu", "memory", "io"}
