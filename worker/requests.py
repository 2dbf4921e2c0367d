"""Owns the requests of one connection: whether there may be one more, its task, and its final message.

Theory of operation. A request costs a client little, and its reply may cost the server much. So a request
leads not to a reply but to a function that builds it. It is called once the connection has room for the reply
and the identity has its turn, and the reply is queued in the same step, one at a time. Replies that nobody
reads are not built: 256 requests hold 256 tasks and no reply. And of all clients' replies, one is built each
time the event loop comes round, in rotation between identities, however many each of them asks for.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from certs.roles import Identity
from wire.errors import ErrorCode, RequestError
from wire.messages import Failure, Gap, Output, Reply, Request

from .audit import Trail
from .blocks import Chunk
from .bounds import Bounds
from .call import Answer, Prepared
from .log import Log
from .methods import prepare
from .output import Missing
from .registry import Registry

if TYPE_CHECKING:
    from .session import Session

#: Outgoing bytes that may be waiting for the writer before a request that wants to send must wait.
SEND_BYTES = 256 * 1024
#: Replies wait for room only past so much: they are small, and streams must not hold them up.
REPLY_BYTES = 1024 * 1024


@dataclass(slots=True)
class _Call:
    """One request under way; what its method sees of the session."""

    session: "Session"
    id: int
    method: str
    trail: Trail
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    granted: trio.Event = field(default_factory=trio.Event)

    @property
    def identity(self) -> Identity:
        return self.session.identity

    @property
    def features(self) -> frozenset[str]:
        return self.session.connection.features

    @property
    def registry(self) -> Registry:
        return self.session.registry

    def credit(self) -> int:
        return self.session.connection.credit(self.id)

    async def wait_credit(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.credit():
            self.granted = trio.Event()
            await self.granted.wait()

    @property
    def stall(self) -> float:
        return self.session.stall

    async def turn(self) -> None:
        await self.session.turn()

    async def room(self) -> None:
        await self.session.room(SEND_BYTES)

    @property
    def alone(self) -> trio.CapacityLimiter:
        return self.session.alone

    def output(self, piece: Chunk | Missing) -> None:
        if isinstance(piece, Missing):
            self.session.queue(Gap(self.id, piece.offset, piece.size, piece.reason))
        else:
            self.session.queue(Output(self.id, piece.offset, piece.stream, piece.data))


class Requests:
    """The requests of one session.

    Args:
        session: whose they are.
        log: the server's log.
        trail: the client's audit trail.
        bounds: what a client may cost.
        counts: the requests under way of each principal, on all its connections.
    """

    def __init__(
        self, session: "Session", log: Log, trail: Trail, bounds: Bounds, counts: Counter[str] | None
    ) -> None:
        #: Those under way, by their id.
        self.calls: dict[int, _Call] = {}
        self._session = session
        self._log = log
        self._trail = trail
        self._bounds = bounds
        self._counts = counts if counts is not None else Counter()
        self._replying = trio.Lock()  # whoever has it builds the next reply

    async def take(  # noqa: ASYNC910  # the reader checkpoints where it receives
        self, request: Request, tasks: trio.Nursery, *, ending: bool
    ) -> None:
        """Begin a request in a task of its own, or refuse it."""
        identity = self._session.identity
        try:
            self._check_room(ending=ending)
            run = prepare(identity.role, request)
        except RequestError as error:
            # A client that asks for what it does not get could do so at any rate; so this takes turns too.
            try:
                await self._session.turn()
            finally:  # also of a client that is cut before
                told = self._trail.request(request).refused(request, error)
                if told and error.code is ErrorCode.DENIED:
                    role = identity.role.value
                    self._log.warning("denied", identity=identity.name, role=role, method=request.method)
            await self._session.send(Failure.of(request.id, error))
            return
        trail = self._trail.request(request)
        trail.allowed(request)
        # The request itself is not kept: while it runs, a client could hold much memory with it.
        call = self.calls[request.id] = _Call(self._session, request.id, request.method, trail)
        self._counts[self._session.principal] += 1
        tasks.start_soon(self._serve, call, run, name=f"{request.method} {request.id}")

    def _check_room(self, *, ending: bool) -> None:
        identity, bounds = self._session.identity, self._bounds
        if ending:
            raise RequestError(ErrorCode.SHUTTING_DOWN, "The server is shutting down.")
        if self._session.connection.open_requests > bounds.max_requests:
            raise RequestError(
                ErrorCode.BUSY,
                f"This connection has {bounds.max_requests} requests under way: wait for one to end, or open "
                "another connection.",
            )
        if self._counts.get(self._session.principal, 0) >= bounds.max_requests_per_identity:
            raise RequestError(
                ErrorCode.BUSY,
                f"{identity.name} has {bounds.max_requests_per_identity} requests under way: wait for one to "
                "end, or have the server run with a larger --max-requests-per-identity.",
            )

    def grant(self, id_: int) -> None:
        """Have a stream look at its credit again."""
        if id_ in self.calls:
            self.calls[id_].granted.set()

    def cancel(self, id_: int) -> None:
        """Cancel a request, if it is under way."""
        if id_ in self.calls:
            self.calls[id_].scope.cancel()

    async def _serve(self, call: _Call, run: Prepared) -> None:
        principal = self._session.principal
        try:
            await self._answer(call, run)
        finally:
            self._counts[principal] -= 1
            if not self._counts[principal]:
                del self._counts[principal]

    async def _answer(self, call: _Call, run: Prepared) -> None:  # noqa: ASYNC910  # a task, not called
        """Run one request and send its final message."""
        failure: Failure | None = Failure(call.id, ErrorCode.CANCELLED, "The request was cancelled.")
        with call.scope:
            try:
                answer = await run(call)
                del run  # with its parameters, while the reply waits
                await self._reply(call, answer)
                failure = None
            except RequestError as error:
                call.trail.failed(error)
                failure = Failure.of(call.id, error)
            except trio.Cancelled:
                call.trail.cancelled()
                raise
            except Exception:  # noqa: BLE001  # one request's bug must not end the connection
                self._log.exception("a request failed", method=call.method)
                call.trail.failed(RequestError(ErrorCode.INTERNAL, "The server failed; see its log."))
                failure = Failure(call.id, ErrorCode.INTERNAL, "The server failed; see its log.")
        if failure is not None:
            await self._session.send(failure)
        if self.calls.get(call.id) is call:  # once its final message is out, an id may be used again
            del self.calls[call.id]
        self._session.rest()

    async def _reply(self, call: _Call, answer: Answer) -> None:
        """Build a reply and queue it, once there is room and the identity has its turn."""
        async with self._replying:  # which is a checkpoint; the others would cost each reply a round more
            if not self._session.has_room(REPLY_BYTES):
                await self._session.room(REPLY_BYTES)
            await call.turn()
            await self._session.wait_unless_open()
            self._session.queue(Reply(call.id, self._session.connection.plain(answer())))
