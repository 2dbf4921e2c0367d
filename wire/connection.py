"""Owns one end of a worker.v1 connection, sans-IO: which message may follow which, and credit.

Theory of operation. Both ends use this class; only the role differs, and one table says what each
role may send. `receive_data` takes bytes, `next_event` gives messages until it says NEED_DATA, and
`send` turns a message into bytes. Every request id lives from its request to its one final message
(reply or error); output travels in between, within the credit that the client granted. A message
that breaks the table ends the connection: LocalProtocolError if we tried to send it,
RemoteProtocolError if it came in; a server may still say why, with an error of id 0. Credit and
cancel for an id that has ended are normal, because they cross the final message on the way, and are
DROPPED here. A client's first message may be its own hello, if the server's announced features; those that
both announced are in `features`. Whatever ends the connection ends its requests: no id is open after it.
"""

import enum
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from . import codec
from .errors import LocalProtocolError, RemoteProtocolError
from .features import Agreement, Feature
from .flow import ReceiveCredit, SendCredit
from .frames import MAX_FRAME_BYTES, FrameDecoder, encode_frame
from .messages import (
    CLIENT_TYPES,
    PROTOCOL_VERSION,
    TYPES,
    Cancel,
    ClientHello,
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
    decode_message,
    encode_message,
    encode_output,
)
from .payload import FROM_SERVER, Caps
from .values import nearest


class Role(enum.Enum):
    """Which end of the connection this is."""

    CLIENT = "client"
    SERVER = "server"


class Signal(enum.Enum):
    """What `next_event` says when it has no message."""

    NEED_DATA = "need data"
    DROPPED = "dropped"
    CLOSED = "closed"


NEED_DATA: Final = Signal.NEED_DATA
DROPPED: Final = Signal.DROPPED
CLOSED: Final = Signal.CLOSED
Event: TypeAlias = Message | Signal


class State(enum.Enum):
    """Where a connection is in its life."""

    EXPECT_HELLO = "expect hello"
    OPEN = "open"
    FAILED = "failed"
    CLOSED = "closed"


#: What each role may send, in each state that allows anything. A server that refuses a client
#: sends an error with id 0 in place of its hello, and one when the client broke the protocol.
_MAY_SEND: dict[tuple[Role, State], tuple[type[Message], ...]] = {
    (Role.SERVER, State.EXPECT_HELLO): (Hello, Failure),
    (Role.SERVER, State.OPEN): (Reply, Failure, Output, Gap, Ping, Pong),
    (Role.SERVER, State.FAILED): (Failure,),  # the last word: what the client did wrong
    (Role.CLIENT, State.OPEN): (ClientHello, Request, Credit, Cancel, Ping, Pong),
}


