"""Owns how a client goes on after a cut, sans-IO: from which byte, whether to try again, and when.

Both clients use it. A stream's place moves with each piece that its caller gets, so that what came and was
not taken before a cut is neither lost nor given twice.
"""

import dataclasses
import os

from wire.errors import Category, RemoteProtocolError, RequestError
from wire.jobs import StreamParams
from wire.messages import Gap, Output

from .errors import ConnectError, CutError, TlsError

#: How long a client tries to come back, in seconds, unless its user says otherwise.
DEFAULT_PATIENCE = 30.0
#: The pause before the second try, and the longest one, in seconds; the first try is made at once.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 3.0
#: A connection that lives so long has worked, in seconds, even if nothing was to come over it.
STEADY_SECONDS = 3.0


class Place:
    """Where a stream is in its job's log.

    Args:
        params: what was asked for.
    """

    def __init__(self, params: StreamParams) -> None:
        self._asked = params
        #: The byte at which it goes on; None before it is known.
        self.offset = None if params.relative else params.offset

    def params(self) -> StreamParams:
        """What to ask for now: at first what was asked for, later what is still to come of it."""
        if self.offset is None:
            return self._asked
        return dataclasses.replace(
            self._asked, offset=self.offset, tail_bytes=None, tail_lines=None, since=None
        )

    def take(self, piece: Output | Gap) -> None:
        """Move on behind a piece that the caller gets; raises as `after` does."""
        self.offset = self.after(piece)

    def after(self, piece: Output | Gap) -> int:
        """The byte behind a piece that comes next.

        Raises:
            RemoteProtocolError: bytes would be given twice, or left out without a word.
        """
        if self.offset is not None:
            if piece.offset < self.offset:
                raise RemoteProtocolError(
                    f"output came from byte {piece.offset} on, where {self.offset} was to come"
                )
            if piece.offset > self.offset and self._asked.stream is None:
                raise RemoteProtocolError(f"output is missing from byte {self.offset} to {piece.offset}")
        return piece.offset + (piece.size if isinstance(piece, Gap) else len(piece.data))


class Life:
    """How a connection does, which says how patient to be once it is cut.

    Args:
        now: the time, by the clock of the other methods too.
    """

    def __init__(self, now: float) -> None:
        self._opened = now
        #: Whether it was of use: something was answered over it, or it lived for a while.
        self.worked = False

    def brought(self) -> None:
        """Something came for a request."""
        self.worked = True

    def ended(self, now: float) -> None:
        """It was cut."""
        self.worked = self.worked or now - self._opened >= STEADY_SECONDS


class Backoff:
    """When to try again: at once, then ever more rarely, until patience is at its end.

    A series of tries begins with the cut of a connection that worked. It goes on over connections that are
    cut before they do, so that a server which only ever greets is given up too.

    Args:
        patience: how long to try, in seconds.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._until: float | None = None
        self._pause = 0.0

    def cut(self, now: float, *, worked: bool) -> None:
        """A connection was cut, which had been of use or not."""
        if worked or self._until is None:
            self._until = now + self._patience
            self._pause = 0.0

    def pause(self, now: float, error: Exception | None = None) -> float | None:
        """Seconds to wait before the next try; None if there shall be none.

        Args:
            now: the time.
            error: what went wrong last; a server may have said how long to wait.
        """
        if self._until is None or now >= self._until:
            return None
        pause, self._pause = self._pause, min(max(FIRST_PAUSE, self._pause * 2), LONGEST_PAUSE)
        least = max(0.0, error.retry_after or 0.0) if isinstance(error, RequestError) else 0.0
        # Half of it is chance, so that the clients of one server do not all come back at once.
        return min(least + pause * (0.5 + os.urandom(1)[0] / 510), self._until - now)

    def give_up(self) -> None:
        """End the series; the next cut begins another."""
        self._until = None


def was_cut(error: Exception | None) -> bool:
    """Whether a connection that ended so may be followed by another: it was cut, or its server is ending."""
    if isinstance(error, RequestError):
        return error.category == Category.RETRY
    return isinstance(error, CutError)


def may_pass(error: Exception) -> bool:
    """Whether what went wrong may be better at the next try: a cut, nobody or no room there; no verdict."""
    if isinstance(error, RequestError):
        return error.category == Category.RETRY
    if isinstance(error, TlsError):
        return error.cut
    return isinstance(error, CutError | ConnectError)
