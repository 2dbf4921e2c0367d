"""Owns what is said of a host that lacks something without which a server cannot go on."""

import errno
import os
import signal
import traceback
from pathlib import Path

from .threads import NoThreadError


def check_pidfds() -> None:
    """Refuse a host on which no job could be sent a signal: an old kernel, or a filter of system calls.

    Raises:
        OSError: it lacks what pins a process, pidfd_open(2).
    """
    try:
        pinned = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(pinned, 0)
        finally:
            os.close(pinned)
    except OSError as error:
        remedy = f"{error.strerror}; use Linux 5.3 or newer, and allow it in a filter of system calls"
        raise OSError(error.errno, remedy, "pidfd_open(2), without which no job can be stopped") from error


def only(error: Exception) -> Exception:
    """The one exception in groups of one, as nurseries make them."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def lack_of(error: Exception) -> str | None:
    """What this host lacks, in a sentence; None for an error that does not come of that."""
    if isinstance(error, NoThreadError):
        return "the server may not start a thread: raise the limit (TasksMax=, ulimit -u)."
    match error:
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return "the server may not open enough files: raise the limit (LimitNOFILE=, ulimit -n)."
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            return f"this host refuses what the server needs ({place}{error.strerror or error})."
        case MemoryError():
            return "there is not enough memory: raise the limit (MemoryMax=, ulimit -v)."
        case _:
            return None


def place_of(error: Exception) -> str:
    """Where an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
