"""Owns what lets one test hold for both clients: the blocking one in the Trio client's clothes."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from client import blocking, trio_client, trio_output
from client.errors import ConnectError
from client.resume import DEFAULT_PATIENCE
from tests.client.any_kind import AnyKind
from tests.client.fake import BlockingLink, FakeServer, TrioLink
from tests.harness import PATIENCE
from wire.jobs import JobStatus
from wire.messages import STDERR, STDOUT, Gap, Output

#: The kinds of client, and what stands before HOST:PORT for each transport.
KINDS = ("blocking", "trio")
SCHEMES = ("", "wss://")


class EitherStream:
    """A stream of either client."""

    def __init__(self, stream: blocking.Stream | trio_output.Stream) -> None:
        self._stream = stream

    @property
    def job(self) -> JobStatus:
        return self._stream.job

    @property
    def offset(self) -> int | None:
        return self._stream.offset

    async def __aenter__(self) -> "EitherStream":
        await trio.lowlevel.checkpoint()
        if isinstance(self._stream, trio_output.Stream):
            await self._stream.__aenter__()
        else:
            self._stream.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        if isinstance(self._stream, trio_output.Stream):
            await self._stream.__aexit__(*error)  # noqa: ASYNC102  # it does not wait
        else:
            self._stream.__exit__(*error)
            await trio.lowlevel.cancel_shielded_checkpoint()  # noqa: ASYNC102

    async def piece(self) -> Output | Gap | None:
        """The next piece, by an iteration that is left right after it; None at the end."""
        await trio.lowlevel.checkpoint()
        if isinstance(self._stream, trio_output.Stream):
            async for piece in self._stream:
                return piece
        else:
            for piece in self._stream:
                return piece
        return None


class Either(AnyKind):
    """A client of either kind."""

    async def _job(self, name: str, *args: Any, **options: Any) -> JobStatus:
        await trio.lowlevel.checkpoint()
        found = getattr(self._client, name)(*args, **options)
        if isinstance(self._client, trio_client.Client):
            found = await found
        assert isinstance(found, JobStatus)
        return found

    async def list(self) -> tuple[JobStatus, ...]:
        await trio.lowlevel.checkpoint()
        if isinstance(self._client, trio_client.Client):
            return tuple([job async for job in self._client.list()])
        return tuple(self._client.list())

    def stream(self, job_id: str, **options: Any) -> EitherStream:
        return EitherStream(self._client.stream(job_id, **options))

    async def output(self, job_id: str, offset: int = 0) -> dict[int, bytes]:
        """All that a job prints from an offset, by stream; asserts that offsets have no gap."""
        found = {STDOUT: bytearray(), STDERR: bytearray()}
        async with self.stream(job_id, offset=offset) as stream:
            while (piece := await stream.piece()) is not None:
                assert piece.offset == offset
                offset += len(piece.data)
                found[piece.stream] += piece.data
        assert stream.job.output == offset
        return {number: bytes(data) for number, data in found.items()}


@asynccontextmanager
async def endless(client: Either | trio_client.Client) -> AsyncGenerator[JobStatus]:
    """A job that prints until the block ends."""
    job = await client.start(["yes"])
    try:
        yield job
    finally:
        with trio.move_on_after(PATIENCE, shield=True):
            await client.stop(job.id, grace=0)


@asynccontextmanager
async def connected(
    kind: str, address: str, certs: Path, identity: str = "admin", *, patience: float = DEFAULT_PATIENCE
) -> AsyncGenerator[Either]:
    """A client of that kind; the block fails after PATIENCE."""
    with trio.fail_after(PATIENCE):
        if kind == "trio":
            async with trio_client.open_client(
                address, certs=certs, identity=identity, patience=patience
            ) as client:
                yield Either(client)
        else:
            with blocking.connect(address, certs=certs, identity=identity, patience=patience) as waiting:
                yield Either(waiting)


@asynccontextmanager
async def redialling(
    kind: str, calls: Sequence[FakeServer | Exception], *, patience: float = PATIENCE
) -> AsyncGenerator[Either]:
    """A client that connects to servers in memory, one after the other; where an error stands, it cannot.

    Past the last one it finds nobody.
    """
    left = iter(calls)

    def called() -> FakeServer:
        found = next(left, ConnectError("Nobody is there any more."))
        if isinstance(found, Exception):
            raise found
        return found

    async def dial() -> TrioLink:
        await trio.lowlevel.checkpoint()
        return TrioLink(called())

    with trio.fail_after(PATIENCE):
        if kind == "trio":
            async with trio_client.client_over(
                await dial(), "fake:1", dial=dial, patience=patience
            ) as client:
                yield Either(client)
        else:
            first = BlockingLink(called())
            with blocking.Client(
                first, "fake:1", dial=lambda: BlockingLink(called()), patience=patience
            ) as waiting:
                yield Either(waiting)


@asynccontextmanager
async def over(server: FakeServer) -> AsyncGenerator[trio_client.Client]:
    """A Trio client of a server in memory; the block fails after PATIENCE."""
    with trio.fail_after(PATIENCE):
        async with trio_client.client_over(TrioLink(server), "fake:1") as client:
            yield client
