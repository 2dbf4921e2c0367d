"""Owns our own stdout and stderr: whole writes, exact bytes, and a sentence where they cannot be written."""

import contextlib
import os
import sys

from .exits import OutputError
from .render import text

_NAMES = {1: "stdout", 2: "stderr"}


def fill_closed() -> None:
    """Open what of 0, 1 and 2 is closed, so that writing there fails.

    Otherwise the connection to the server would take the free number, and a job's output go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number: this one


def write(number: int, data: bytes | memoryview) -> None:
    """Write all of some bytes to stdout (1) or stderr (2).

    Raises:
        BrokenPipeError: its reader has gone.
        OutputError: it cannot be written to.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:  # another process made the pipe or terminal that we share non-blocking
            import select

            select.select([], [number], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write to {_NAMES[number]}: {error.strerror}.") from error


def put(words: str) -> None:
    """Write text to stdout; what its encoding lacks is escaped."""
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    write(1, words.encode(encoding, "backslashreplace"))


def complain(sentence: str) -> None:
    """Say on stderr what is wrong, on one line that is safe on a terminal."""
    with contextlib.suppress(OSError, OutputError):
        write(2, f"worker-service: {text(sentence)}\n".encode("utf-8", "backslashreplace"))
