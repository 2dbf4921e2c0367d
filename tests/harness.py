"""Owns real servers for tests: `worker-service serve` as its own process, on loopback, ended with it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, AnyStr, TypeVar

from client.blocking import Client, connect
from tests.cgroups import cgroups_in, find_cgroups
from tests.proc import stat_of

T = TypeVar("T")
#: Our own source.
ROOT = Path(__file__).parents[1]
#: How many times slower than a common machine this one is, for what depends on its speed alone. An emulated
#: machine says so in SLOW_MACHINE.
SLOW = int(os.environ.get("SLOW_MACHINE") or 1)
#: Nothing here should take this long, in seconds; a wait that does has failed.
PATIENCE = max(60.0, 20.0 * SLOW)


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition on another process holds, and return its value; fail after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)
    return value


def at_rest(read: Callable[[], T], seconds: float = 0.2) -> T:
    """What is read of another process once it has been the same for so long; fail after PATIENCE.

    A count of its descriptors, say, of which some are open only for a moment.
    """
    deadline = time.monotonic() + PATIENCE
    value, since = read(), time.monotonic()
    while time.monotonic() < since + seconds:
        time.sleep(0.005)
        if (now := read()) != value:
            assert time.monotonic() < deadline, f"never at rest: {value}, then {now}"
            value, since = now, time.monotonic()
    return value


@contextmanager
def aborting(process: subprocess.Popen[AnyStr]) -> Iterator[None]:
    """Abort a process if the block, which reads from it, takes longer than PATIENCE: the reading then ends.

    With PYTHONFAULTHANDLER in its environment its stderr then says where it stood.
    """
    abort = threading.Timer(PATIENCE, process.send_signal, [signal.SIGABRT])
    abort.daemon = True
    abort.start()
    try:
        yield
    finally:
        abort.cancel()


def next_line(process: subprocess.Popen[AnyStr]) -> AnyStr:
    """The next line that a process prints, or nothing at its end; it is aborted after PATIENCE."""
    assert process.stdout is not None
    with aborting(process):
        return process.stdout.readline()


def join(*threads: threading.Thread) -> None:
    """Wait until threads have ended; fail after PATIENCE."""
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread.name} does not end"


def alive(pid: int) -> bool:
    """Whether a process runs: it exists and is no zombie."""
    try:
        return stat_of(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Server:
    """A running server process. `log` grows as it writes; `port` is where it listens."""

    def __init__(self, process: subprocess.Popen[str], certs: Path) -> None:
        self.process = process
        self.certs = certs
        self.log: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.logged("listening")["port"])
        self.address = f"127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.noise.append(line)

    def logged(self, message: str, count: int = 1) -> dict[str, Any]:
        """Wait for the count-th log line with this message and return it."""

        def find() -> dict[str, Any] | None:
            found = [line for line in list(self.log) if line.get("message") == message]
            if len(found) < count:
                assert self.process.poll() is None or self._reader.is_alive(), "".join(self.noise)
                return None
            return found[count - 1]

        found: dict[str, Any] = eventually(find, f"log line {message!r}")
        return found

    def connect(self, identity: str = "admin", scheme: str = "") -> Client:
        """A blocking client, which does not come back once this server is dead."""
        return connect(scheme + self.address, certs=self.certs, identity=identity, patience=0)

    def environment(self, identity: str = "admin", scheme: str = "") -> dict[str, str]:
        """What the command line needs to find this server."""
        return os.environ | {
            "WORKER_SERVICE_SERVER": scheme + self.address,
            "WORKER_SERVICE_CERTS": str(self.certs),
            "WORKER_SERVICE_IDENTITY": identity,
        }

    @property
    def spawner_pid(self) -> int:
        """The pid of its spawner, its only child that runs spawner_main."""

        def find() -> int | None:
            for pid in children(self.process.pid):
                with suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
                    if b"spawner_main.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
            return None

        found: int = eventually(find, "the spawner")
        return found

    def cgroups(self) -> list[Path]:
        """The directories of this server's base cgroups, in every hierarchy."""
        return find_cgroups(f"worker-service-{self.process.pid}-*")

    def job_cgroups(self) -> list[Path]:
        """The directories of its jobs' cgroups, in every hierarchy."""
        return [path for base in self.cgroups() for path in cgroups_in(base)]

    def abort(self) -> str:
        """Abort it, and return what it wrote besides its log: where each of its threads stood."""
        self.process.send_signal(signal.SIGABRT)
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return "".join(self.noise)

    def end(self) -> int:
        """Ask it to end, as an operator does, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)  # until the spawner, which shares the log, has ended too
        return code


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended has none
            found += [int(word) for word in task.read_text().split()]
    return found


@contextmanager
def serve(
    certs: Path,
    *flags: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    prefix: Sequence[str] = (),
    port: int = 0,
    root: Path | None = None,
) -> Iterator[Server]:
    """Run a server on a port of its own until the block ends; a traceback in its log fails the test.

    ``prefix`` is a command that executes the one behind it. ``port`` is one that is free; 0 for any.
    ``root`` holds the source of another version than ours.
    """
    command = [*prefix, sys.executable, "-m", "client.cli", "serve"]
    command += ["--listen", f"127.0.0.1:{port}", "--certs", str(certs), *flags]
    if SLOW > 1 and "--handshake-timeout" not in flags:  # an emulated machine signs as slowly
        command += ["--handshake-timeout", f"{PATIENCE:g}"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd or root,  # where `python -m` looks first
        env=(env if env is not None else dict(os.environ)) | {"PYTHONPATH": str(root or ROOT)},
    )
    try:
        server = Server(process, certs)
        yield server
        server.end()
        tracebacks = [line for line in server.log if "traceback" in line]
        assert not tracebacks, tracebacks
        assert not any("Traceback" in line for line in server.noise), "".join(server.noise)
    finally:
        if process.poll() is None:
            for pid in children(process.pid):  # one that a test has stopped would hold the log open
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            process.kill()
        with process:
            pass  # waits, and closes the log
