"""Owns the clients of the soak: both kinds, behind one asynchronous face."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

from client import blocking, trio_client
from client.core import Piece
from tests.soak.plans import Plan
from wire.jobs import JobStatus

T = TypeVar("T")
#: Seconds for which the end of a stream is waited for.
CLOSE_SECONDS = 30.0


class Following(Protocol):
    """A stream of either client, once it is entered."""

    @property
    def job(self) -> JobStatus: ...

    def __aiter__(self) -> AsyncIterator[Piece]: ...


class Caller(Protocol):
    """A client of either kind."""

    #: Whether a call may be cancelled.
    patient: bool

    async def start(self, plan: Plan, token: str) -> JobStatus: ...
    async def ask(self, method: str, job_id: str, **options: Any) -> JobStatus: ...
    async def list(self) -> list[JobStatus]: ...
    def stream(self, job_id: str, **options: Any) -> Any: ...


def _start_options(plan: Plan) -> dict[str, Any]:
    return {"cwd": plan.cwd, "limits": plan.limits, "merge": plan.spec.merged, "seconds": plan.seconds}


class TrioCaller:
    """The Trio client."""

    patient = False

    def __init__(self, client: trio_client.Client) -> None:
        self._client = client

    async def start(self, plan: Plan, token: str) -> JobStatus:
        return await self._client.start([*plan.argv, token], **_start_options(plan))

    async def ask(self, method: str, job_id: str, **options: Any) -> JobStatus:
        found: JobStatus = await getattr(self._client, method)(job_id, **options)
        return found

    async def list(self) -> list[JobStatus]:
        return [job async for job in self._client.list()]

    def stream(self, job_id: str, **options: Any) -> Any:
        return self._client.stream(job_id, **options)


class BlockingStream:
    """A blocking stream, each piece of which is waited for in a thread."""

    def __init__(self, caller: "BlockingCaller", make: Callable[[], blocking.Stream]) -> None:
        self._caller = caller
        self._make = make
        self._stream: blocking.Stream | None = None

    @property
    def job(self) -> JobStatus:
        assert self._stream is not None
        return self._stream.job

    async def __aenter__(self) -> "BlockingStream":
        self._stream = await self._caller.run(self._make)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, where: object) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        assert self._stream is not None
        if isinstance(error, trio.Cancelled):
            return  # a thread still waits for a piece; the connection is about to be closed
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._caller.run(partial(self._stream.__exit__, None, None, None))  # noqa: ASYNC102

    def __aiter__(self) -> "BlockingStream":
        return self

    async def __anext__(self) -> Piece:
        assert self._stream is not None
        piece: Piece | None = await self._caller.run(partial(next, self._stream, None))
        if piece is None:
            raise StopAsyncIteration
        return piece


class BlockingCaller:
    """The blocking client, which is used by one thread at a time."""

    patient = True

    def __init__(self, client: blocking.Client) -> None:
        self._client = client
        self._thread = trio.CapacityLimiter(1)

    async def run(self, call: Callable[[], T]) -> T:
        """Call in a thread. The soak's end does not wait for it: what hangs is left behind."""
        return await trio.to_thread.run_sync(call, limiter=self._thread, abandon_on_cancel=True)

    async def start(self, plan: Plan, token: str) -> JobStatus:
        return await self.run(partial(self._client.start, [*plan.argv, token], **_start_options(plan)))

    async def ask(self, method: str, job_id: str, **options: Any) -> JobStatus:
        return await self.run(partial(getattr(self._client, method), job_id, **options))

    async def list(self) -> list[JobStatus]:
        return await self.run(lambda: list(self._client.list()))

    def stream(self, job_id: str, **options: Any) -> BlockingStream:
        return BlockingStream(self, partial(self._client.stream, job_id, **options))


@asynccontextmanager
async def open_caller(
    kind: str, server: str, certs: Path, identity: str, patience: float
) -> AsyncGenerator[Caller]:
    """A client of a kind, trio or blocking, until the block ends; the rest is as for `open_client`."""
    if kind == "trio":
        async with trio_client.open_client(
            server, certs=certs, identity=identity, patience=patience
        ) as client:
            yield TrioCaller(client)
        return
    connect = partial(blocking.connect, server, certs=certs, identity=identity, patience=patience)
    made = await trio.to_thread.run_sync(connect, abandon_on_cancel=True)
    try:
        yield BlockingCaller(made)
    finally:
        made.close()
