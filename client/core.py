"""Owns the client's side of a connection, sans-IO: what both clients do alike.

Bytes go in through `receive`, which gives the events for the requests under way; bytes to send are
collected in `data_to_send`. Pings are answered here.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from wire import codec
from wire.connection import Connection, Role, Signal, State
from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.features import FEATURES
from wire.flow import DEFAULT_WINDOW
from wire.jobs import (
    JobParams,
    JobReply,
    JobStatus,
    ListParams,
    ListReply,
    StartParams,
    StopParams,
    StreamParams,
)
from wire.messages import Cancel, ClientHello, Failure, Gap, Hello, Output, Ping, Pong, Reply, Request

from .errors import CutError

#: The connection is asked whether it lives after this much silence, and given up after as much again; s.
PING_SECONDS = 20.0
#: The end of the year 9999, in Unix time: past it, no calendar of ours has a name for it.
LAST_SECOND = 253402300800.0

R = TypeVar("R")
Params = StartParams | StopParams | JobParams | StreamParams | ListParams
#: What a stream brings: output, or that some of it cannot be had.
Piece = Output | Gap


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a request: its result, or the server's reason for refusing it."""

    id: int
    result: dict[str, Any] | RequestError


class Core:
    """One connection's state, without the connection."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self._greeted = 0.0  # when that came, by our monotonic clock
        self._connection = Connection(Role.CLIENT)
        self._outbox = bytearray()
        self._last_id = 0

    @property
    def features(self) -> frozenset[str]:
        """The features in use: those that the server and this code know."""
        return self._connection.features

    def server_time(self) -> float | None:
        """What the server's clock says now, in Unix time; None if the server did not tell.

        It is behind by what the hello took on its way, so that an age which is taken from it is never short.
        """
        if self.hello is None or self.hello.time is None or not 0 <= self.hello.time < LAST_SECOND:
            return None
        return self.hello.time + time.monotonic() - self._greeted

    def begin(self, method: str, params: Params) -> int:
        """Ask for something; return the request's id. A stream gets its first credit.

        Raises:
            CutError: the connection has ended.
        """
        if self._connection.state not in (State.EXPECT_HELLO, State.OPEN):
            raise CutError("The connection to the server has ended: connect again.")
        self._last_id += 1
        credit = DEFAULT_WINDOW if method == "stream" else 0
        self._outbox += self._connection.send(Request(self._last_id, method, codec.to_map(params), credit))
        return self._last_id

    def cancel(self, request_id: int) -> None:
        """Want no more of a request; its answer still comes."""
        if self._connection.is_open(request_id):
            self._outbox += self._connection.send(Cancel(request_id))

    def consumed(self, output: Output) -> None:
        """Say that the caller has taken a piece of output, so that more may come."""
        self._outbox += self._connection.consumed(output.id, len(output.data))

    def ping(self) -> None:
        """Ask whether the server is there."""
        self._outbox += self._connection.send(Ping(0))

    def data_to_send(self) -> bytes:
        """Take what has to be sent now."""
        data, self._outbox = bytes(self._outbox), bytearray()
        return data

    def receive(self, data: bytes | bytearray) -> Iterator[Answer | Piece]:
        """Take bytes from the server (none means that it closed) and give what they bring.

        Raises:
            RequestError: the server refuses the whole connection.
            CutError: the server closed.
            RemoteProtocolError: the server broke the protocol.
        """
        self._connection.receive_data(data)
        while (event := self._connection.next_event()) is not Signal.NEED_DATA:
            match event:
                case Signal.CLOSED:
                    raise CutError("The server closed the connection.")
                case Hello():
                    self.hello, self._greeted = event, time.monotonic()
                    if event.features is not None:  # one that says none knows no hello of ours
                        self._outbox += self._connection.send(ClientHello(FEATURES))
                case Reply(id, result):
                    yield Answer(id, result)
                case Failure(0):
                    raise event.error()
                case Failure(id):
                    yield Answer(id, event.error())
                case Output() | Gap():
                    yield event
                case Ping(nonce):
                    self._outbox += self._connection.send(Pong(nonce))
                case _:
                    pass


def refused(event: Answer | Piece, code: ErrorCode) -> bool:
    """Whether that is an answer with this error."""
    return isinstance(event, Answer) and isinstance(event.result, RequestError) and event.result.code is code


def result_of(answer: Answer) -> dict[str, Any]:
    """Return an answer's result, or raise its RequestError."""
    if isinstance(answer.result, RequestError):
        raise answer.result
    return answer.result


def job_of(result: dict[str, Any]) -> JobStatus:
    """Read the job that a result carries.

    Raises:
        RemoteProtocolError: it carries none.
    """
    return _read(JobReply, result).job


def page_of(result: dict[str, Any]) -> ListReply:
    """Read one page of a list.

    Raises:
        RemoteProtocolError: it is none.
    """
    return _read(ListReply, result)


def _read(cls: type[R], result: dict[str, Any]) -> R:
    try:
        return codec.from_map(cls, result)
    except codec.InvalidValueError as error:
        raise RemoteProtocolError(f"a result makes no sense: {error}") from None
