"""Owns the Trio client: one connection, shared by any number of tasks.

>>> async with open_client("127.0.0.1:8443", certs=Path("certs"), identity="admin") as client:
...     job = await client.start(["echo", "hello"])
...     async with client.stream(job.id) as stream:
...         async for piece in stream:
...             print(piece.stream, piece.data)
...     print(stream.job.exit_code)
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Self, Unpack

import trio

from wire.jobs import JobParams, JobStatus, StopParams
from wire.limits import Limits
from wire.messages import Hello

from .arguments import start_params
from .asked import AboutJob, Pages, new_id
from .core import job_of
from .endpoint import Endpoint
from .options import Gaps, StreamOptions, stream_params
from .resume import DEFAULT_PATIENCE
from .transport import directory_of
from .trio_exchange import Background
from .trio_link import Dial, Link
from .trio_output import Stream
from .trio_transport import Transport, connect


@asynccontextmanager
async def open_client(
    server: str,
    *,
    certs: str | os.PathLike[str] | None = None,
    identity: str,
    patience: float = DEFAULT_PATIENCE,
) -> AsyncGenerator["Client"]:
    """Connect to a server, wait for its hello, and close the connection with the block; jobs go on.

    What the block raises comes out as it is. When the connection ends, it is the calls that fail, not
    the block.

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
    async with Background() as nursery:
        dial = partial(connect, nursery, endpoint, directory_of(certs), identity)
        async with client_over(await dial(), str(endpoint), dial=dial, patience=patience) as client:
            yield client


@asynccontextmanager
async def client_over(
    transport: Transport, server: str, *, dial: Dial | None = None, patience: float = 0.0
) -> AsyncGenerator["Client"]:
    """Run a client over a transport, which is closed with it; raises as `open_client` does.

    Args:
        transport: an open one.
        server: its address, for messages.
        dial: opens another after a cut; None for never.
        patience: seconds for which to try it.
    """
    async with Background() as nursery:
        link = Link(nursery, transport, server, dial, patience)
        try:
            await link.run()
            yield Client(link)
        finally:
            await link.close()  # noqa: ASYNC102, ASYNC120  # it is shielded, and bounded


class Client:
    """A connection to a server; `open_client` makes one. Any task may call it at any time.

    What every method raises is a WorkerServiceError (see client.errors): RequestError (the server refused),
    CutError (the connection ended; what became of the request is unknown) or another ClientError (there is
    no way back to the server), and ProtocolError (the server makes no sense, or the request is too large).

    A cancelled call is cancelled at the server too, as far as it has not happened yet. Beyond
    `hello.max_requests` at once, open streams included, calls wait for their turn.

    After a cut, and after the server's end if it comes back, streams go on where they were, and what may be
    asked again is; see `start` for what that means there. Of jobs that a restart of the server has ended, a
    RequestError with the code `not_found` says so.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

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

    def new_id(self) -> str | None:
        """A new id for a job, which `start` takes; None if the server is older than that."""
        return new_id(self.hello, self.features)

    async def start(
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
                job, or ask for the same start again, however this call ends: cancelled, for example.

        Raises:
            TypeError, ValueError: an argument is none that a job can have; nothing was asked for.
        """
        params = start_params(argv, env, cwd, limits, merge=merge, seconds=seconds, user=user, job_id=id)
        return await self._link.start(params, chosen=id is not None)

    async def stop(self, job_id: str, *, grace: float | None = None) -> JobStatus:
        """Stop a job: TERM, ``grace`` seconds, KILL. Returns once nothing of it is left."""
        return job_of(await self._link.ask(AboutJob("stop", StopParams(job_id, grace))))

    async def query(self, job_id: str) -> JobStatus:
        """Return what is known of a job now."""
        return job_of(await self._link.ask(AboutJob("query", JobParams(job_id))))

    async def wait(self, job_id: str) -> JobStatus:
        """Wait for a job's end and return its final status."""
        return job_of(await self._link.ask(AboutJob("wait", JobParams(job_id))))

    async def remove(self, job_id: str) -> JobStatus:
        """Make the server forget a job that has ended, and its output; return its last status."""
        return job_of(await self._link.ask(AboutJob("remove", JobParams(job_id))))

    def list(self) -> AsyncIterator[JobStatus]:
        """Give every job, oldest first: ``async for job in client.list()``.

        If the server is restarted meanwhile, its jobs of now follow.
        """
        return _Jobs(self._link)

    def stream(self, job_id: str, *, gaps: Gaps = "raise", **options: Unpack[StreamOptions]) -> Stream:
        """Follow a job's output to its end: ``async with client.stream(id) as stream``.

        Args:
            job_id: the job's id, or a unique prefix of it.
            gaps: whether bytes that cannot be had raise a GapError, or are yielded as a Gap.
            options: which part of it: ``offset``, ``tail_bytes``, ``tail_lines``, ``since``, ``follow``,
                ``stream``; see `client.options.StreamOptions`.
        """
        return Stream(self._link, stream_params(job_id, gaps, **options), gaps=gaps)


class _Jobs:
    """Every job, oldest first, asked for page by page."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._page: list[JobStatus] = []  # what is left of it, the newest first
        self._pages = Pages()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobStatus:
        await trio.lowlevel.checkpoint()
        while not self._page:
            if self._pages.last:
                raise StopAsyncIteration
            page = self._pages.take(await self._link.ask(self._pages))
            self._page = [*reversed(page.jobs)]
        return self._page.pop()
