"""Owns the commands that talk to a server. Each connects, asks, prints, and returns an exit code."""

import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from certs.contexts import default_directory
from wire.errors import RequestError, WireError
from wire.jobs import JobStatus
from wire.limits import Limits, parse_limits

from ..blocking import Client, Stream, connect
from ..endpoint import DEFAULT_IDENTITY, DEFAULT_SERVER
from ..errors import ClientError
from . import render
from .exits import Exit, UsageError, of_job


def _version() -> str:
    from importlib.metadata import version

    return f"worker-service {version('worker-service')}"


app = App(
    name="worker-service",
    help="Run processes on a Linux host for remote clients, over mutual TLS 1.3, each in its own cgroup.",
    version=_version,
    version_flags=["--version"],
)
# By name, so that neither Trio nor cryptography is loaded before one of them is asked for.
app.command("worker.cli:app", name="serve", help="Run the server.")
app.command("certs.cli:app", name="certs", help="Make the certificates of a server and its clients.")

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
    """

    server: Annotated[str, Parameter(env_var="WORKER_SERVICE_SERVER")] = DEFAULT_SERVER
    certs: Annotated[str, Parameter(env_var="WORKER_SERVICE_CERTS", show_default=False)] = ""
    identity: Annotated[str, Parameter(env_var="WORKER_SERVICE_IDENTITY")] = DEFAULT_IDENTITY

    def connect(self) -> Client:
        """Connect to the server; empty settings count as unset."""
        certs = Path(self.certs) if self.certs else default_directory()
        return connect(self.server or DEFAULT_SERVER, certs=certs, identity=self.identity or DEFAULT_IDENTITY)


_HERE = Where()


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
    env:
        NAME=VALUE for the job's environment; NAME alone passes ours on. Repeatable.
    cwd:
        The job's working directory on the server, an absolute path.
    merge:
        One pipe for stdout and stderr, which keeps their exact order.
    timeout:
        Stop the job after this many seconds.
    """

    cpu_limit: str | None = None
    memory_limit: str | None = None
    disk_limit: str | None = None
    pids_limit: str | None = None
    env: Annotated[list[str] | None, Parameter(negative="")] = None
    cwd: str | None = None
    merge: Annotated[bool, Parameter(negative="")] = False
    timeout: float | None = None

    def limits(self) -> Limits:
        """The four ceilings, read and checked."""
        return parse_limits(
            cpu=self.cpu_limit, memory=self.memory_limit, disk=self.disk_limit, pids=self.pids_limit
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

    def start(self, client: Client, words: tuple[str, ...]) -> JobStatus:
        """Start the job."""
        return client.start(
            words,
            env=self.environment(),
            cwd=self.cwd,
            limits=self.limits(),
            merge=self.merge,
            seconds=self.timeout,
        )

    def check(self, words: tuple[str, ...]) -> None:
        """Find what is wrong before anything is connected to."""
        if not words or not words[0]:
            raise UsageError("no command was given: worker-service start [flags] -- COMMAND [ARGUMENT...].")
        self.limits()
        self.environment()


_PLAIN = What()
Words = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


@app.command
def start(*words: Words, what: What = _PLAIN, where: Where = _HERE) -> int:
    """Start a job and print its id: start [flags] -- COMMAND [ARGUMENT...].

    Also `start -command COMMAND "ARGUMENT..."`, whose second string is split as a shell splits words.
    """
    what.check(words)
    with where.connect() as client:
        job = what.start(client, words)
    limited = " with resource limits" if job.limits else ""
    _print(f"job with id {job.id} started{limited}.\n")
    return Exit.OK


@app.command
def stop(job: str, *, grace: float | None = None, where: Where = _HERE) -> int:
    """Stop a job and every process it started: TERM, a grace, KILL.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    grace:
        Seconds between TERM and KILL [default: the server's, 10].
    """
    with where.connect() as client:
        stopped = client.stop(job, grace=grace)
    _print(f"Success! job with id {stopped.id} stopped.\n")
    return Exit.OK


@app.command
def query(job: str, *, json: Annotated[bool, Parameter(negative="")] = False, where: Where = _HERE) -> int:
    """Show whether a job runs, and all that is known of it.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    json:
        One JSON object instead.
    """
    with where.connect() as client:
        found = client.query(job)
    _print_job(found, json=json)
    return Exit.OK


@app.command(name="list")
def list_jobs(*, json: Annotated[bool, Parameter(negative="")] = False, where: Where = _HERE) -> int:
    """Show every job since the server's start, oldest first.

    Parameters
    ----------
    json:
        One JSON object a line instead.
    """
    with where.connect() as client:
        jobs = list(client.list())
    _print("".join(render.json_line(render.as_json(job)) for job in jobs) if json else render.table(jobs))
    return Exit.OK


@app.command
def wait(job: str, *, json: Annotated[bool, Parameter(negative="")] = False, where: Where = _HERE) -> int:
    """Wait for a job's end, show it as query does, and exit with the job's own exit code.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    json:
        One JSON object instead.
    """
    with where.connect() as client:
        ended = client.wait(job)
    _print_job(ended, json=json)
    return of_job(ended)


@app.command
def stream(job: str, *, where: Where = _HERE) -> int:
    """Show a job's output from its first byte until the job ends. Ctrl-C leaves; the job goes on.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    """
    with where.connect() as client, client.stream(job) as output:
        _copy(output)
    return Exit.OK


@app.command
def run(*words: Words, what: What = _PLAIN, where: Where = _HERE) -> int:
    """Start a job, show its output, and exit with its exit code: run [flags] -- COMMAND [ARGUMENT...].

    Ctrl-C stops the job; a second one leaves at once.
    """
    what.check(words)
    with where.connect() as client:
        # The handler is there before the job is: no Ctrl-C can leave a job behind unsaid.
        stopper = _Stopper(where)
        signal.signal(signal.SIGINT, stopper.handle)
        signal.signal(signal.SIGTERM, stopper.handle)
        job = what.start(client, words)
        stopper.begin(job.id)
        with client.stream(job.id) as output:
            _copy(output)
    return of_job(output.job)


class _Stopper:
    """Stops a job on a signal, over a connection of its own, while its output is still being followed."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._job_id: str | None = None
        self._asked = False

    def begin(self, job_id: str) -> None:
        """The job is there; a signal that came before this counts now."""
        self._job_id = job_id
        if self._asked:
            self._stop()

    def handle(self, number: int, frame: Any) -> None:
        """Take a signal: the first stops the job, the second leaves at once."""
        del frame
        if self._asked:
            os._exit(Exit.SIGNAL + number)
        self._asked = True
        if self._job_id is not None:
            self._stop()

    def _stop(self) -> None:
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        assert self._job_id is not None  # noqa: S101  # set before any thread is started
        try:
            with self._where.connect() as client:
                client.stop(self._job_id)
        except (ClientError, RequestError, WireError) as error:
            sys.stderr.write(f"worker-service: the job could not be stopped: {error}\n")


def _print(text: str) -> None:
    """Write to stdout; a full disk or a gone reader raises here, not at exit."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_job(job: JobStatus, *, json: bool) -> None:
    _print(
        render.json_line(render.as_json(job)) if json else f"{render.headline(job)}\n{render.details(job)}"
    )


def _copy(output: Stream) -> None:
    """Write a job's bytes to our own stdout and stderr, in order."""
    for piece in output:
        rest = memoryview(piece.data)
        while rest:
            rest = rest[os.write(piece.stream, rest) :]
