"""Owns the command line's exit codes (README, "Exit codes") and what errors become of them."""

import enum

from certs.errors import ArgumentsError, CertsError
from wire.errors import (
    Category,
    ErrorCode,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    RequestError,
)
from wire.jobs import JobStatus
from wire.limits import LimitError

from ..errors import AddressError, ClientError, TlsError


class Exit(enum.IntEnum):
    """Exit codes of every command but `run` and `wait`, which pass on the job's."""

    OK = 0
    #: The server would not do it, or our own output could not be written.
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    CONNECTION = 5
    TLS = 6
    SERVER = 7
    #: `run` and `wait`: our own failure, as in `docker run` and `env`.
    OURS = 125
    NOT_EXECUTABLE = 126
    NO_SUCH_PROGRAM = 127
    #: A command ended by signal n gives 128 + n, as a shell does.
    SIGNAL = 128


_OF_CODE = {
    ErrorCode.BAD_REQUEST: Exit.USAGE,
    ErrorCode.NOT_FOUND: Exit.NOT_FOUND,
    ErrorCode.AMBIGUOUS: Exit.NOT_FOUND,
    ErrorCode.DENIED: Exit.DENIED,
    ErrorCode.REVOKED: Exit.TLS,
    ErrorCode.EXPIRED: Exit.TLS,
    ErrorCode.NO_SUCH_PROGRAM: Exit.NO_SUCH_PROGRAM,
    ErrorCode.NOT_EXECUTABLE: Exit.NOT_EXECUTABLE,
    ErrorCode.BAD_DIRECTORY: Exit.FAILED,
    ErrorCode.BAD_USER: Exit.FAILED,
    ErrorCode.START_FAILED: Exit.FAILED,
    ErrorCode.LIMIT_REFUSED: Exit.FAILED,
    ErrorCode.RUNNING: Exit.FAILED,
    ErrorCode.BUSY: Exit.FAILED,
    ErrorCode.STALLED: Exit.CONNECTION,
    ErrorCode.AUDIT_UNAVAILABLE: Exit.FAILED,
}


class UsageError(Exception):
    """The command line makes no sense; the message is one sentence for people."""


class OutputError(OSError):
    """Our own stdout or stderr cannot be written to; the message is one sentence for people."""


class ReaderLeftError(OutputError):
    """The reader of our stdout or stderr has gone, as in `| head`.

    No BrokenPipeError: libraries that print for us end the program in their own way for one.
    """


#: What `main` turns into one sentence on stderr; anything else is a bug of ours.
EXPECTED = (UsageError, OutputError, LimitError, CertsError, ClientError, ProtocolError, RequestError)


def exit_code(error: Exception) -> Exit:
    """The exit code for an error of EXPECTED."""
    match error:
        case RequestError():
            if isinstance(error.code, ErrorCode):
                return _OF_CODE.get(error.code, Exit.SERVER)
            # A newer server's code, which we know by its category at most.
            return Exit.DENIED if error.category == Category.FORBIDDEN else Exit.FAILED
        case UsageError() | LimitError() | AddressError() | ArgumentsError() | LocalProtocolError():
            return Exit.USAGE
        case OutputError():
            return Exit.FAILED
        case CertsError() | TlsError():
            return Exit.TLS
        case ClientError():
            return Exit.CONNECTION
        case _:
            return Exit.SERVER


def sentence(error: Exception) -> str:
    """What is said of an error of EXPECTED; those of the protocol are in its own terms, not in people's."""
    what = str(error).rstrip(".")
    match error:
        case RemoteProtocolError():
            return (
                f"what answers does not keep to our protocol ({what}): check that --server names a "
                "worker-service, and that its version goes with this one."
            )
        case LocalProtocolError():
            what = what.partition(": 'utf-8'")[0]
            return f"the request cannot be sent ({what}): it is too long for the server, or no text in UTF-8."
        case _:
            return str(error)


def of_job(job: JobStatus) -> int:
    """The exit code that passes on how a job ended."""
    if job.signal is not None:
        return Exit.SIGNAL + job.signal
    return Exit.OURS if job.exit_code is None else job.exit_code


def as_ours(error: Exception) -> int:
    """The exit code of `run` and `wait` for an error: the job's program at fault, or us."""
    code = exit_code(error)
    return code if code in (Exit.USAGE, Exit.NOT_EXECUTABLE, Exit.NO_SUCH_PROGRAM) else Exit.OURS