class Connection:
    """One end of a connection.

    Args:
        role: which end.
        max_frame: the largest payload accepted, in bytes. What a client may send, its server's hello
            says; a server may send up to ``MAX_FRAME_BYTES``.
        caps: what may be in each of them.
    """

    def __init__(self, role: Role, *, max_frame: int = MAX_FRAME_BYTES, caps: Caps = FROM_SERVER) -> None:
        self.role = role
        self.state = State.EXPECT_HELLO
        self._peer = Role.CLIENT if role is Role.SERVER else Role.SERVER
        self._decoder = FrameDecoder(max_frame)
        self._caps = caps
        self._types = CLIENT_TYPES if role is Role.SERVER else TYPES
        self._max_send = MAX_FRAME_BYTES
        self._eof = False
        self._open: dict[int, SendCredit | ReceiveCredit] = {}
        self._agreement = Agreement()

    @property
    def features(self) -> frozenset[str]:
        """The features that both sides announced; none until the client's hello."""
        return self._agreement.features

    @property
    def open_requests(self) -> int:
        """How many requests still wait for their final message."""
        return len(self._open)

    def is_open(self, request_id: int) -> bool:
        """Whether this request still waits for its final message."""
        return request_id in self._open

    def credit(self, request_id: int) -> int:
        """Server: bytes of output that may be sent now for an open request; 0 if it has ended."""
        credit = self._open.get(request_id)
        return credit.available if isinstance(credit, SendCredit) else 0

    @property
    def announced_bytes(self) -> int:
        """The size of the payload that `next_event` decodes next; 0 if that is not known yet."""
        return self._decoder.announced

    @property
    def buffered_bytes(self) -> int:
        """Bytes received that no message has used up."""
        return self._decoder.buffered

    @property
    def _instead(self) -> Callable[[enum.Enum], enum.Enum] | None:
        return None if Feature.OPEN_VALUES in self.features else nearest

    def plain(self, record: object) -> dict[str, Any]:
        """A record as plain data for a message, in values that the peer knows."""
        return codec.to_map(record, self._instead)

    def receive_data(self, data: bytes | bytearray) -> None:
        """Take bytes from the peer; ``b""`` says that it has closed."""
        if not data:
            self._eof = True
        elif self.state in (State.EXPECT_HELLO, State.OPEN):  # later bytes are dropped, not kept
            self._decoder.receive_data(data)

    def next_event(self) -> Event:
        """Return the next message, NEED_DATA, or CLOSED after the peer's orderly end.

        DROPPED says that a message came which counts no more: ask again. A peer may send such messages by
        the hundred thousand, so each call takes one message at most, and its caller can let others go on.

        After an error of id 0 nothing more counts: its receiver is told CLOSED, its sender NEED_DATA
        until the peer has closed too, so that it can read on and the error is not lost in a reset.

        Raises:
            RemoteProtocolError: the peer broke the protocol, or was cut off within a frame.
        """
        if self.state is State.FAILED:
            raise RemoteProtocolError("the connection has already failed")
        try:
            if self.state is not State.CLOSED and (payload := self._decoder.next_frame()) is not None:
                message = decode_message(payload, self._caps, self._types)
                counts = self._receive(message)
                if self.role is Role.SERVER:
                    self._agreement.close()
                return message if counts else DROPPED
            if not self._eof:
                return NEED_DATA
            if self.state is not State.CLOSED and self._decoder.buffered:
                raise RemoteProtocolError("the connection was cut in the middle of a frame")
        except RemoteProtocolError:
            self._finish(State.FAILED)
            raise
        self._finish(State.CLOSED)
        return CLOSED

    def send(self, message: Message) -> bytes:
        """Return the bytes that carry a message, and account for it.

        Raises:
            LocalProtocolError: this message may not be sent now.
        """
        if not self._may_send(message, self.role):
            raise LocalProtocolError(
                f"a {self.role.value} may not send {message.TYPE} now ({self.state.value})"
            )
        # Encoded before any accounting, because it may be refused.
        if isinstance(message, Output):
            frame = encode_output(message)
        else:
            frame = encode_frame(encode_message(message, self._instead), self._max_send)
        match message:
            case Hello():
                self.state = State.OPEN
                self._agreement.offer(message.features)
            case ClientHello():
                self._agreement.answer(message.features)
            case Request():
                self._begin(message, ReceiveCredit(message.credit), LocalProtocolError)
            case Output():
                credit = self._open.get(message.id)
                if not isinstance(credit, SendCredit):
                    raise LocalProtocolError(f"request {message.id} is not open")
                credit.spend(len(message.data))
            case Gap():
                if not isinstance(self._open.get(message.id), SendCredit):
                    raise LocalProtocolError(f"request {message.id} is not open")
            case Credit():
                window = self._open.get(message.id)
                if isinstance(window, ReceiveCredit):
                    window.grant(message.amount)
            case Reply() | Failure():
                self._end(message, LocalProtocolError)
        if self.role is Role.CLIENT:
            self._agreement.close()
        return frame

    def consumed(self, request_id: int, amount: int) -> bytes:
        """Client: the application took ``amount`` bytes of output; return credit to send, or b"".

        Raises:
            LocalProtocolError: that is more than came in for this request.
        """
        credit = self._open.get(request_id)
        if not isinstance(credit, ReceiveCredit):
            return b""
        grant = credit.consumed(amount)
        return self.send(Credit(request_id, grant)) if grant else b""

    def _receive(self, message: Message) -> bool:
        """Account for a message; False if it is one to drop."""
        if not self._may_send(message, self._peer):
            raise RemoteProtocolError(f"{message.TYPE} may not come from a {self._peer.value} now")
        match message:
            case Hello():
                if message.version != PROTOCOL_VERSION:
                    raise RemoteProtocolError(
                        f"the server speaks version {message.version}, this side {PROTOCOL_VERSION}"
                    )
                self._max_send = min(message.max_frame, MAX_FRAME_BYTES)
                self.state = State.OPEN
                self._agreement.offer(message.features)
            case ClientHello():
                self._agreement.answer(message.features)
            case Request():
                self._begin(message, SendCredit(message.credit), RemoteProtocolError)
            case Output():
                window = self._open.get(message.id)
                if not isinstance(window, ReceiveCredit):
                    raise RemoteProtocolError(f"output came for request {message.id}, which is not open")
                window.received(len(message.data))
            case Gap():
                if message.id not in self._open:
                    raise RemoteProtocolError(f"a gap came for request {message.id}, which is not open")
            case Reply() | Failure():
                self._end(message, RemoteProtocolError)
                self._eof = self._eof or message.id == 0  # whatever follows, this is the peer's end
            case Credit():
                credit = self._open.get(message.id)
                if not isinstance(credit, SendCredit):
                    return False
                credit.grant(message.amount)
            case Cancel():
                return message.id in self._open
            case _:
                pass
        return True

    def _may_send(self, message: Message, sender: Role) -> bool:
        if isinstance(message, ClientHello) and not self._agreement.is_open:
            return False
        return isinstance(message, _MAY_SEND.get((sender, self.state), ()))

    def _begin(
        self,
        request: Request,
        credit: SendCredit | ReceiveCredit,
        error: type[LocalProtocolError | RemoteProtocolError],
    ) -> None:
        if request.id == 0 or request.id in self._open:
            raise error(f"request id {request.id} is zero or in use")
        self._open[request.id] = credit

    def _end(self, message: Reply | Failure, error: type[LocalProtocolError | RemoteProtocolError]) -> None:
        if isinstance(message, Failure) and message.id == 0:
            self._finish(State.FAILED if self.state is State.FAILED else State.CLOSED)
        elif self._open.pop(message.id, None) is None:
            raise error(f"request {message.id} is not open")

    def _finish(self, state: State) -> None:
        self.state = state
        self._open.clear()
