"""Owns where the command line's complaints are provoked: one server, and a registry of situations."""

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from client.blocking import Client
from tests.cli.program import PROGRAM, ROOT, Program, Result
from tests.harness import PATIENCE, Server
from tests.tlshelp import make_directory


@dataclass
class Place:
    """One server, of three jobs at most; a folder; a job that ended, one that was stopped, one that runs."""

    server: Server
    client: Client
    folder: Path
    ended: str
    stopped: str
    running: str

    @property
    def cli(self) -> Program:
        return Program(self.server.environment()).having(
            WORKER_SERVICE_SERVER=None, WORKER_SERVICE_CERTS=None, WORKER_SERVICE_IDENTITY=None, TZ="UTC0"
        )

    def ask(self, *words: str, identity: str = "admin", certs: Path | None = None) -> Result:
        """Run a command against the server."""
        flags = ["--server", self.server.address, "--certs", str(certs or self.server.certs)]
        return self.cli(*flags, "--identity", identity, *words)

    def elsewhere(self, address: str, *words: str, certs: Path | None = None) -> Result:
        """Run a command against an address."""
        flags = ["--server", address, "--patience", "0", "--certs", str(certs or self.server.certs)]
        return self.cli(*flags, *(words or ("list",)))

    def directory(self, name: str) -> Path:
        """Certificates of the server's authority, to spoil."""
        return make_directory(self.folder / name)

    def begin(self, *words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run a command against the server beside the block."""
        return self.cli.begin("--server", self.server.address, "--certs", str(self.server.certs), *words)

    def piped(self, stdin: int, *words: str) -> Result:
        """Run a command with something on its stdin."""
        flags = ["--server", self.server.address, "--certs", str(self.server.certs)]
        done = subprocess.run(
            [*PROGRAM, *flags, *words],
            stdin=stdin,
            capture_output=True,
            env=self.cli.environment | {"PYTHONPATH": str(ROOT)},
            timeout=PATIENCE,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)


Situation = Callable[[Place], Result]


class Situations(dict[str, Situation]):
    """Situations by their names, in the order of the table; called with a name, it is a decorator."""

    def __call__(self, name: str) -> Callable[[Situation], Situation]:
        def keep(function: Situation) -> Situation:
            assert name not in self
            self[name] = function
            return function

        return keep
