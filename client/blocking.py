"""Owns the blocking client: one connection, used by one thread. It imports no Trio.

>>> with connect("127.0.0.1:8443", certs=Path("certs"), identity="admin") as client:
...     job = client.start(["echo", "hello"])
...     with client.stream(job.id) as stream:
...         for piece in stream:
...             print(piece.stream, piece.data)
...     print(stream.job.exit_code)
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, Unpack

from wire.jobs import JobParams, JobStatus, StopParams
from wire.limits import Limits
from wire.messages import Hello

from . import transport
from .arguments import start_params
from .asked import AboutJob, Pages, new_id
from .blocking_link import Link
from .blocking_output import Stream
from .core import job_of
from .endpoint import Endpoint
from .options import Gaps, StreamOptions, stream_params
from .resume import DEFAULT_PATIENCE

__all__ = ["Client", "Stream", "connect"]


def connect(
    server: str,
    *,
    certs: str | os.PathLike[str] | None = None,
    identity: str,
    patience: float = DEFAULT_PATIENCE,
) -> "Client":
    """Connect to a server and wait for its hello.

    Args:
        server: HOST:PORT, or wss://HOST:PORT for WebSocket.
        certs: the directory with ca.crt and the identity's certificate and key; if None,
            ``worker-service/certs`` in $XDG_CONFIG_HOME or ~/.config, as for the command line.
        identity: the stem of these files, such as ``admin``.
        patience: seconds for which to try to come back after a cut; 0 for not at all. A try under way
            then is finished.

    Raises:
        WorkerServiceError: base of the errors below; see client.errors.
        ClientError: the address is none, there is no server, TLS failed, or our certificates cannot be used.
        RequestError: the server refuses this identity.
        RemoteProtocolError: it is no server of ours.
    """
    endpoint = Endpoint.parse(server)
    dial = partial(transport.connect, endpoint, transport.directory_of(certs), identity)
    return Client(dial(), str(endpoint), dial=dial, patience=patience)


class Client:
    """A connection to a server; `connect` makes one. Close it, or use it in a ``with``.

    What every method raises is a WorkerServiceError (see client.errors): RequestError (the server refused),
    CutError (the connection ended; what became of the request is unknown) or another ClientError (there is
    no way back to the server), and ProtocolError (the server makes no sense, or the request is too large).

    One thread at a time uses it; another one gets an InUseError. Whatever a signal handler raises comes out
    of every method at once. The connection is usable after that, or else the next call opens another as
    after a cut, and a stream goes on at the next byte.

    After a cut, and after the server's end if it comes back, streams go on where they were, and what may be
    asked again is; see `start` for what that means there. Of jobs that a restart of the server has ended, a
    RequestError with the code `not_found` says so.

    Args:
        link: the transport; closed with the client.
        server: its address, for messages.
        dial: opens another transport after a cut; None for never.
        patience: seconds for which to try it.
    """

    def __init__(
        self,
        link: transport.Transport,
        server: str,
        *,
        dial: Callable[[], transport.Transport] | None = None,
        patience: float = 0.0,
    ) -> None:
        self._link = Link(link, server, dial, patience)

    @property
    def hello(self) -> Hello:
        """What the server said of itself and of us."""
        return self._link.exchange.hello

    @property
    def features(self) -> frozenset[str]:
        """The features in use on this connection: those that the server and this client know."""
        return self._link.exchange.features

    def server_time(self) -> float | None:
        """What the server's clock says now, in Unix time, by which jobs' times are told and `since` is meant.

        None if the server is an older one, which does not tell.
        """
        return self._link.exchange.server_time()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; jobs go on. Any thread may: what another waits for ends with a CutError."""
        self._link.close()

    def new_id(self) -> str | None:
        """A new id for a job, which `start` takes; None if the server is older than that."""
        return new_id(self.hello, self.features)

    def start(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        limits: Limits | None = None,
        merge: bool = False,
        seconds: float | None = None,
        user: str | None = None,
        id: str | None = None,
    ) -> JobStatus:
        """Start a job and return once its program runs.

        After a cut the same start is asked for again, and runs once. If the server was restarted meanwhile,
        or there is no way back to it, an UncertainStartError says that the job may have run. A server that
        does not announce the feature `start_id` is never asked again: a cut is a plain CutError then.

        Args:
            argv: the program and its arguments, a word each: no shell reads them.
            env: variables added to those that the server lets through.
            cwd: an absolute path on the server; its own working directory if None.
            limits: ceilings that the kernel is to enforce.
            merge: one pipe for stdout and stderr, which keeps their exact order.
            seconds: stop the job after so long.
            user: the name of the server's user to run as; what its operator chose if None.
            id: the job's id, as `new_id` makes it; a new one if None. Whoever chooses it can find the
                job, or ask for the same start again, however this call ends: by Ctrl-C, for example.

        Raises:
            TypeError, ValueError: an argument is none that a job can have; nothing was asked for.
        """
        params = start_params(argv, env, cwd, limits, merge=merge, seconds=seconds, user=user, job_id=id)
        return self._link.start(params, chosen=id is not None)

    def stop(self, job_id: str, *, grace: float | None = None) -> JobStatus:
        """Stop a job: TERM, ``grace`` seconds, KILL. Returns once nothing of it is left."""
        return job_of(self._link.ask(AboutJob("stop", StopParams(job_id, grace))))

    def query(self, job_id: str) -> JobStatus:
        """Return what is known of a job now."""
        return job_of(self._link.ask(AboutJob("query", JobParams(job_id))))

    def wait(self, job_id: str) -> JobStatus:
        """Wait for a job's end and return its final status."""
        return job_of(self._link.ask(AboutJob("wait", JobParams(job_id))))

    def remove(self, job_id: str) -> JobStatus:
        """Make the server forget a job that has ended, and its output; return its last status."""
        return job_of(self._link.ask(AboutJob("remove", JobParams(job_id))))

    def list(self) -> Iterator[JobStatus]:
        """Give every job, oldest first. If the server is restarted meanwhile, its jobs of now follow."""
        pages = Pages()
        while not pages.last:
            yield from pages.take(self._link.ask(pages)).jobs

    def stream(self, job_id: str, *, gaps: Gaps = "raise", **options: Unpack[StreamOptions]) -> Stream:
        """Follow a job's output to its end.

        Args:
            job_id: the job's id, or a unique prefix of it.
            gaps: whether bytes that cannot be had raise a GapError, or are yielded as a Gap.
            options: which part of it: ``offset``, ``tail_bytes``, ``tail_lines``, ``since``, ``follow``,
                ``stream``; see `client.options.StreamOptions`.
        """
        return Stream(self._link, stream_params(job_id, gaps, **options), gaps=gaps)
