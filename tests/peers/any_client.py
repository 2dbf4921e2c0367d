"""Owns what lets one conversation hold for both kinds of client, of any version: one in Trio's clothes."""

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from client import blocking, trio_client
from tests.client.any_kind import AnyKind
from wire.jobs import JobStatus


async def in_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call what blocks; whoever is cancelled leaves it alone."""
    return await trio.to_thread.run_sync(partial(call, *args, **options), abandon_on_cancel=True)


class AnyStream:
    """A stream of either kind."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._pieces: Any = iter(stream) if isinstance(stream, blocking.Stream) else aiter(stream)

    @property
    def job(self) -> JobStatus:
        found: JobStatus = self._stream.job
        return found

    async def piece(self) -> Any:
        """The next piece; None at the end."""
        if isinstance(self._stream, blocking.Stream):
            return await in_thread(next, self._pieces, None)
        return await anext(self._pieces, None)


class AnyClient(AnyKind):
    """A client of either kind; the methods are those of the Trio one."""

    async def _job(self, name: str, *args: Any, **options: Any) -> JobStatus:
        call = getattr(self._client, name)
        blocks = isinstance(self._client, blocking.Client)
        found = await (in_thread(call, *args, **options) if blocks else call(*args, **options))
        assert isinstance(found, JobStatus)
        return found

    async def list(self) -> list[JobStatus]:
        if isinstance(self._client, blocking.Client):
            found: list[JobStatus] = await in_thread(lambda: [*self._client.list()])  # type: ignore[misc]
            return found
        return [job async for job in self._client.list()]

    @asynccontextmanager
    async def stream(self, job_id: str, **options: Any) -> AsyncGenerator[AnyStream]:
        """A stream that gives gaps too."""
        if "gaps" in inspect.signature(self._client.stream).parameters:
            options["gaps"] = "yield"
        if isinstance(self._client, blocking.Client):
            with await in_thread(self._client.stream, job_id, **options) as waiting:
                yield AnyStream(waiting)
        else:
            async with self._client.stream(job_id, **options) as stream:
                yield AnyStream(stream)


@asynccontextmanager
async def connected(
    kind: str, address: str, certs: Path, identity: str, **options: Any
) -> AsyncGenerator[AnyClient]:
    """A client of a kind, ``blocking`` or ``trio``."""
    options |= {"certs": certs, "identity": identity}
    if kind == "trio":
        async with trio_client.open_client(address, **options) as client:
            yield AnyClient(client)
    else:
        with await in_thread(blocking.connect, address, **options) as waiting:
            yield AnyClient(waiting)
