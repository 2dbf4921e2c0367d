"""Owns the requests under way on one connection of the Trio client: its reader, its writer, its pings.

Theory of operation. Callers never touch the connection: they queue bytes in the core, in one synchronous
step, and wait at a memory channel of their own. The writer is the only task that sends, so a cancelled
caller can never leave half a frame on the wire. The reader hands each event to its request's channel
without waiting: what a caller that does not read can make pile up there is bounded by its stream's
credit, and nobody else waits for it. Whatever ends the connection is kept as the error that ends every
call under way and every later one.
"""

import copy
import math
from types import TracebackType
from typing import TypeVar

import trio

from wire.errors import WireError
from wire.messages import Hello, Output

from .core import PING_SECONDS, Answer, Core, Params, Piece
from .errors import ClientError, CutError
from .resume import Life
from .transport import CONNECT_SECONDS
from .trio_transport import Transport

Events = trio.MemoryReceiveChannel[Answer | Piece]
E = TypeVar("E", bound=Exception)


def renewed(error: E) -> E:
    """The same error for another caller, whose traceback is to be its own."""
    return copy.copy(error)


class Background:
    """A nursery for tasks that serve a block and end with it, which leaves the block's exceptions alone.

    A plain nursery would wrap whatever its block raises into a group, also where no task of its own
    failed; here a user's KeyError stays a KeyError. The tasks are expected to raise nothing.
    """

    async def __aenter__(self) -> trio.Nursery:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self._nursery

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        # Shielded, so that the cancellation seen by the tasks is ours alone and is absorbed here; they
        # are all cancelled, which bounds the wait.
        self._nursery.cancel_scope.shield = True
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(None, None, None)  # noqa: ASYNC102  # it is shielded, see above


class Exchange:
    """Many requests over one transport.

    Args:
        transport: an open one.
        server: its address, for messages.
    """

    def __init__(self, transport: Transport, server: str) -> None:
        self._transport = transport
        self._server = server
        self._core = Core()
        # Until its answer has come, the server counts a request as under way, also one that was forgotten.
        self._requests: dict[int, trio.MemorySendChannel[Answer | Piece] | None] = {}
        self._room = trio.lowlevel.ParkingLot()
        self._ready = trio.Event()
        self._filled = trio.Event()
        self._ended = trio.Event()
        #: What ended it, once it has ended.
        self.error: ClientError | WireError | None = None
        self.life = Life(trio.current_time())

    @property
    def hello(self) -> Hello:
        """What the server said of itself and of us, once `run` has returned."""
        assert self._core.hello is not None  # noqa: S101  # run waited for it
        return self._core.hello

    @property
    def features(self) -> frozenset[str]:
        """The features in use, as `Core.features`."""
        return self._core.features

    def server_time(self) -> float | None:
        """What the server's clock says now, as `Core.server_time`."""
        return self._core.server_time()

    async def run(self, nursery: trio.Nursery) -> None:
        """Start the tasks and wait for the server's hello.

        Raises:
            ClientError, RequestError, RemoteProtocolError: it does not come.
        """
        for task in (self._read, self._write, self._watch):
            nursery.start_soon(task)
        with trio.move_on_after(CONNECT_SECONDS):
            await self._ready.wait()
        if not self._ready.is_set():
            self.end(CutError(f"The server at {self._server} does not answer."))
        self.check()

    def end(self, error: ClientError | WireError) -> None:
        """End every call with an error; only the first one counts."""
        if self.error is None:
            self.error = error
            for sender in self._requests.values():
                if sender is not None:
                    sender.close()
            self._requests.clear()
            self._room.unpark_all()
            self._ready.set()
            self._filled.set()
            self._ended.set()

    async def begin(self, method: str, params: Params) -> tuple[int, Events]:
        """Send a request once there is room for one more; whoever begins it must `forget` it."""
        await trio.lowlevel.checkpoint()
        while self.error is None and len(self._requests) >= max(1, self.hello.max_requests):
            await self._room.park()
        try:
            self.check()
            request_id = self._core.begin(method, params)
        except BaseException:
            self._room.unpark()  # the room that we were woken up for is the next one's
            raise
        sender, events = trio.open_memory_channel[Answer | Piece](math.inf)
        self._requests[request_id] = sender
        self._filled.set()
        return request_id, events

    def forget(self, request_id: int) -> None:
        """Want no more of a request; nothing happens if it has ended."""
        sender = self._requests.get(request_id)
        if sender is not None:
            sender.close()
            self._requests[request_id] = None
            self._core.cancel(request_id)
            self._filled.set()

    async def next(self, events: Events) -> Answer | Piece:
        """Wait for a request's next event.

        Raises:
            trio.EndOfChannel: there is none after its answer, or once it was forgotten.
        """
        try:
            return await events.receive()
        except trio.EndOfChannel:
            self.check()
            raise

    def consumed(self, output: Output) -> None:
        """Let the server send more for what the caller has taken."""
        self._core.consumed(output)
        self._filled.set()

    async def answer(self, request_id: int, events: Events) -> Answer:
        """Wait for the answer of a request that was begun; what is raised has ended the connection."""
        try:
            event = await self.next(events)
            while not isinstance(event, Answer):
                event = await self.next(events)
        finally:
            self.forget(request_id)
        return event

    def check(self) -> None:
        """Raise why the connection ended, if it has: a new exception for each caller."""
        if self.error is not None:
            raise renewed(self.error) from self.error

    # Ctrl-C is for the caller's tasks; raised in one of these, it would come out in a group.
    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:  # noqa: ASYNC910  # what ends it comes from a receive
        try:
            while True:
                for event in self._core.receive(await self._transport.receive()):
                    self._deliver(event)
                if self._core.hello is not None:
                    self._ready.set()
                self._filled.set()  # the core may have answered a ping
        except (ClientError, WireError) as error:
            self.life.ended(trio.current_time())
            self.end(error)

    def _deliver(self, event: Answer | Piece) -> None:
        self.life.brought()
        sender = self._requests.get(event.id)
        if sender is not None:
            sender.send_nowait(event)
        if isinstance(event, Answer):
            if sender is not None:
                sender.close()
            self._requests.pop(event.id, None)
            self._room.unpark()

    @trio.lowlevel.enable_ki_protection
    async def _write(self) -> None:
        await self._ready.wait()  # before the hello, a client has nothing to say
        try:
            while self.error is None:
                await self._filled.wait()
                self._filled = trio.Event()
                if data := self._core.data_to_send():
                    await self._transport.send(data)
        except ClientError:
            pass  # the reader comes to the end too, after what the server said last

    @trio.lowlevel.enable_ki_protection
    async def _watch(self) -> None:
        """Ping a silent server, and give it up if it stays silent."""
        await self._ready.wait()
        while self.error is None:
            heard_at = self._transport.heard_at
            await self._wait_ended(heard_at + PING_SECONDS)
            if self._transport.heard_at == heard_at and self.error is None:
                self._core.ping()
                self._filled.set()
                await self._wait_ended(trio.current_time() + PING_SECONDS)
                if self._transport.heard_at == heard_at:
                    self.end(CutError(f"The server at {self._server} no longer answers."))

    async def _wait_ended(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            await self._ended.wait()
