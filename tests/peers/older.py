"""Owns the first version of this protocol, installed from its commit, and the servers of either version."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.cli.program import PROGRAM, Program
from tests.harness import PATIENCE, ROOT, Server, serve

#: The commit whose peers know no features.
FIRST: Final = "a67f28e685e20589765d3da8e11dfd995236b635"
#: So that what is aborted says where it stood.
TELLING: Final = dict(os.environ) | {"PYTHONFAULTHANDLER": "1"}
#: What `serve` is told of a server that keeps little output, but for how much of it may be on the disk.
_SMALL: Final = ("--output-memory", "4M", "--overflow", "drop", "--spill-limit")


@dataclass(frozen=True)
class Version:
    """A version of all that is ours.

    Args:
        root: the directory that holds its packages.
        command: what starts the command line.
        disk: how much output its small server may move to the disk.
    """

    root: Path
    command: tuple[str, ...]
    disk: str

    @property
    def environment(self) -> dict[str, str]:
        """Where Python finds its packages, and, behind them, these tests."""
        return TELLING | {"PYTHONPATH": f"{self.root}:{ROOT}"}

    def serve(self, certs: Path, *flags: str, prefix: Sequence[str] = ()) -> AbstractContextManager[Server]:
        """Run its server; ``prefix`` is a command that executes the one behind it."""
        return serve(certs, *flags, env=TELLING, root=self.root, prefix=prefix)

    def program(self, server: Server, scheme: str, identity: str = "admin") -> Program:
        """The command line, told where a server is."""
        return Program(server.environment(identity, scheme), self.command, self.root)

    def serve_small(self, certs: Path) -> AbstractContextManager[Server]:
        """Run its server with little room for output."""
        return self.serve(certs, *_SMALL, self.disk)


OURS: Final = Version(ROOT, PROGRAM, "4M")


def install(folder: Path) -> Version:
    """Install the first version into a directory, but not what it needs, as we need that too."""
    archive, source, root = folder / "source.tar", folder / "source", folder / "installed"
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "-o", str(archive), FIRST],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    if made.returncode:
        pytest.skip(
            f"NOT TESTED: this clone has no commit {FIRST[:7]}, an older peer; run `git fetch --unshallow`"
        )
    source.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    for command in (
        ["tar", "-xf", str(archive), "-C", str(source)],
        [*pip, "--disable-pip-version-check", "--target", str(root), str(source)],
    ):
        subprocess.run(command, check=True, timeout=PATIENCE)
    # Its server may not move a byte to the disk: once three of its tasks want to move the output of one job,
    # as they do when two jobs print much, they hand a lock round for ever.
    return Version(root, (sys.executable, str(root / "bin" / "worker-service")), "1")
