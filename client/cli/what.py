"""Owns the flags of `start` and `run`, which say how a job is started."""

import os
from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from wire.durations import parse_seconds
from wire.jobs import JobStatus
from wire.limits import Limits, parse_limits

from ..blocking import Client
from . import streams
from .exits import UsageError
from .flags import PATTERN, Duration

#: Less than this, in 1/1000 of a CPU, is hardly what a bare number was meant to say.
LITTLE_CPU: Final = 50


@Parameter(name="*")
@dataclass(frozen=True)
class What:
    """How a job is started.

    Parameters
    ----------
    cpu_limit:
        CPU ceiling: 512 is half a CPU (1/1024 each), also 0.5cpu, 500m, 50%; two CPUs are 2cpu.
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
        Stop the job after so long: 90 (seconds), 90s, 5m, 2h.
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
    timeout: Duration = None
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

    def seconds(self) -> float | None:
        """The timeout."""
        return None if self.timeout is None else parse_seconds("--timeout", self.timeout, zero=False)

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

    def start(
        self, client: Client, words: tuple[str, ...], *, merge: bool = False, job_id: str | None = None
    ) -> JobStatus:
        """Start the job; ``merge`` is what is meant where no flag says."""
        return client.start(
            words,
            env=self.environment(),
            cwd=self.cwd,
            limits=self.limits(),
            merge=merge if self.merge is None else self.merge,
            seconds=self.seconds(),
            user=self.user,
            id=job_id,
        )

    def check(self, command: str, words: tuple[str, ...]) -> None:
        """Find what is wrong with a ``start`` or ``run`` before anything is connected to."""
        if not words or not words[0]:
            raise UsageError(f"no command was given: {PATTERN.format(command)}.")
        if self.cwd is not None and not self.cwd.startswith("/"):
            raise UsageError(f"--cwd {self.cwd!r} must be an absolute path on the server.")
        self.seconds()
        self.environment()
        cpu, text = self.limits().cpu, (self.cpu_limit or "").strip()
        if cpu is not None and cpu < LITTLE_CPU and text[-1:].isdigit():
            streams.complain(
                f"note: --cpu-limit {text} is {cpu / 1000:g} CPU, as a bare number counts 1/1024 of one; "
                f"for {text} CPUs write {text}cpu."
            )
