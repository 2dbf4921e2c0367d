"""Owns the blocking client's connection over time: requests under way, and the way back after a cut."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from wire.errors import ErrorCode, RemoteProtocolError, RequestError, WireError
from wire.jobs import StartParams
from wire.messages import Hello, Output

from .asked import Asked, Start, result_after
from .core import PING_SECONDS, Answer, Core, Params, Piece, refused
from .errors import ClientError, CutError
from .resume import Backoff, Life, may_pass, was_cut
from .transport import Transport


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
        #: What ended it, once it has ended.
        self.error: ClientError | WireError | None = None
        self._unsent: ClientError | None = None
        self._silence: ClientError | None = None
        self.life = Life(time.monotonic())
        try:
            while self._core.hello is None:
                self._pump()
                if self.error is not None:
                    raise self.error
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
        self._end(CutError("This client is closed."))
        self._transport.close()

    def begin(self, method: str, params: Params) -> int:
        """Send a request and return its id; that it cannot be sent, its `next` says."""
        if self.error is not None:
            raise self.error
        request_id = self._core.begin(method, params)
        self._events[request_id] = deque()
        self._flush()
        return request_id

    def next(self, request_id: int) -> Answer | Piece:
        """Wait for the next event of one request; events of the others are kept for them."""
        events = self._events[request_id]
        while not events:
            if self.error is not None:
                raise self.error
            self._pump()
        event = events.popleft()
        if isinstance(event, Answer):
            del self._events[request_id]
        return event

    def answer(self, request_id: int) -> Answer:
        """Wait for a request's answer; what is raised has ended the connection."""
        while not isinstance(event := self.next(request_id), Answer):
            pass
        return event

    def consumed(self, output: Output) -> None:
        """Let the server send more for what the caller has taken."""
        self._core.consumed(output)
        self._flush()

    def forget(self, request_id: int) -> None:
        """Want no more of a request."""
        self._events.pop(request_id, None)
        self._core.cancel(request_id)
        self._flush()

    def cancel(self, request_id: int) -> None:
        """Want no more of a request, and wait until it, or the connection, has ended."""
        events = self._events.get(request_id)
        if events is None:
            return
        self._core.cancel(request_id)
        self._flush()
        while self.error is None and not any(isinstance(event, Answer) for event in events):
            events.clear()
            self._pump()
        del self._events[request_id]

    def _pump(self) -> None:
        """Wait for bytes and sort what they bring; whatever ends the connection is kept in `error`."""
        try:
            data = self._receive()
            for event in self._core.receive(data):
                self.life.brought()
                if event.id in self._events:
                    self._events[event.id].append(event)
        except (ClientError, RequestError, RemoteProtocolError) as error:
            # What came before the end may wait for its taker yet; whoever runs out of events gets this.
            if error is not self._silence:
                self.life.ended(time.monotonic())
            self._end(error)
        else:
            self._flush()

    def _receive(self) -> bytes:
        try:
            return self._transport.receive(PING_SECONDS)
        except TimeoutError:
            if self._unsent is not None:
                raise self._unsent from None
        if self._core.hello is not None:
            self._core.ping()
            self._flush()
        try:
            return self._transport.receive(PING_SECONDS)
        except TimeoutError:
            self._silence = CutError(f"The server at {self._server} no longer answers.")
            raise self._silence from None

    def _flush(self) -> None:
        if self.error is None and self._unsent is None and (data := self._core.data_to_send()):
            try:
                self._transport.send(data)
            except ClientError as error:
                # What the server said last may be there to be read yet, and says more.
                self._unsent = error

    def _end(self, error: ClientError | WireError) -> None:
        if self.error is None:
            self.error = error


class Link:
    """The connection in use, and those to come.

    Args:
        transport: an open one.
        server: its address, for messages.
        dial: opens another after a cut; None for never.
        patience: seconds for which to try it.
    """

    def __init__(
        self, transport: Transport, server: str, dial: Callable[[], Transport] | None, patience: float
    ) -> None:
        self.exchange = Exchange(transport, server)
        self.patience = patience
        self._server = server
        self._dial = dial
        self._backoff = Backoff(patience)
        self._closed = False
        #: Whether the server was restarted since the first connection.
        self.restarted = False

    def close(self) -> None:
        """End it; what is under way fails."""
        self._closed = True
        self.exchange.close()

    def begin(self, asked: Asked) -> tuple[Exchange, int]:
        """Send a request, over a new connection if the last one was found cut."""
        if (error := self.exchange.error) is not None and was_cut(error):
            self.renew(self.exchange, error)
        exchange = self.exchange
        request_id = exchange.begin(asked.method, asked.to(exchange.hello, exchange.features))
        asked.sent(exchange.hello)
        return exchange, request_id

    def ask(self, asked: Asked) -> dict[str, Any]:
        """Send what may be asked again after a cut, and wait for its result."""
        ending = Backoff(self.patience)
        while True:
            exchange, request_id = self.begin(asked)
            try:
                answer = exchange.answer(request_id)
            except (CutError, RequestError) as error:
                self.renew(exchange, error)
                continue
            if not (refused(answer, ErrorCode.SHUTTING_DOWN) and self.outlast(ending)):
                return result_after(answer, restarted=self.restarted)

    def start(self, params: StartParams, *, chosen: bool) -> dict[str, Any]:
        """Start a job; see `asked.Start`."""
        start = Start(params, chosen=chosen)
        with start.telling():
            while True:
                exchange, request_id = self.begin(start)
                try:
                    answer = exchange.answer(request_id)
                except (CutError, RequestError) as error:
                    if not start.cut():
                        raise
                    self.renew(exchange, error)
                else:
                    return start.result(answer)

    def outlast(self, ending: Backoff) -> bool:
        """Pause, as the server that still answers is being ended; False if that is no use any more."""
        ending.cut(time.monotonic(), worked=False)
        pause = ending.pause(time.monotonic())
        if pause is None or self._dial is None:
            return False
        time.sleep(pause)
        return True

    def renew(self, old: Exchange, cut: ClientError | WireError) -> None:
        """See to it that another exchange than a cut one is in use.

        Args:
            old: the one that was found cut.
            cut: what ended it.

        Raises:
            ClientError: there is no way back, none was found in time, or our certificates are unusable now.
            RequestError: the server refuses us now.
        """
        if self.exchange is not old:
            return
        if self._dial is None or self._closed or not self.patience or not was_cut(cut):
            raise cut
        old.close()
        self._backoff.cut(time.monotonic(), worked=old.life.worked)
        try:
            self.exchange = self._open(self._dial, cut)
            self.restarted |= self.exchange.hello.instance != old.hello.instance
        except BaseException:
            self._backoff.give_up()
            raise

    def _open(self, dial: Callable[[], Transport], error: ClientError | WireError) -> Exchange:
        while (pause := self._backoff.pause(time.monotonic())) is not None:
            time.sleep(pause)
            try:
                return Exchange(dial(), self._server)
            except (ClientError, RequestError) as failed:
                if not may_pass(failed):
                    raise
                error = failed
        raise error
