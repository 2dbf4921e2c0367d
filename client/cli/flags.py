"""Owns the flags that commands share: which server and who we are, and how a job is started."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from certs.contexts import default_directory
from certs.exposure import exposures
from wire.jobs import JobStatus
from wire.limits import Limits, parse_limits

from ..blocking import Client, connect
from ..endpoint import DEFAULT_IDENTITY, DEFAULT_SERVER
from ..resume import DEFAULT_PATIENCE
from . import streams
from .exits import UsageError

PATTERN = "worker-service {} [flags] -- COMMAND [ARGUMENT...]"
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Seconds = Annotated[float | None, Parameter(metavar="SECONDS")]
Interval = Annotated[float, Parameter(metavar="SECONDS")]
JobId = Annotated[str, Parameter(metavar="JOB")]
Words = Annotated[str, Parameter(show=False)]
#: What `--interval` may be, in seconds.
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 3600.0
_CONNECTION = Group("Connection", sort_key=9)


@Parameter(name="*", group=_CONNECTION)
@dataclass(frozen=True)
class Where:
    """Which server, and who we are.

    Parameters
    ----------
    server:
        HOST:PORT, or wss://HOST:PORT for WebSocket.
    certs:
        Directory with ca.crt and the identity's certificate and key
        [default: worker-service/certs in ~/.config or $XDG_CONFIG_HOME].
    identity:
        The stem of the certificate's file name in that directory.
    patience:
        Seconds for which to try to come back after the connection was cut; 0 for not at all.
    """

    server: Annotated[str, Parameter(env_var="WORKER_SERVICE_SERVER", metavar="ADDRESS")] = DEFAULT_SERVER
    certs: Annotated[str, Parameter(env_var="WORKER_SERVICE_CERTS", metavar="DIR", show_default=False)] = ""
    identity: Annotated[str, Parameter(env_var="WORKER_SERVICE_IDENTITY", metavar="NAME")] = DEFAULT_IDENTITY
    patience: Annotated[str, Parameter(env_var="WORKER_SERVICE_PATIENCE", metavar="SECONDS")] = (
        f"{DEFAULT_PATIENCE:g}"
    )

    def connect(self) -> Client:
        """Connect to the server; empty settings count as unset."""
        certs = Path(self.certs) if self.certs else default_directory()
        flag = source("--patience", "WORKER_SERVICE_PATIENCE", self.patience)
        try:
            patience = float(self.patience or DEFAULT_PATIENCE)
        except ValueError:
            raise UsageError(f"{flag} {self.patience!r} is not a number.") from None
        check_seconds(flag, patience)
        identity = self.identity or DEFAULT_IDENTITY
        client = connect(self.server or DEFAULT_SERVER, certs=certs, identity=identity, patience=patience)
        for sentence in exposures(certs, f"{identity}.key"):
            streams.complain(f"note: {sentence}")
        return client


@Parameter(name="*")
@dataclass(frozen=True)
class What:
    """How a job is started.

    Parameters
    ----------
    cpu_limit:
        CPU ceiling: 512 is half a CPU (1/1024 each), also 0.5cpu, 500m, 50%.
    memory_limit:
        Memory ceiling, swap included: 500M, 1G.
    disk_limit:
        Disk ceiling, reads and writes each: 500 is operations a second, 50M bytes a second, or 500,50M.
    pids_limit:
        Ceiling on processes and threads.
    cpu_weight:
        Share of CPU time when the machine is busy, 1 to 10000; everybody's default is 100.
    disk_weight:
        Share of each disk's time when it is busy, 1 to 10000; everybody's default is 100.
    env:
        NAME=VALUE for the job's environment; NAME alone passes ours on. Repeatable.
    cwd:
        The job's working directory on the server, an absolute path.
    merge:
        One pipe for stdout and stderr, which keeps their exact order [default: run does so where its own
        two are one file, as on a terminal or with 2>&1].
    timeout:
        Stop the job after this many seconds.
    user:
        The user of the server's host to run as, by name.
    """

    cpu_limit: Annotated[str | None, Parameter(metavar="CPU")] = None
    memory_limit: Annotated[str | None, Parameter(metavar="BYTES")] = None
    disk_limit: Annotated[str | None, Parameter(metavar="RATE")] = None
    pids_limit: Annotated[str | None, Parameter(metavar="COUNT")] = None
    cpu_weight: Annotated[str | None, Parameter(metavar="WEIGHT")] = None
    disk_weight: Annotated[str | None, Parameter(metavar="WEIGHT")] = None
    env: Annotated[list[str] | None, Parameter(negative="", metavar="NAME=VALUE")] = None
    cwd: Annotated[str | None, Parameter(metavar="DIR")] = None
    merge: Annotated[bool | None, Parameter(negative="--no-merge", show_default=False)] = None
    timeout: Seconds = None
    user: Annotated[str | None, Parameter(metavar="NAME")] = None

    def limits(self) -> Limits:
        """The ceilings and weights, read and checked."""
        return parse_limits(
            cpu=self.cpu_limit,
            memory=self.memory_limit,
            disk=self.disk_limit,
            pids=self.pids_limit,
            cpu_weight=self.cpu_weight,
            disk_weight=self.disk_weight,
        )

    def environment(self) -> dict[str, str]:
        """The variables that the request names."""
        found: dict[str, str] = {}
        for word in self.env or []:
            name, equals, value = word.partition("=")
            if not name:
                raise UsageError(
                    f"--env {word!r} names no variable; write NAME=VALUE, or NAME to pass ours on."
                )
            if equals:
                found[name] = value
            elif name in os.environ:
                found[name] = os.environ[name]
            else:
                raise UsageError(
                    f"--env {name} passes our own {name} on, but it is not set; write {name}=VALUE."
                )
        return found

    def start(self, client: Client, words: tuple[str, ...], *, merge: bool = False) -> JobStatus:
        """Start the job; ``merge`` is what is meant where no flag says."""
        return client.start(
            words,
            env=self.environment(),
            cwd=self.cwd,
            limits=self.limits(),
            merge=merge if self.merge is None else self.merge,
            seconds=self.timeout,
            user=self.user,
        )

    def check(self, command: str, words: tuple[str, ...]) -> None:
        """Find what is wrong with a ``start`` or ``run`` before anything is connected to."""
        if not words or not words[0]:
            raise UsageError(f"no command was given: {PATTERN.format(command)}.")
        if self.cwd is not None and not self.cwd.startswith("/"):
            raise UsageError(f"--cwd {self.cwd!r} must be an absolute path on the server.")
        check_seconds("--timeout", self.timeout)
        self.limits()
        self.environment()


def source(flag: str, variable: str, value: str) -> str:
    """What a value came from, so that nobody is blamed for a flag that was not given."""
    return variable if value and os.environ.get(variable) == value else flag


def check_seconds(flag: str, seconds: float | None) -> None:
    """Refuse, with a UsageError, what is no length of time."""
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"{flag} {seconds:g} must be a number of seconds, 0 or more.")


def check_interval(seconds: float) -> None:
    """Refuse, with a UsageError, what is no sane time between two readings."""
    if not SHORTEST_INTERVAL <= seconds <= LONGEST_INTERVAL:
        raise UsageError(
            f"--interval {seconds:g} must be a number of seconds from "
            f"{SHORTEST_INTERVAL:g} to {LONGEST_INTERVAL:g}."
        )
