"""Owns one connection: its reader, and a task for each request under way.

Theory of operation. The reader turns messages into tasks, one a request. Outgoing messages are encoded
into one buffer, in the same synchronous step that accounts for their credit, and `worker.outbox` sends
them. A stream waits while the buffer holds SEND_BYTES, and takes output from the log only after that, so
that a peer that does not read costs us one buffer. `worker.requests` has the tasks, and builds replies in
the same manner. An error in a request's task is that request's error; a protocol error or a cut ends this
connection and no other.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import trio

from certs.refusals import plain
from certs.roles import Identity
from wire.connection import Connection, Role, Signal, State
from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.features import FEATURES
from wire.messages import (
    PROTOCOL_VERSION,
    Cancel,
    Credit,
    Failure,
    Hello,
    Message,
    Ping,
    Pong,
    Request,
)
from wire.trio_stream import ByteStream

from .audit import NO_TRAIL, Event, Outcome, Trail
from .bounds import DEFAULTS, Bounds
from .intake import Intake, LargeFrames
from .log import Log
from .methods import frame_bytes, frame_caps, methods_of
from .outbox import Outbox, StalledError
from .registry import Registry
from .requests import REPLY_BYTES, SEND_BYTES, Requests
from .turns import Turns

#: Streams that may each hold a block for which there is no room yet, where no window has bytes left.
ALONE = 2
#: How long a client may take nothing, in seconds, unless the operator says otherwise.
STALL_SECONDS = 30.0
#: Longest wait for the last messages to be taken when a session ends, in seconds.
CLOSE_DEADLINE = 2.0


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
        requests: counts the requests under way of each principal, on all connections.
        large: who may take in a large frame.
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
        requests: Counter[str] | None = None,
        large: LargeFrames | None = None,
        trail: Trail = NO_TRAIL,
    ) -> None:
        self.turns = turns
        self.identity = identity
        #: Whose share of the server its requests count against.
        self.principal = identity.principal
        self._requests = Requests(self, log, trail, bounds, requests)
        self._max_requests = bounds.max_requests
        self._max_frame = frame_bytes(identity.role, bounds)
        self.stall = stall
        self._trail = trail
        caps = frame_caps(identity.role)
        self.connection = Connection(Role.SERVER, max_frame=self._max_frame, caps=caps)
        self.registry = registry
        self._stream = stream
        self._log = log
        self._server = server
        large = large or LargeFrames()
        self._intake = Intake(
            stream, self.connection, partial(self.turn, heavy=True), large.of(self.principal), stall
        )
        self._outbox = Outbox(stream, stall, acknowledged)
        self.alone = trio.CapacityLimiter(ALONE)
        self._reading = trio.CancelScope()
        self._ending = False  # no new requests are taken
        self._last_word: Failure | None = None  # what the client was told when its connection was ended

    async def send(self, message: Message) -> None:
        """Queue a message for the writer, once there is room."""
        await self.room(REPLY_BYTES)
        self.queue(message)

    async def turn(self, *, heavy: bool = False) -> None:
        """Wait for this identity's turn to do what is costly, or heavy, before the next checkpoint."""
        if self.turns is None:
            await trio.lowlevel.checkpoint()
        else:
            await self.turns.take(self.principal, heavy=heavy)

    def has_room(self, most: int) -> bool:
        """Whether fewer than ``most`` bytes wait to be sent."""
        return self._outbox.has_room(most)

    async def room(self, most: int) -> None:
        """Wait until fewer than ``most`` bytes wait to be sent."""
        await self._outbox.room(most)
        await self.wait_unless_open()

    async def wait_unless_open(self) -> None:  # noqa: ASYNC910  # no checkpoint: there is still room
        """Wait for the end if the connection has failed, so that nothing may be sent."""
        if self.connection.state is not State.OPEN:
            await trio.sleep_forever()  # it has failed meanwhile, and our cancel is on its way

    def queue(self, message: Message) -> None:
        """Queue a message for the writer; there must be room, with no checkpoint since."""
        self._outbox.put(self.connection.send(message))

    def finish(self) -> None:
        """Let the requests under way end, then end the session; no new ones are taken."""
        self._ending = True
        self.rest()

    def rest(self) -> None:
        """End the session if it is to end and no request is under way any more."""
        if self._ending and not self._requests.calls:
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
            max_requests=self._max_requests,
            time=time.time(),
            features=FEATURES,
            methods=methods_of(self.identity.role),
            instance=self.registry.instance,
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
                while await self._take_next(calls):
                    pass
            except RemoteProtocolError as error:
                self._log.warning(
                    "a client broke the protocol", identity=self.identity.name, error=str(error)
                )
                return Failure(0, ErrorCode.PROTOCOL, str(error))
        if self._reading.cancelled_caught:
            return self._last_word or Failure(0, ErrorCode.SHUTTING_DOWN, "The server is shutting down.")
        return None

    async def _take_next(self, calls: trio.Nursery) -> bool:
        """Take a message, and keep nothing of it while the next is waited for; False at the end."""
        event = await self._intake.next_event()
        match event:
            case Signal():
                return False
            case Request():
                await self._requests.take(event, calls, ending=self._ending)
            case Credit(id):
                self._requests.grant(id)
            case Cancel(id):
                self._requests.cancel(id)
            case Ping(nonce):
                await self.send(Pong(nonce))
            case _:
                pass
        return True


def reason_of(error: BaseException) -> str:
    """The reason in an exception, or in the first of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return plain(error) or plain(error.__cause__ or error) or type(error).__name__


async def refuse(stream: ByteStream, error: RequestError) -> None:
    """Tell a client in place of the hello why it is not served.

    Raises:
        trio.BrokenResourceError: it has gone already.
    """
    await stream.send_all(Connection(Role.SERVER).send(Failure.of(0, error)))
