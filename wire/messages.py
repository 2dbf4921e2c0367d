"""Owns the message types of worker.v1 and their place on the wire (PROTOCOL.md, "Messages")."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from . import codec
from .errors import ErrorCode, LocalProtocolError, RemoteProtocolError

PROTOCOL_VERSION = 1
#: ``stream`` of an output message: the numbers of the file descriptors, as everywhere on Unix.
STDOUT, STDERR = 1, 2


@dataclass(frozen=True, slots=True)
class Hello:
    """Server's first message: the certificate was accepted, and this is who you are to me."""

    TYPE: ClassVar[str] = "hello"
    version: int
    server: str
    identity: str
    role: str
    max_frame: int
    max_requests: int


@dataclass(frozen=True, slots=True)
class Request:
    """Client asks for ``method``; ``credit`` is how many bytes of output may come back at first."""

    TYPE: ClassVar[str] = "request"
    id: int
    method: str
    params: dict = field(default_factory=dict)  # type: ignore[type-arg]  # the codec reads this hint
    credit: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The final message of a request that succeeded."""

    TYPE: ClassVar[str] = "reply"
    id: int
    result: dict = field(default_factory=dict)  # type: ignore[type-arg]  # the codec reads this hint


@dataclass(frozen=True, slots=True)
class Failure:
    """The final message of a request that failed; with id 0, of the whole connection."""

    TYPE: ClassVar[str] = "error"
    id: int
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a job's output: ``data`` begins at byte ``offset`` of the job's log."""

    TYPE: ClassVar[str] = "output"
    id: int
    offset: int
    stream: int
    data: bytes


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


Message: TypeAlias = Hello | Request | Reply | Failure | Output | Credit | Cancel | Ping | Pong
TYPES: dict[str, type[Message]] = {
    cls.TYPE: cls for cls in (Hello, Request, Reply, Failure, Output, Credit, Cancel, Ping, Pong)
}


def encode_message(message: Message) -> bytes:
    """Return the msgpack payload of a message (without its frame header).

    Raises:
        LocalProtocolError: a field does not fit, so that the peer would end the connection over it.
    """
    if type(message) is Output:  # the one that carries gigabytes: no walk over its fields
        plain: dict[str, Any] = {
            "id": message.id,
            "offset": message.offset,
            "stream": message.stream,
            "data": message.data,
        }
    else:
        plain = codec.to_map(message)
    try:
        _build(type(message), plain)
    except codec.InvalidValueError as error:
        raise LocalProtocolError(f"{message.TYPE}: {error}") from None
    return codec.pack({"type": message.TYPE, **plain})


def decode_message(payload: bytes) -> Message:
    """Build the message that a payload holds.

    Raises:
        RemoteProtocolError: not msgpack, not a known type, or a field is missing or does not fit.
    """
    plain = codec.unpack(payload)
    tag = plain.get("type")
    cls = TYPES.get(tag) if isinstance(tag, str) else None
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
    return message
