"""Owns the Trio client's streams: a job's output, piece by piece, over as many connections as it takes."""

from types import TracebackType
from typing import Self

import trio

from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.jobs import JobStatus, StreamParams
from wire.messages import Gap, Output

from .asked import AboutJob, result_after
from .core import Answer, Piece, job_of, refused
from .errors import CutError, GapError
from .options import Gaps
from .resume import Backoff, Place
from .trio_exchange import Events, Exchange
from .trio_link import Link


class Stream:
    """A job's output, piece by piece, within ``async with``; `job` is the final status once it has ended.

    A piece is an Output. Bytes that cannot be had raise a GapError, after which it can be iterated again,
    behind them; with ``gaps="yield"`` they are a piece, a Gap. After a cut it goes on at the next byte by
    itself. Leaving the block before the end cancels it at the server; the job goes on.
    """

    def __init__(self, link: Link, params: StreamParams, *, gaps: Gaps) -> None:
        self._link = link
        self._gaps = gaps
        self._place = Place(params)
        self._asked = AboutJob("stream", params)
        self._ending = Backoff(link.patience)
        self._request: tuple[Exchange, int, Events] | None = None
        self._job: JobStatus | None = None
        self._begun = False
        self._over = False
        self._fruitful = False
        self._turn = trio.Lock()  # several tasks may share the stream, one piece each

    @property
    def offset(self) -> int | None:
        """The byte of the log at which it goes on; None before that is known."""
        return self._place.offset

    @property
    def job(self) -> JobStatus:
        """The job's final status. RuntimeError while the stream has not ended."""
        if self._job is None:
            raise RuntimeError("the stream has not ended")
        return self._job

    async def __aenter__(self) -> Self:
        self._request = await self._link.begin(self._asked)
        self._begun = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over = True
        if self._request is not None:
            exchange, request_id, _ = self._request
            exchange.forget(request_id)
        await trio.lowlevel.cancel_shielded_checkpoint()  # a Cancelled would hide the block's own error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        if not self._begun:
            raise RuntimeError("a stream begins with its async with")
        if self._over:
            await trio.lowlevel.checkpoint()
            raise StopAsyncIteration
        async with self._turn:
            event = await self._next()
            if isinstance(event, Gap) and self._gaps == "raise":
                raise GapError(event)
            if not isinstance(event, Answer):
                return event
            self._over = True
            self._job = job_of(result_after(event, restarted=self._link.restarted))
        raise StopAsyncIteration

    async def _next(self) -> Answer | Piece:
        """The next event, over as many connections as it takes."""
        while not self._over:
            if self._request is None:
                self._fruitful = False
                self._asked.params = self._place.params()
                self._request = await self._link.begin(self._asked)
                continue
            exchange, request_id, events = self._request
            try:
                event = await exchange.next(events)
            except (CutError, RequestError):
                self._request = None
                await self._link.renew(exchange)
                continue
            except trio.EndOfChannel:  # another task left the block
                break
            if not isinstance(event, Answer):
                self._take(exchange, event)
                if isinstance(event, Output) and not event.data:
                    continue  # it only says where the stream begins
                return event  # noqa: ASYNC910  # next() waited
            stalled = refused(event, ErrorCode.STALLED) and self._fruitful and self._link.patience
            if not stalled and not (
                refused(event, ErrorCode.SHUTTING_DOWN) and await self._link.outlast(self._ending)
            ):
                return event  # noqa: ASYNC910
            self._request = None
        if self._request is not None:
            exchange, request_id, _ = self._request
            exchange.forget(request_id)
        raise StopAsyncIteration  # another task took the answer, or left the block

    def _take(self, exchange: Exchange, piece: Piece) -> None:
        try:
            self._place.take(piece)
        except RemoteProtocolError:
            self._over = True
            raise
        self._fruitful = self._asked.begun = True
        if isinstance(piece, Output):
            exchange.consumed(piece)
