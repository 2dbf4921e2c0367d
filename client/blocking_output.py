"""Owns the blocking client's streams: a job's output, piece by piece, over any number of connections."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.jobs import JobStatus, StreamParams
from wire.messages import Gap, Output

from .asked import AboutJob, result_after
from .blocking_link import Link
from .core import Answer, Piece, job_of, refused
from .errors import CutError, GapError, WorkerServiceError
from .options import Gaps
from .resume import Backoff, Place


class Stream:
    """A job's output, piece by piece. Iterate it; `job` is the final status once it has ended.

    A piece is an Output. Bytes that cannot be had raise a GapError, after which it can be iterated again,
    behind them; with ``gaps="yield"`` they are a piece, a Gap. After a cut it goes on at the next byte by
    itself. Leaving its ``with`` before the end cancels it at the server; the job goes on.
    """

    def __init__(self, link: Link, params: StreamParams, *, gaps: Gaps) -> None:
        self._link = link
        self._gaps = gaps
        self._place = Place(params)
        self._asked = AboutJob("stream", params)
        self._ending = Backoff(link.patience)
        self._taken: Output | None = None
        self._job: JobStatus | None = None
        self._over = False
        self._struck = False  # whether the last step was left by an exception that was not expected
        #: Called each time that it goes on after a cut, with the byte at which it does, if that is known.
        self.on_resume: Callable[[int | None], None] = lambda offset: None
        self._begin()

    def _begin(self) -> None:
        self._fruitful = False
        self._taken = None
        self._asked.params = self._place.params()
        self._exchange, self._request_id = self._link.begin(self._asked)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not self._over:
            self._over = True
            with self._link.turn:
                if kind is None and not self._struck:
                    self._exchange.cancel(self._request_id)
                else:  # the caller's exception comes out at once, also where the server does not answer
                    self._exchange.forget(self._request_id)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        with self._link.turn:
            if self._over:
                raise StopIteration
            if self._struck:
                self._exchange.forget(self._request_id)
                self._begin()
            self._struck = True
            try:
                piece = self._next()
            except WorkerServiceError:
                self._over = True
                raise
            if piece is None:
                self._over = True
                raise StopIteration
            after = self._place.after(piece)
            taken = piece if isinstance(piece, Output) else None
            lost = GapError(piece) if isinstance(piece, Gap) and self._gaps == "raise" else None
        # No signal handler runs in what follows, as nothing is called: the caller gets the piece for certain.
        self._place.offset = after
        self._taken = taken
        self._struck = False
        if lost is not None:
            raise lost
        return piece

    def _next(self) -> Piece | None:
        """The next piece, over as many connections as it takes; None once the job's status is there."""
        # Whoever asks for more is done with the last piece, in whatever loop it was taken.
        if self._taken is not None:
            self._exchange.consumed(self._taken)
        while True:
            try:
                event = self._exchange.next(self._request_id)
            except (CutError, RequestError) as error:
                self._link.renew(self._exchange, error)
                self._begin()
                self.on_resume(self._place.offset)
                continue
            if not isinstance(event, Answer):
                after = self._check(event)
                if isinstance(event, Output) and not event.data:
                    self._place.offset = after  # it only says where the stream begins
                    continue
                return event
            stalled = refused(event, ErrorCode.STALLED) and self._fruitful and self._link.patience
            if not stalled and not (
                refused(event, ErrorCode.SHUTTING_DOWN) and self._link.outlast(self._ending)
            ):
                self._job = job_of(result_after(event, restarted=self._link.restarted))
                return None
            self._begin()

    def _check(self, piece: Piece) -> int:
        try:
            after = self._place.after(piece)
        except RemoteProtocolError:
            self._exchange.forget(self._request_id)
            raise
        self._fruitful = self._asked.begun = True
        return after
