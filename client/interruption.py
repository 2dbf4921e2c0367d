"""Owns the difference between what our own calls raise and what a caller's signal handler raised in them.

Theory of operation. Python runs a signal handler between any two steps of ours, so an exception of any class
may come out of any line: a TimeoutError that a caller's SIGALRM raises is no time-out of ours, and an OSError
no cut. Its traceback tells them apart. What a system call or a library of ours raises has no frame in it but
ours and theirs; what a handler raises has the handler's.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from .errors import WorkerServiceError

T = TypeVar("T")

#: Whose code runs when the blocking client does, by the first part of the module's name.
_OURS: Final = frozenset(
    (
        *("client", "wire", "certs"),
        *("codecs", "contextlib", "dataclasses", "encodings", "enum", "functools", "genericpath", "os"),
        *("pathlib", "posixpath", "select", "socket", "ssl", "stringprep"),
        *("h11", "msgpack", "wsproto"),
    )
)


def attempt(call: Callable[..., T], *args: object) -> T | OSError:
    """Make a system call and return its result, or its OSError; what a signal handler raises comes out."""
    try:
        return call(*args)
    except OSError as error:
        if _is_foreign(error):
            raise
        return error


def interruption(error: WorkerServiceError, before: BaseException | None) -> BaseException | None:
    """Find what a signal handler raised and was taken for a failure of ours.

    Args:
        error: what was made of the failure.
        before: the exception that its caller was handling: sys.exc_info()[1] when the call began.

    Returns:
        The handler's exception; None if `error` has another reason.
    """
    found: BaseException | None = error
    while found is not None and found is not before:
        if not isinstance(found, WorkerServiceError) and _is_foreign(found):
            return found
        found = found.__cause__ or found.__context__
    return None


def _is_foreign(error: BaseException) -> bool:
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _OURS:
            return True
        at = at.tb_next
    return False
