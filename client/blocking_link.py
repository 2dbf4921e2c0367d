"""Owns the blocking client's connection over time: the exchange in use, and the way back after a cut."""

import time
from collections.abc import Callable
from typing import Any

from wire.errors import ErrorCode, RequestError, WireError
from wire.jobs import JobStatus, StartParams

from .asked import Asked, Start, result_after
from .blocking_exchange import Exchange
from .core import refused
from .errors import ClientError, CutError, InUseError
from .resume import Backoff, may_pass, was_cut
from .transport import Transport
from .turn import Turn, in_turn


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
        #: Taken by all that uses the connection.
        self.turn = Turn()
        self.exchange = Exchange(transport, server)
        self.patience = patience
        self._server = server
        self._dial = dial
        self._backoff = Backoff(patience)
        self._closed = False
        #: Whether the server was restarted since the first connection.
        self.restarted = False

    def close(self) -> None:
        """End it; what is under way fails, in another thread too."""
        self._closed = True
        try:
            with self.turn:
                self.exchange.close()
        except InUseError:
            self.exchange.abandon()

    @in_turn
    def begin(self, asked: Asked) -> tuple[Exchange, int]:
        """Send a request, over a new connection if the last one was found cut."""
        self.exchange.catch_up()
        if (error := self.exchange.error) is not None and was_cut(error):
            self.renew(self.exchange, error)
        exchange = self.exchange
        request_id = exchange.begin(asked.method, asked.to(exchange.hello, exchange.features))
        asked.sent(exchange.hello)
        return exchange, request_id

    @in_turn
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

    @in_turn
    def start(self, params: StartParams, *, chosen: bool) -> JobStatus:
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
                    return start.job(answer)

    @in_turn
    def outlast(self, ending: Backoff) -> bool:
        """Pause, as the server that still answers is being ended; False if that is no use any more."""
        ending.cut(time.monotonic(), worked=False)
        pause = ending.pause(time.monotonic())
        if pause is None or self._dial is None:
            return False
        time.sleep(pause)
        return True

    @in_turn
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
            if self._closed:  # by another thread, meanwhile
                self.exchange.close()
            self.restarted |= self.exchange.hello.instance != old.hello.instance
        except BaseException:
            self._backoff.give_up()
            raise

    def _open(self, dial: Callable[[], Transport], error: ClientError | WireError) -> Exchange:
        while (pause := self._backoff.pause(time.monotonic(), error)) is not None:
            time.sleep(pause)
            try:
                return Exchange(dial(), self._server)
            except (ClientError, RequestError) as failed:
                if not may_pass(failed):
                    raise
                error = failed
        raise error
