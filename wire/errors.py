"""Owns what can go wrong on the wire: error codes, how a client treats each, and the exception tree."""

import enum
from typing import Any, Final


class ErrorCode(enum.StrEnum):
    """Every code that we know; a newer server may have others, which stay text."""

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


class Category(enum.StrEnum):
    """How a client treats an error, whatever its code."""

    #: The same request may succeed later.
    RETRY = "retry"
    #: The request must be another one.
    CORRECT = "correct"
    #: This certificate may not.
    FORBIDDEN = "forbidden"


#: Not of `cancelled`, which was asked for, and `internal`: what to do about that, the server's log says.
CATEGORIES: Final = {
    ErrorCode.BAD_REQUEST: Category.CORRECT,
    ErrorCode.UNKNOWN_METHOD: Category.CORRECT,
    ErrorCode.DENIED: Category.FORBIDDEN,
    ErrorCode.REVOKED: Category.FORBIDDEN,
    ErrorCode.EXPIRED: Category.FORBIDDEN,
    ErrorCode.NOT_FOUND: Category.CORRECT,
    ErrorCode.AMBIGUOUS: Category.CORRECT,
    ErrorCode.NO_SUCH_PROGRAM: Category.CORRECT,
    ErrorCode.NOT_EXECUTABLE: Category.CORRECT,
    ErrorCode.BAD_DIRECTORY: Category.CORRECT,
    ErrorCode.BAD_USER: Category.CORRECT,
    ErrorCode.START_FAILED: Category.RETRY,
    ErrorCode.LIMIT_REFUSED: Category.CORRECT,
    ErrorCode.RUNNING: Category.CORRECT,
    ErrorCode.STALLED: Category.RETRY,
    ErrorCode.BUSY: Category.RETRY,
    ErrorCode.AUDIT_UNAVAILABLE: Category.RETRY,
    ErrorCode.SHUTTING_DOWN: Category.RETRY,
    ErrorCode.PROTOCOL: Category.CORRECT,
}
#: The codes that came later than the first version 1, and the nearest of the first ones.
NEAREST_CODES: Final[dict[ErrorCode, ErrorCode]] = {}
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
        category: how to treat it, as the server says; it does for a code that came later.
    """

    def __init__(
        self,
        code: ErrorCode | str,
        message: str,
        offset: int | None = None,
        *,
        field: str | None = None,
        limit: str | None = None,
        retry_after: float | None = None,
        category: Category | str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset
        self.field = field
        self.limit = limit
        self.retry_after = retry_after
        #: How to treat it; None where that is not known.
        self.category = CATEGORIES.get(code, category) if isinstance(code, ErrorCode) else category

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message), self.__dict__

    def __repr__(self) -> str:
        return f"RequestError({str(self.code)!r}, {self.message!r})"
