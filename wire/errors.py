"""Owns what can go wrong on the wire: the closed set of error codes and the exception tree."""

import enum
from typing import Any, Final


class ErrorCode(enum.StrEnum):
    """Every code that an ``error`` message may carry; the set is closed for protocol version 1."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_METHOD = "unknown_method"
    DENIED = "denied"
    REVOKED = "revoked"
    EXPIRED = "expired"
    NOT_FOUND = "not_found"
    AMBIGUOUS = "ambiguous"
    NO_SUCH_PROGRAM = "no_such_program"
    NOT_EXECUTABLE = "not_executable"
    BAD_DIRECTORY = "bad_directory"
    BAD_USER = "bad_user"
    START_FAILED = "start_failed"
    LIMIT_REFUSED = "limit_refused"
    RUNNING = "running"
    STALLED = "stalled"
    BUSY = "busy"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    CANCELLED = "cancelled"
    SHUTTING_DOWN = "shutting_down"
    PROTOCOL = "protocol"
    INTERNAL = "internal"


#: What a server suggests, in seconds, to a client that it has no room for, if it knows no better.
RETRY_SECONDS: Final = {ErrorCode.BUSY: 1.0, ErrorCode.AUDIT_UNAVAILABLE: 1.0}


class WorkerServiceError(Exception):
    """Base of everything that the clients raise for what went wrong; `client.errors` has it too."""


class WireError(WorkerServiceError):
    """Base of everything this package raises."""


class ProtocolError(WireError):
    """The two ends disagree about the protocol; the connection cannot go on."""


class LocalProtocolError(ProtocolError):
    """Our own side tried to do what the protocol forbids: a bug in the caller."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids."""


class RequestError(WireError):
    """One request failed; the connection goes on.

    Args:
        code: what kind of failure, for programs.
        message: one sentence for people that says what to do next.
        offset: where a stream that was given up goes on.
        field: the parameter that does not fit, with the records around it: ``limits.cpu``.
        limit: the limit that cannot be enforced, by its name in the record of limits.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        offset: int | None = None,
        *,
        field: str | None = None,
        limit: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset
        self.field = field
        self.limit = limit
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message), self.__dict__

    def __repr__(self) -> str:
        return f"RequestError({self.code.value!r}, {self.message!r})"
