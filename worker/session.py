"""Owns one connection: its reader, and a task for each request under way.

Theory of operation. The reader turns messages into tasks, one a request. Outgoing messages are encoded
into one buffer, in the same synchronous step that accounts for their credit, and `worker.outbox` sends
them. Who wants to send output waits while the buffer holds SEND_BYTES, and takes it from the log only
then, so that a peer that does not read costs us one buffer. Replies are built one at a time, in the step
that queues them: a request leads not to a reply but to a function that builds it, which is called once
there is room and the identity has its turn. So 256 requests whose replies nobody reads hold 256 tasks and
no reply. An error in a request's task is that request's error; a protocol error or a cut ends this
connection and no other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from certs.roles import Identity
from wire import codec
from wire.connection import Connection, Role, Signal, State
from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.messages import (
    PROTOCOL_VERSION,
    Cancel,
    Credit,
    Failure,
    Gap,
    Hello,
    Message,
    Output,
    Ping,
    Pong,
    Reply,
    Request,
)
from wire.trio_stream import ByteStream, receive_event

from .audit import NO_TRAIL, Event, Outcome, Trail
from .blocks import Chunk
from .bounds import DEFAULTS, Bounds
from .log import Log
from .methods import Answer, Prepared, frame_bytes, prepare
from .outbox import Outbox, StalledError
from .output import Missing
from .registry import Registry
from .turns import Turns

#: Outgoing bytes that may be waiting for the writer before a request that wants to send must wait.
SEND_BYTES = 256 * 1024
#: Replies wait for room only past so much: they are small, and streams must not hold them up.
REPLY_BYTES = 1024 * 1024
#: Streams that may each hold a block for which there is no room yet, where no window has bytes left.
ALONE = 2
#: How long a client may take nothing, in seconds, unless the operator says otherwise.
STALL_SECONDS = 30.0
#: Longest wait for the last messages to be taken when a session ends, in seconds.
CLOSE_DEADLINE = 2.0


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
        if self.session.turns is None:
            await trio.lowlevel.checkpoint()
        else:
            await self.session.turns.take(self.identity.principal)

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


class Session:
    """One accepted client.

    Args:
        stream: the transport, already secured.
        identity: who the client is.
        registry: the jobs.
        log: the server's log.
        server: our name and version, for the hello.
        stall: seconds after which a client that takes nothing is given up.
        acknowledged: tells how many bytes the client's host has acknowledged so far.
        bounds: what a client may cost.
        turns: who gives turns for costly steps; None where nobody does.
        trail: the client's audit trail.
    """

    def __init__(
        self,
        stream: ByteStream,
        identity: Identity,
        registry: Registry,
        log: Log,
        server: str,
        *,
        stall: float = STALL_SECONDS,
        acknowledged: Callable[[], int] = lambda: 0,
        bounds: Bounds = DEFAULTS,
        turns: Turns | None = None,
        trail: Trail = NO_TRAIL,
    ) -> None:
        self.turns = turns
        self._bounds = bounds
        self._max_frame = frame_bytes(identity.role, bounds)
        self.stall = stall
        self._trail = trail
        self.connection = Connection(Role.SERVER, max_frame=self._max_frame, max_depth=bounds.max_nesting)
        self.identity = identity
        self.registry = registry
        self._stream = stream
        self._log = log
        self._server = server
        self._calls: dict[int, _Call] = {}
        self._outbox = Outbox(stream, stall, acknowledged)
        self.alone = trio.CapacityLimiter(ALONE)
        self._replying = trio.Lock()  # whoever has it builds the next reply
        self._reading = trio.CancelScope()
        self._ending = False  # no new requests are taken
        self._last_word: Failure | None = None  # what the client was told when its connection was ended

    async def send(self, message: Message) -> None:
        """Queue a message for the writer, once there is room."""
        await self.room(REPLY_BYTES)
        self.queue(message)

    async def room(self, most: int) -> None:
        """Wait until fewer than ``most`` bytes wait to be sent."""
        await self._outbox.room(most)
        await self._wait_unless_open()

    async def _wait_unless_open(self) -> None:  # noqa: ASYNC910  # no checkpoint: there is still room
        if self.connection.state is not State.OPEN:
            await trio.sleep_forever()  # it has failed meanwhile, and our cancel is on its way

    def queue(self, message: Message) -> None:
        """Queue a message for the writer; there must be room, with no checkpoint since."""
        self._outbox.put(self.connection.send(message))

    def finish(self) -> None:
        """Let the requests under way end, then end the session; no new ones are taken."""
        self._ending = True
        if not self._calls:
            self._reading.cancel()

    def end(self, code: ErrorCode, reason: str) -> None:
        """End the session now, for a reason that the client is told; what waits to be sent is dropped."""
        if self.connection.state is not State.OPEN:
            return
        self._ending = True
        self._outbox.clear()
        self._last_word = Failure(0, code, reason)
        # At once: a request under way may take its time to end, and the client is to know by then.
        self.queue(self._last_word)
        self._reading.cancel()

    async def run(self) -> None:
        """Serve the client until it leaves, is cut, breaks the protocol, or `finish` takes effect."""
        hello = Hello(
            version=PROTOCOL_VERSION,
            server=self._server,
            identity=self.identity.name,
            role=self.identity.role.value,
            max_frame=self._max_frame,
            max_requests=self._bounds.max_requests,
        )
        self.queue(hello)
        await trio.lowlevel.checkpoint()
        self._trail.record(Event.CONNECTION_ACCEPTED, Outcome.ALLOWED)
        cause = "the server cut it"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                async with trio.open_nursery() as calls:
                    last_word = await self._read(calls)
                    calls.cancel_scope.cancel()
                cause = "the client left"
                if last_word is not None:
                    cause = last_word.message
                if last_word is not None and last_word is not self._last_word:
                    self.queue(last_word)
                self._outbox.end()
                nursery.cancel_scope.deadline = trio.current_time() + CLOSE_DEADLINE
                if last_word is not None and last_word.code is not ErrorCode.SHUTTING_DOWN:
                    # A close with bytes unread would reset the connection, and take the last word with it.
                    while await self._stream.receive_some(SEND_BYTES):
                        pass
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as errors:
            self._log.info("a connection was cut", identity=self.identity.name)
            cause = f"it was cut: {reason_of(errors)}"
        finally:
            self._trail.record(Event.CONNECTION_ENDED, Outcome.DONE, cause=cause)

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except* StalledError:
            self._log.warning("a client took nothing for too long", identity=self.identity.name)
            raise

    async def _read(self, calls: trio.Nursery) -> Failure | None:
        """Take messages until the end; return what the client should be told last, if anything."""
        await trio.lowlevel.checkpoint()
        with self._reading:
            if self._ending:
                self._reading.cancel()
            try:
                while (event := await receive_event(self._stream, self.connection)) is not Signal.CLOSED:
                    await self._take(event, calls)
            except RemoteProtocolError as error:
                self._log.warning(
                    "a client broke the protocol", identity=self.identity.name, error=str(error)
                )
                return Failure(0, ErrorCode.PROTOCOL, str(error))
        if self._reading.cancelled_caught:
            return self._last_word or Failure(0, ErrorCode.SHUTTING_DOWN, "The server is shutting down.")
        return None

    async def _take(self, event: object, calls: trio.Nursery) -> None:  # noqa: ASYNC910  # receive_event's
        match event:
            case Request() as request if self._ending:
                await self._refuse(
                    request, RequestError(ErrorCode.SHUTTING_DOWN, "The server is shutting down.")
                )
            case Request() as request if self.connection.open_requests > self._bounds.max_requests:
                sentence = (
                    f"This connection has {self._bounds.max_requests} requests under way: wait for one to "
                    "end, or open another connection."
                )
                await self._refuse(request, RequestError(ErrorCode.BUSY, sentence))
            case Request():
                try:
                    run = prepare(self.identity.role, event)
                except RequestError as error:
                    if error.code is ErrorCode.DENIED:
                        self._log.warning(
                            "denied",
                            identity=self.identity.name,
                            role=self.identity.role.value,
                            method=event.method,
                        )
                    await self._refuse(event, error)
                else:
                    trail = self._trail.request(event)
                    trail.decided(event)
                    # The request itself is not kept: while it runs, a client could hold much memory with it.
                    call = self._calls[event.id] = _Call(self, event.id, event.method, trail)
                    calls.start_soon(self._serve, call, run, name=f"{event.method} {event.id}")
            case Credit(id):
                if id in self._calls:
                    self._calls[id].granted.set()
            case Cancel(id):
                if id in self._calls:
                    self._calls[id].scope.cancel()
            case Ping(nonce):
                await self.send(Pong(nonce))
            case _:
                pass

    async def _refuse(self, request: Request, error: RequestError) -> None:
        self._trail.request(request).decided(request, error)
        await self.send(Failure(request.id, error.code, error.message))

    async def _serve(self, call: _Call, run: Prepared) -> None:
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
                failure = Failure(call.id, error.code, error.message, error.offset)
            except trio.Cancelled:
                call.trail.cancelled()
                raise
            except Exception:  # noqa: BLE001  # one request's bug must not end the connection
                self._log.exception("a request failed", method=call.method)
                call.trail.failed(RequestError(ErrorCode.INTERNAL, "The server failed; see its log."))
                failure = Failure(call.id, ErrorCode.INTERNAL, "The server failed; see its log.")
        if failure is not None:
            await self.send(failure)
        if self._calls.get(call.id) is call:  # once its final message is out, an id may be used again
            del self._calls[call.id]
        if self._ending and not self._calls:
            self._reading.cancel()

    async def _reply(self, call: _Call, answer: Answer) -> None:
        """Build a reply and queue it, once there is room and the identity has its turn."""
        async with self._replying:
            await self.room(REPLY_BYTES)
            await call.turn()
            await self._wait_unless_open()
            self.queue(Reply(call.id, codec.to_map(answer())))


def reason_of(error: BaseException) -> str:
    """The reason in an exception, or in the first of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or str(error.__cause__ or type(error).__name__)


async def refuse(stream: ByteStream, code: ErrorCode, message: str) -> None:
    """Tell a client in place of the hello why it is not served.

    Raises:
        trio.BrokenResourceError: it has gone already.
    """
    await stream.send_all(Connection(Role.SERVER).send(Failure(0, code, message)))
