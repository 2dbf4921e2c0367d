"""Owns the message types of worker.v1 and their place on the wire (PROTOCOL.md, "Messages")."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeAlias

from . import codec
from .errors import (
    NEAREST_CODES,
    RETRY_SECONDS,
    Category,
    ErrorCode,
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
)
from .frames import frame_of
from .payload import FROM_SERVER, Caps, pack, unpack

PROTOCOL_VERSION = 1
#: ``stream`` of an output message: the numbers of the file descriptors, as everywhere on Unix.
STDOUT, STDERR = 1, 2


class GapReason(enum.StrEnum):
    """Why bytes of a log are gone."""

    DROPPED = "dropped"
    UNREADABLE = "unreadable"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Hello:
    """Server's first message: the certificate was accepted, and this is who you are to me.

    ``time`` is the server's Unix time, in seconds, which is that of its jobs; servers before it say none.
    ``features`` are those that the server knows, ``methods`` those that this client may call; ``instance``
    is another one after each start of the server. Servers before them say none.
    """

    TYPE: ClassVar[str] = "hello"
    version: int
    server: str
    identity: str
    role: str
    max_frame: int
    max_requests: int
    time: float | None = None
    features: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    instance: str | None = None


@dataclass(frozen=True, slots=True)
class ClientHello:
    """Client's answer to a hello that has ``features``: those that the client knows."""

    TYPE: ClassVar[str] = "hello"
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """Client asks for ``method``; ``credit`` is how many bytes of output may come back at first.

    ``unknown`` names a field of the message that there is none of, for which the request is to be refused.
    """

    TYPE: ClassVar[str] = "request"
    id: int
    method: str
    params: dict = field(default_factory=dict)  # type: ignore[type-arg]  # the codec reads this hint
    credit: int = 0
    unknown: str | None = field(default=None, metadata=codec.NOT_SENT)


@dataclass(frozen=True, slots=True)
class Reply:
    """The final message of a request that succeeded."""

    TYPE: ClassVar[str] = "reply"
    id: int
    result: dict = field(default_factory=dict)  # type: ignore[type-arg]  # the codec reads this hint


