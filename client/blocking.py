"""Owns the blocking client: one connection, used by one thread. It imports no Trio.

>>> with connect("127.0.0.1:8443", certs=Path("certs"), identity="admin") as client:
...     job = client.start(["echo", "hello"])
...     with client.stream(job.id) as stream:
...         for piece in stream:
...             print(piece.stream, piece.data)
...     print(stream.job.exit_code)
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wire.errors import RemoteProtocolError, RequestError
from wire.jobs import JobParams, JobStatus, ListParams, StartParams, StopParams, StreamParams
from wire.limits import Limits
from wire.messages import Hello, Output

from . import transport
from .core import PING_SECONDS, Answer, Core, Params, job_of, page_of
from .endpoint import Endpoint
from .errors import CutError


def connect(server: str, *, certs: Path, identity: str) -> "Client":
    """Connect to a server and wait for its hello.

    Args:
        server: HOST:PORT, or wss://HOST:PORT for WebSocket.
        certs: the directory with ca.crt and the identity's certificate and key.
        identity: the stem of these files, such as ``admin``.

    Raises:
        ClientError: there is no server, or TLS failed; see client.errors.
        ContextError: the certificates cannot be used.
        RequestError: the server refuses this identity.
    """
    endpoint = Endpoint.parse(server)
    return Client(transport.connect(endpoint, certs, identity), str(endpoint))


class Client:
    """A connection to a server; `connect` makes one. Close it, or use it in a ``with``.

    Every method may raise RequestError (the server refused), CutError (the connection ended; what
    became of the request is unknown) and RemoteProtocolError (the server makes no sense).

    Args:
        link: the transport; closed with the client.
        server: its address, for messages.
    """

    def __init__(self, link: transport.Transport, server: str) -> None:
        self._link = link
        self._server = server
        self._core = Core()
        self._end: RequestError | CutError | RemoteProtocolError | None = None
        self._events: dict[int, deque[Answer | Output]] = {}
        try:
            while self._core.hello is None:
                self._pump()
                if self._end is not None:
                    raise self._end
        except BaseException:
            link.close()
            raise

    @property
    def hello(self) -> Hello:
        """What the server said of itself and of us."""
        assert self._core.hello is not None  # noqa: S101  # the constructor waited for it
        return self._core.hello

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; jobs go on."""
        self._link.close()

    def start(
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
        return job_of(self._call("start", params))

    def stop(self, job_id: str, *, grace: float | None = None) -> JobStatus:
        """Stop a job: TERM, ``grace`` seconds, KILL. Returns once nothing of it is left."""
        return job_of(self._call("stop", StopParams(job_id, grace)))

    def query(self, job_id: str) -> JobStatus:
        """Return what is known of a job now."""
        return job_of(self._call("query", JobParams(job_id)))

    def wait(self, job_id: str) -> JobStatus:
        """Wait for a job's end and return its final status."""
        return job_of(self._call("wait", JobParams(job_id)))

    def list(self) -> Iterator[JobStatus]:
        """Give every job, oldest first."""
        after: str | None = None
        while True:
            page = page_of(self._call("list", ListParams(after)))
            yield from page.jobs
            after = page.next
            if after is None:
                return

    def stream(self, job_id: str, *, offset: int = 0) -> "Stream":
        """Follow a job's output from a byte offset to its end."""
        return Stream(self, self._begin("stream", StreamParams(job_id, offset)))

    def _begin(self, method: str, params: Params) -> int:
        if self._end is not None:
            raise self._end
        request_id = self._core.begin(method, params)
        self._events[request_id] = deque()
        self._flush()
        return request_id

    def _call(self, method: str, params: Params) -> dict[str, Any]:
        request_id = self._begin(method, params)
        while True:
            event = self._next(request_id)
            if isinstance(event, Answer):
                return result_of(event)

    def _next(self, request_id: int) -> Answer | Output:
        """Wait for the next event of one request; events of the others are kept for them."""
        events = self._events[request_id]
        while not events:
            if self._end is not None:
                raise self._end
            self._pump()
        event = events.popleft()
        if isinstance(event, Answer):
            del self._events[request_id]
        return event

    def _pump(self) -> None:
        try:
            data = self._link.receive(PING_SECONDS)
        except TimeoutError:
            if self._core.hello is not None:
                self._core.ping()
                self._flush()
            try:
                data = self._link.receive(PING_SECONDS)
            except TimeoutError:
                raise CutError(f"The server at {self._server} no longer answers.") from None
        try:
            for event in self._core.receive(data):
                if event.id in self._events:
                    self._events[event.id].append(event)
        except (RequestError, CutError, RemoteProtocolError) as error:
            # What came before the end may wait for its taker yet; whoever runs out of events gets this.
            self._end = error
        else:
            self._flush()

    def _flush(self) -> None:
        if self._end is None and (data := self._core.data_to_send()):
            self._link.send(data)

    def _consumed(self, output: Output) -> None:
        self._core.consumed(output)
        self._flush()

    def _cancel(self, request_id: int) -> None:
        self._core.cancel(request_id)
        self._flush()
        while request_id in self._events:
            self._next(request_id)


class Stream:
    """A job's output, piece by piece. Iterate it; `job` is the final status once it has ended.

    Leaving its ``with`` before the end cancels it at the server; the job goes on.
    """

    def __init__(self, client: Client, request_id: int) -> None:
        self._client = client
        self._request_id = request_id
        self._taken: Output | None = None
        self._job: JobStatus | None = None
        self._over = False

    @property
    def job(self) -> JobStatus:
        """The job's final status. RuntimeError while the stream has not ended."""
        if self._job is None:
            raise RuntimeError("the stream has not ended")
        return self._job

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not self._over and not isinstance(error, (CutError, RemoteProtocolError)):
            self._over = True
            self._client._cancel(self._request_id)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Output:
        if self._over:
            raise StopIteration
        try:
            # Whoever asks for more is done with the last piece, in whatever loop it was taken.
            if self._taken is not None:
                self._client._consumed(self._taken)
            event = self._client._next(self._request_id)
        except BaseException:
            self._over = True
            raise
        if isinstance(event, Output):
            self._taken = event
            return event
        self._over = True
        self._job = job_of(result_of(event))
        raise StopIteration


def start_params(
    argv: Sequence[str | bytes],
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    limits: Limits | None,
    *,
    merge: bool,
    seconds: float | None,
) -> StartParams:
    """Build the parameters of ``start`` from what callers have; text becomes bytes as in os.fsencode."""
    return StartParams(
        argv=tuple(map(os.fsencode, argv)),
        env={os.fsencode(key): os.fsencode(value) for key, value in (env or {}).items()} or None,
        cwd=None if cwd is None else os.fsencode(cwd),
        merge=merge,
        timeout=seconds,
        limits=limits or None,
    )


def result_of(answer: Answer) -> dict[str, Any]:
    """Return an answer's result, or raise its RequestError."""
    if isinstance(answer.result, RequestError):
        raise answer.result
    return answer.result
