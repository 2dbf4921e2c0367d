"""Owns the Trio client's connection over time: the exchange in use, and the way back after a cut.

Theory of operation. Any number of tasks may find the connection cut. The first starts one task, in the
nursery of the client's block, that opens the next connection; all wait for it, and all learn how it went. A
caller that is cancelled meanwhile takes nothing from the others, and the end of the block ends it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from wire.errors import ErrorCode, RequestError
from wire.jobs import JobStatus, StartParams
from wire.trio_stream import CLOSE_SECONDS

from .asked import Asked, Start, result_after
from .core import refused
from .errors import ClientError, CutError
from .resume import Backoff, may_pass, was_cut
from .trio_exchange import Events, Exchange, renewed
from .trio_transport import Transport

#: Opens a transport to the server.
Dial = Callable[[], Awaitable[Transport]]


class _Renewal:
    """A way back that is being looked for. `error` says at its end why there is none."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.error: Exception | None = None


class Link:
    """The connection in use, and those to come.

    Args:
        nursery: where the tasks of its exchanges run.
        transport: an open one.
        server: its address, for messages.
        dial: opens another after a cut; None for never.
        patience: seconds for which to try it.
    """

    def __init__(
        self, nursery: trio.Nursery, transport: Transport, server: str, dial: Dial | None, patience: float
    ) -> None:
        self.exchange = Exchange(transport, server)
        self.patience = patience
        self._nursery = nursery
        self._transport = transport
        self._server = server
        self._dial = dial
        self._backoff = Backoff(patience)
        self._renewal: _Renewal | None = None
        self._closed = False
        #: Whether the server was restarted since the first connection.
        self.restarted = False

    async def run(self) -> None:
        """Start the first exchange; raises as `Exchange.run` does."""
        await self.exchange.run(self._nursery)

    async def close(self) -> None:
        """End it; what is under way fails."""
        self._closed = True
        self.exchange.end(CutError("This client is closed."))
        await _close(self._transport)

    async def begin(self, asked: Asked) -> tuple[Exchange, int, Events]:
        """Send a request, over a new connection if the last one was cut; whoever begins it must forget it."""
        while True:
            if was_cut(self.exchange.error):
                await self.renew(self.exchange)
            exchange = self.exchange
            params = asked.to(exchange.hello, exchange.features)
            try:
                request_id, events = await exchange.begin(asked.method, params)
            except (CutError, RequestError):  # before it was sent
                await self.renew(exchange)
                continue
            asked.sent(exchange.hello)
            return exchange, request_id, events

    async def ask(self, asked: Asked) -> dict[str, Any]:
        """Send what may be asked again after a cut, and wait for its result."""
        ending = Backoff(self.patience)
        while True:
            exchange, request_id, events = await self.begin(asked)
            try:
                answer = await exchange.answer(request_id, events)
            except (CutError, RequestError):
                await self.renew(exchange)
                continue
            if not (refused(answer, ErrorCode.SHUTTING_DOWN) and await self.outlast(ending)):
                return result_after(answer, restarted=self.restarted)

    async def start(self, params: StartParams, *, chosen: bool) -> JobStatus:
        """Start a job; see `asked.Start`."""
        start = Start(params, chosen=chosen)
        with start.telling():
            while True:
                exchange, request_id, events = await self.begin(start)
                try:
                    answer = await exchange.answer(request_id, events)
                except (CutError, RequestError):
                    if not start.cut():
                        raise
                    await self.renew(exchange)
                else:
                    return start.job(answer)

    async def outlast(self, ending: Backoff) -> bool:
        """Pause, as the server that still answers is being ended; False if that is no use any more."""
        ending.cut(trio.current_time(), worked=False)
        pause = ending.pause(trio.current_time())
        useful = pause is not None and self._dial is not None
        await trio.sleep(pause or 0)
        return useful

    async def renew(self, old: Exchange) -> None:  # noqa: ASYNC910  # check() raises where nothing waits
        """See to it that another exchange than a cut one is in use.

        Raises:
            ClientError: there is no way back, none was found in time, or our certificates are unusable now.
            RequestError: the server refuses us now.
        """
        if self.exchange is not old:
            await trio.lowlevel.checkpoint()
            return
        if self._dial is None or self._closed or not self.patience or not was_cut(old.error):
            await trio.lowlevel.checkpoint()
            old.check()
        elif self._renewal is None:
            self._renewal = _Renewal()
            self._nursery.start_soon(self._renew, self._renewal, self._dial)
        if (renewal := self._renewal) is not None:
            await renewal.over.wait()
            if renewal.error is not None:
                raise renewed(renewal.error) from renewal.error

    # Ctrl-C is for the caller's tasks; raised here, it would come out in a group.
    @trio.lowlevel.enable_ki_protection
    async def _renew(self, renewal: _Renewal, dial: Dial) -> None:  # noqa: ASYNC910  # a task of its own
        before = self._transport
        self._backoff.cut(trio.current_time(), worked=self.exchange.life.worked)
        renewal.error = CutError("This client is closed.")
        try:
            renewal.error = await self._try(dial)
        except Exception as error:  # noqa: BLE001  # it is told to all that wait
            renewal.error = error
        finally:
            if renewal.error is not None:
                self._backoff.give_up()
            self._renewal = None
            renewal.over.set()
        if self._transport is not before:
            await _close(before)

    async def _try(self, dial: Dial) -> Exception | None:
        """Try until there is a connection, or patience is at its end; return what went wrong last."""
        error: Exception | None = self.exchange.error
        while (pause := self._backoff.pause(trio.current_time(), error)) is not None:
            await trio.sleep(pause)
            try:
                await self._open(dial)
            except (ClientError, RequestError) as failed:
                if not may_pass(failed):
                    raise
                error = failed
            else:
                return None
        return error  # noqa: ASYNC910  # it waited at its first try

    async def _open(self, dial: Dial) -> None:
        transport = await dial()
        exchange = Exchange(transport, self._server)
        try:
            await exchange.run(self._nursery)
            if self._closed:
                raise CutError("This client is closed.")
        except BaseException:
            exchange.end(CutError("The connection was not opened."))
            await _close(transport)  # noqa: ASYNC102  # it is shielded, and bounded
            raise
        self.restarted |= exchange.hello.instance != self.exchange.hello.instance
        self._transport, self.exchange = transport, exchange


async def _close(transport: Transport) -> None:
    with trio.move_on_after(CLOSE_SECONDS, shield=True):
        await transport.aclose()