@dataclass(frozen=True, slots=True)
class Failure:
    """The final message of a request that failed; with id 0, of the whole connection.

    Its optional fields are those of a RequestError.
    """

    TYPE: ClassVar[str] = "error"
    id: int
    code: ErrorCode | str
    message: str
    offset: int | None = None
    field: str | None = None
    limit: str | None = None
    retry_after: float | None = None
    category: Category | str | None = None

    @classmethod
    def of(cls, request_id: int, error: RequestError) -> Self:
        """The message that tells an error."""
        known = error.code if isinstance(error.code, ErrorCode) else None
        return cls(
            request_id,
            error.code,
            error.message,
            error.offset,
            error.field,
            error.limit,
            error.retry_after if known is None or error.retry_after is not None else RETRY_SECONDS.get(known),
            error.category if known is None or known in NEAREST_CODES else None,
        )

    def error(self) -> RequestError:
        """The error that the message tells."""
        return RequestError(
            self.code,
            self.message,
            self.offset,
            field=self.field,
            limit=self.limit,
            retry_after=self.retry_after,
            category=self.category,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a job's output: ``data`` begins at byte ``offset`` of the job's log."""

    TYPE: ClassVar[str] = "output"
    id: int
    offset: int
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Output that cannot be had any more: ``size`` bytes of a job's log from byte ``offset`` on."""

    TYPE: ClassVar[str] = "gap"
    id: int
    offset: int
    size: int
    reason: GapReason | str

    @property
    def stream(self) -> int:
        """Of no stream: what is lost may be of both."""
        return 0

    @property
    def data(self) -> bytes:
        """Nothing, for those who only look at data."""
        return b""


@dataclass(frozen=True, slots=True)
class Credit:
    """Client lets the server send ``amount`` more bytes of output for a request."""

    TYPE: ClassVar[str] = "credit"
    id: int
    amount: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Client wants no more of a request; its final message still comes."""

    TYPE: ClassVar[str] = "cancel"
    id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Either side asks whether the other is there."""

    TYPE: ClassVar[str] = "ping"
    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, with its nonce."""

    TYPE: ClassVar[str] = "pong"
    nonce: int


Message: TypeAlias = (
    Hello | ClientHello | Request | Reply | Failure | Output | Gap | Credit | Cancel | Ping | Pong
)
TYPES: dict[str, type[Message]] = {
    cls.TYPE: cls for cls in (Hello, Request, Reply, Failure, Output, Gap, Credit, Cancel, Ping, Pong)
}
#: The same for what a client sends, whose hello is another.
CLIENT_TYPES: dict[str, type[Message]] = {**TYPES, ClientHello.TYPE: ClientHello}


def encode_message(message: Message, instead: Callable[[enum.Enum], enum.Enum] | None = None) -> bytes:
    """Return the msgpack payload of a message (without its frame header).

    Args:
        message: what to send.
        instead: as in `codec.to_map`.

    Raises:
        LocalProtocolError: a field does not fit, so that the peer would end the connection over it.
    """
    plain = codec.to_map(message, instead)
    try:
        _build(type(message), plain)
    except codec.InvalidValueError as error:
        raise LocalProtocolError(f"{message.TYPE}: {error}") from None
    return pack({"type": message.TYPE, **plain})


def encode_output(message: Output) -> bytes:
    """Return the whole frame of the one message that carries gigabytes, and copy its data only once.

    Raises:
        LocalProtocolError: as `encode_message`.
    """
    fields = {"id": message.id, "offset": message.offset, "stream": message.stream}
    try:
        _build(Output, {**fields, "data": message.data})
    except codec.InvalidValueError as error:
        raise LocalProtocolError(f"{message.TYPE}: {error}") from None
    # Its last field is written by hand: a map of five rather than four, the key, and bin 32.
    head = pack({"type": message.TYPE, **fields})
    size = len(message.data)
    parts = (b"\x85", head[1:], b"\xa4data", _bin_header(size), message.data)
    return frame_of(*parts)


def _bin_header(size: int) -> bytes:
    """How msgpack begins ``size`` bytes of binary, in the shortest form."""
    if size < 2**8:
        return b"\xc4" + size.to_bytes(1, "big")
    return b"\xc5" + size.to_bytes(2, "big") if size < 2**16 else b"\xc6" + size.to_bytes(4, "big")


def decode_message(
    payload: bytes, caps: Caps = FROM_SERVER, types: Mapping[str, type[Message]] = TYPES
) -> Message:
    """Build the message that a payload holds, if that is within the caps.

    Args:
        payload: a frame's.
        caps: what may be in it.
        types: the types that there are; those of a client are CLIENT_TYPES.

    Raises:
        RemoteProtocolError: not msgpack, not a known type, or a field is missing or does not fit.
    """
    plain = unpack(payload, caps)
    tag = plain.get("type")
    cls = types.get(tag) if isinstance(tag, str) else None
    if cls is None:
        raise RemoteProtocolError(f"unknown message type {tag!r:.60}")
    try:
        return _build(cls, plain)
    except codec.InvalidValueError as error:
        raise RemoteProtocolError(f"{cls.TYPE}: {error}") from None


def _build(cls: type[Message], plain: dict[str, Any]) -> Message:
    message: Message = codec.from_map(cls, plain)
    if isinstance(message, Output) and message.stream not in (STDOUT, STDERR):
        raise codec.InvalidValueError(f"stream: must be {STDOUT} or {STDERR}")
    if isinstance(message, Request):
        fields = {name: value for name, value in plain.items() if name != "type"}
        return replace(message, unknown=codec.unknown_field(Request, fields))
    return message
