"""Owns what a client's caller may have to handle: one tree of errors, importable from here as a whole.

    WorkerServiceError                  everything below
    ├── ClientError                     the server could not be reached or talked to
    │   ├── AddressError                its address is not one
    │   ├── CertificatesError           our certificates are missing or unusable (a ContextError)
    │   ├── ConnectError                nobody answers there
    │   ├── TlsError                    TLS was refused, by the server or by us
    │   └── CutError                    the connection ended before the answer was complete
    │       └── UncertainStartError     a start's, whose job may have run: `job_id` says which
    ├── GapError                        some output cannot be had any more: `gap` says which
    ├── InUseError                      another thread uses this blocking client; a RuntimeError too
    ├── RequestError                    the server refused: `code` says why, for programs
    └── ProtocolError                   the two ends disagree about the protocol
        ├── RemoteProtocolError         the server makes no sense
        └── LocalProtocolError          a request cannot be said in it: it is too large

All of them can be pickled. An argument of a wrong type or form is Python's own TypeError or ValueError.
"""

from typing import Any

from certs.errors import ContextError
from wire.errors import (
    ErrorCode,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    RequestError,
    WorkerServiceError,
)
from wire.messages import Gap

__all__ = [
    "AddressError",
    "CertificatesError",
    "ClientError",
    "ConnectError",
    "CutError",
    "ErrorCode",
    "GapError",
    "InUseError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestError",
    "TlsError",
    "UncertainStartError",
    "WorkerServiceError",
]


class ClientError(WorkerServiceError):
    """The server could not be reached or talked to; the message is one sentence for people."""


class AddressError(ClientError):
    """The server's address is not one."""


class CertificatesError(ClientError, ContextError):
    """Our certificates are missing, or cannot be used."""


class ConnectError(ClientError):
    """Nobody answers at the server's address."""


class TlsError(ClientError):
    """The TLS connection was refused, by the server or by us.

    Args:
        message: one sentence for people.
        cut: nobody said that they refuse; the connection ended before it was open.
    """

    def __init__(self, message: str, *, cut: bool = False) -> None:
        super().__init__(message)
        self.cut = cut


class CutError(ClientError):
    """The connection ended before the answer was complete; what became of the request is unknown."""


class UncertainStartError(CutError):
    """A start was cut off, and it could not be found out whether its job was started.

    Args:
        message: one sentence for people.
        job_id: the id that the job has if it was; `query` and `start` take it.
        restarted: the server was restarted since: the job may have run, and is gone.
    """

    def __init__(self, message: str, *, job_id: str | None = None, restarted: bool = False) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.restarted = restarted


class GapError(WorkerServiceError):
    """Some of a job's output cannot be had. The stream goes on behind it when it is iterated again.

    Args:
        gap: which bytes, and why.

    Attributes:
        offset: the byte behind them, at which it goes on.
    """

    def __init__(self, gap: Gap) -> None:
        self.gap = gap
        self.offset = gap.offset + gap.size
        super().__init__(
            f"{gap.size} bytes of output, from byte {gap.offset} on, cannot be had ({gap.reason}): "
            f"iterate again to go on at byte {self.offset}, or ask for gaps='yield'."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.gap,), self.__dict__


class InUseError(WorkerServiceError, RuntimeError):
    """Another thread is using this blocking client, which goes on undisturbed."""
