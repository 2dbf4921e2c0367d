"""Owns the requests under way on one connection of the blocking client.

Theory of operation. A signal handler of the caller's may raise between any two steps. Where this waits for
the server, nothing is half done: the exception comes out, and the exchange can be used again. Everything else
stands in a `_Section`, which an exception leaves marked as torn: bytes may be missing then, or half a frame
be sent, so the exchange is over, and whoever uses it next is told so, by a CutError like any other.
"""

import sys
import time
from collections import deque
from types import TracebackType
from typing import Final

from wire.errors import RemoteProtocolError, RequestError, WireError
from wire.messages import Hello, Output

from .core import PING_SECONDS, Answer, Core, Params, Piece
from .errors import ClientError, CutError, WorkerServiceError
from .interruption import interruption
from .resume import Life
from .transport import Transport

#: What the methods of a client that was closed say.
CLOSED: Final = "This client is closed."
#: What a full record of TLS brings: behind it, there is probably more.
FULL_BYTES: Final = 16 * 1024


class _Section:
    """A stretch of work that must not be left in the middle. What a signal handler raises comes out of it."""

    def __init__(self) -> None:
        #: Whether it was begun and not ended, or left by an exception that was not expected.
        self.torn = False
        self._before: BaseException | None = None

    def __enter__(self) -> None:
        self._before = sys.exc_info()[1]
        self.torn = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, WorkerServiceError):
            if (struck := interruption(error, self._before)) is not None:
                raise struck
        elif error is not None:
            return
        self.torn = False


class Exchange:
    """The requests under way on one transport, which is closed with it.

    The constructor waits for the server's hello, and raises what keeps it from coming.

    Args:
        transport: an open one.
        server: its address, for messages.
    """

    def __init__(self, transport: Transport, server: str) -> None:
        self._transport = transport
        self._server = server
        self._core = Core()
        self._events: dict[int, deque[Answer | Piece]] = {}
        self._error: ClientError | WireError | None = None
        self._unsent: ClientError | None = None
        self._section = _Section()
        self._abandoned = False
        self._asked = False  # whether it is there, and nothing has come since
        self._empty = False  # perhaps nothing is there: to find that out costs more than to wait
        self.life = Life(time.monotonic())
        try:
            while self._core.hello is None:
                self._pump()
                self.check()
        except BaseException:
            transport.close()
            raise

    @property
    def hello(self) -> Hello:
        """What the server said of itself and of us."""
        assert self._core.hello is not None  # noqa: S101  # the constructor waited for it
        return self._core.hello

    @property
    def features(self) -> frozenset[str]:
        """The features in use, as `Core.features`."""
        return self._core.features

    def server_time(self) -> float | None:
        """What the server's clock says now, as `Core.server_time`."""
        return self._core.server_time()

    def close(self) -> None:
        """Close the transport; what came already may still be had."""
        self._end(CutError(CLOSED))
        self._transport.close()

    def abandon(self) -> None:
        """End it from another thread, whose user wakes up and closes the transport."""
        self._abandoned = True
        self._end(CutError(CLOSED))
        self._transport.shut()

    @property
    def error(self) -> ClientError | WireError | None:
        """What ended it, once it has ended."""
        if self._section.torn:
            self._end(CutError("The connection was given up: an exception struck while it was in use."))
            self._section.torn = False
            self._transport.close()
        if self._abandoned:
            self._transport.close()
        return self._error

    def check(self) -> None:
        """Raise what ended it, if it has ended."""
        if (error := self.error) is not None:
            raise error

    def catch_up(self) -> None:
        """Take what came while nothing was under way; a server that has ended since is found so, unasked."""
        while not self._events and self.error is None and self._transport.wait(0) and self._take():
            pass

    def begin(self, method: str, params: Params) -> int:
        """Send a request and return its id; that it cannot be sent, its `next` says."""
        self.check()
        with self._section:
            request_id = self._core.begin(method, params)
            self._events[request_id] = deque()
            self._flush()
        return request_id

    def next(self, request_id: int) -> Answer | Piece:
        """Wait for the next event of one request; events of the others are kept for them."""
        events = self._events[request_id]
        while not events:
            self.check()
            self._pump()
        event = events.popleft()
        if isinstance(event, Answer):
            del self._events[request_id]
        return event

    def answer(self, request_id: int) -> Answer:
        """Wait for a request's answer. Whatever is raised meanwhile, nobody wants it any more."""
        try:
            while not isinstance(event := self.next(request_id), Answer):
                pass
        except BaseException:
            self.forget(request_id)
            raise
        return event

    def consumed(self, output: Output) -> None:
        """Let the server send more for what the caller has taken."""
        if self.error is None:
            with self._section:
                self._core.consumed(output)
                self._flush()

    def forget(self, request_id: int) -> None:
        """Want no more of a request. It never waits: where there is no room now, the server is told later."""
        self._events.pop(request_id, None)
        if self.error is None:
            with self._section:
                self._core.cancel(request_id)
                if self._transport.has_room():
                    self._flush()

    def cancel(self, request_id: int) -> None:
        """Want no more of a request, and wait until it, or the connection, has ended."""
        events = self._events.get(request_id)
        if events is None:
            return
        try:
            if self.error is None:
                with self._section:
                    self._core.cancel(request_id)
                    self._flush()
            # Its answer may have come along with what the caller has taken: no other will.
            while self.error is None and not any(isinstance(event, Answer) for event in events):
                events.clear()
                self._pump()
        finally:
            self._events.pop(request_id, None)

    def _pump(self) -> None:
        """Sort what has come, or else wait; whatever ends the connection is kept in `error`."""
        if not self._empty and self._take():
            return
        if self._transport.wait(PING_SECONDS):
            self._asked = self._empty = False
        elif self._unsent is not None:
            self._cut(self._unsent)
        elif self._asked:
            self._end(CutError(f"The server at {self._server} no longer answers."))
        else:
            self._asked = True
            if self._core.hello is not None:
                with self._section:
                    self._core.ping()
                    self._flush()

    def _take(self) -> bool:
        """Take what has come, if anything has."""
        try:
            with self._section:
                data = self._transport.receive()
                self._empty = data is None or len(data) < FULL_BYTES
                if data is None:
                    return False
                for event in self._core.receive(data):
                    self.life.brought()
                    if event.id in self._events:
                        self._events[event.id].append(event)
                self._flush()
        except (ClientError, RequestError, RemoteProtocolError) as error:
            # What came before the end may wait for its taker yet; whoever runs out of events gets this.
            self._cut(error)
        return True

    def _flush(self) -> None:
        if self._error is None and self._unsent is None and (data := self._core.data_to_send()):
            try:
                self._transport.send(data)
            except ClientError as error:
                # What the server said last may be there to be read yet, and says more.
                self._unsent = error

    def _cut(self, error: ClientError | WireError) -> None:
        self.life.ended(time.monotonic())
        self._end(error)

    def _end(self, error: ClientError | WireError) -> None:
        if self._error is None:
            self._error = error
