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
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from wire.jobs import JobParams, JobStatus, ListParams, StopParams, StreamParams
from wire.limits import Limits
from wire.messages import Hello, Output
from wire.trio_stream import CLOSE_SECONDS

from .blocking import result_of, start_params
from .core import job_of, page_of
from .endpoint import Endpoint
from .errors import CutError
from .trio_exchange import Background, Events, Exchange
from .trio_transport import Transport, connect


@asynccontextmanager
async def open_client(server: str, *, certs: Path, identity: str) -> AsyncGenerator["Client"]:
    """Connect to a server, wait for its hello, and close the connection with the block; jobs go on.

    What the block raises comes out as it is. When the connection ends, it is the calls that fail, not
    the block.

    Args:
        server: HOST:PORT, or wss://HOST:PORT for WebSocket.
        certs: the directory with ca.crt and the identity's certificate and key.
        identity: the stem of these files, such as ``admin``.

    Raises:
        ClientError: there is no server, or TLS failed; see client.errors.
        ContextError: the certificates cannot be used.
        RequestError: the server refuses this identity.
        RemoteProtocolError: it is no server of ours.
    """
    endpoint = Endpoint.parse(server)
    async with Background() as nursery:
        transport = await connect(nursery, endpoint, certs, identity)
        async with client_over(transport, str(endpoint)) as client:
            yield client


@asynccontextmanager
async def client_over(transport: Transport, server: str) -> AsyncGenerator["Client"]:
    """Run a client over a transport, which is closed with it; raises as `open_client` does.

    Args:
        transport: an open one.
        server: its address, for messages.
    """
    exchange = Exchange(transport, server)
    async with Background() as nursery:
        try:
            await exchange.run(nursery)
            yield Client(exchange)
        finally:
            exchange.end(CutError("This client is closed."))
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await transport.aclose()


class Client:
    """A connection to a server; `open_client` makes one. Any task may call it at any time.

    Every method may raise RequestError (the server refused), CutError (the connection ended; what
    became of the request is unknown) and RemoteProtocolError (the server makes no sense). A cancelled
    call is cancelled at the server too, as far as it has not happened yet. Beyond `hello.max_requests`
    at once, open streams included, calls wait for their turn.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def hello(self) -> Hello:
        """What the server said of itself and of us."""
        return self._exchange.hello

    async def start(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        limits: Limits | None = None,
        merge: bool = False,
        seconds: float | None = None,
    ) -> JobStatus:
        """Start a job and return once its program runs.

        Args:
            argv: the program and its arguments.
            env: variables added to those that the server lets through.
            cwd: an absolute path on the server; its own working directory if None.
            limits: ceilings that the kernel is to enforce.
            merge: one pipe for stdout and stderr, which keeps their exact order.
            seconds: stop the job after so long.
        """
        params = start_params(argv, env, cwd, limits, merge=merge, seconds=seconds)
        return job_of(await self._exchange.call("start", params))

    async def stop(self, job_id: str, *, grace: float | None = None) -> JobStatus:
        """Stop a job: TERM, ``grace`` seconds, KILL. Returns once nothing of it is left."""
        return job_of(await self._exchange.call("stop", StopParams(job_id, grace)))

    async def query(self, job_id: str) -> JobStatus:
        """Return what is known of a job now."""
        return job_of(await self._exchange.call("query", JobParams(job_id)))

    async def wait(self, job_id: str) -> JobStatus:
        """Wait for a job's end and return its final status."""
        return job_of(await self._exchange.call("wait", JobParams(job_id)))

    def list(self) -> AsyncIterator[JobStatus]:
        """Give every job, oldest first: ``async for job in client.list()``."""
        return _Jobs(self._exchange)

    def stream(self, job_id: str, *, offset: int = 0) -> "Stream":
        """Follow a job's output from a byte offset to its end: ``async with client.stream(id) as stream``."""
        return Stream(self._exchange, StreamParams(job_id, offset))


class Stream:
    """A job's output, piece by piece, within ``async with``; `job` is the final status once it has ended.

    Leaving the block before the end cancels it at the server; the job goes on.
    """

    def __init__(self, exchange: Exchange, params: StreamParams) -> None:
        self._exchange = exchange
        self._params = params
        self._request_id = 0
        self._events: Events | None = None
        self._job: JobStatus | None = None
        self._over = False

    @property
    def job(self) -> JobStatus:
        """The job's final status. RuntimeError while the stream has not ended."""
        if self._job is None:
            raise RuntimeError("the stream has not ended")
        return self._job

    async def __aenter__(self) -> Self:
        self._request_id, self._events = await self._exchange.begin("stream", self._params)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over = True
        self._exchange.forget(self._request_id)
        await trio.lowlevel.cancel_shielded_checkpoint()  # a Cancelled would hide the block's own error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        if self._events is None:
            raise RuntimeError("a stream begins with its async with")
        if self._over:
            await trio.lowlevel.checkpoint()
            raise StopAsyncIteration
        try:
            event = await self._exchange.next(self._events)
        except trio.EndOfChannel:  # another task took the answer, or left the block
            raise StopAsyncIteration from None
        if isinstance(event, Output):
            self._exchange.consumed(event)
            return event
        self._over = True
        self._job = job_of(result_of(event))
        raise StopAsyncIteration


class _Jobs:
    """Every job, oldest first, asked for page by page."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._page: list[JobStatus] = []  # what is left of it, the newest first
        self._after: str | None = None
        self._last = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobStatus:
        await trio.lowlevel.checkpoint()
        while not self._page:
            if self._last:
                raise StopAsyncIteration
            page = page_of(await self._exchange.call("list", ListParams(self._after)))
            self._page = [*reversed(page.jobs)]
            self._after = page.next
            self._last = page.next is None
        return self._page.pop()
