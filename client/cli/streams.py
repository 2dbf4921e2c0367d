"""Owns our own stdout and stderr: whole writes, exact bytes, and a sentence where they cannot be written.

Theory of operation. Python's own streams keep what they cannot write and fail a second time at the
interpreter's end, past every handler; with a descriptor closed they are None. So `take_over` puts streams of
ours in their place, which keep nothing: each write reaches the kernel or fails at once. Every command prints
through them, whatever prints it, and so every command fails in one way: with an OutputError, which
`client.cli.run` turns into a sentence and an exit code.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .exits import OutputError, ReaderLeftError
from .render import text

_NAMES = {1: "stdout", 2: "stderr"}


class _Lines:
    """Whether what was written last ended within a line, so that what we say ourselves begins on its own."""

    def __init__(self) -> None:
        self._open = {1: False, 2: False}
        self._latest = 2

    def wrote(self, number: int, last: int) -> None:
        """Something was written, whose last byte was ``last``."""
        self._open[number] = last != ord("\n")
        self._latest = number

    def is_open(self) -> bool:
        """Whether stderr, or the file that it shares with stdout, ends within a line."""
        return self._open[self._latest if are_one() else 2]


_lines = _Lines()


def take_over() -> None:
    """Open what of 0, 1 and 2 is closed, and put streams of ours in the place of Python's."""
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    fill_closed()
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # of a descriptor, for as long as we live
    sys.stdout = _Stdout(1, encoding)
    sys.stderr = _Stderr(2, encoding)


def fill_closed() -> None:
    """Open what of 0, 1 and 2 is closed, so that writing there fails.

    Otherwise the connection to the server would take the free number, and a job's output go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            try:
                os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number: this one
            except OSError:  # a root directory without devices
                os.open("/", os.O_RDONLY)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Put what is printed meanwhile into one write: a reader who leaves after a line is none that left us."""
    before, sys.stdout = sys.stdout, _Whole(1, sys.stdout.encoding)
    try:
        yield
    finally:
        whole, sys.stdout = sys.stdout, before
        whole.end()


def are_one() -> bool:
    """Whether stdout and stderr go to one file, pipe or terminal, where their order shows.

    Not so for /dev/null, and for what was closed: there is nothing to see of an order.
    """
    out, err = os.fstat(1), os.fstat(2)
    try:
        if os.path.samestat(out, Path(os.devnull).stat()):
            return False
    except OSError:  # a root directory without devices
        return False
    return os.path.samestat(out, err)


def write(number: int, data: bytes | memoryview) -> None:
    """Write all of some bytes to stdout (1) or stderr (2).

    Raises:
        ReaderLeftError: its reader has gone.
        OutputError: it cannot be written to.
    """
    rest = memoryview(data)
    if rest:
        _lines.wrote(number, rest[-1])
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:  # another process made the pipe or terminal that we share non-blocking
            import select

            select.select([], [number], [])
        except BrokenPipeError as error:
            raise ReaderLeftError(f"nobody reads {_NAMES[number]} any more.") from error
        except OSError as error:
            reason = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise OutputError(f"cannot write to {_NAMES[number]}: {reason}.") from error


def put(words: str) -> None:
    """Write text to stdout; what its encoding lacks is escaped."""
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    write(1, words.encode(encoding, "backslashreplace"))


def complain(sentence: str) -> None:
    """Say on stderr what is wrong, on a line of its own that is safe on a terminal."""
    begin = "\n" * _lines.is_open()
    with contextlib.suppress(OutputError):
        write(2, f"{begin}worker-service: {text(sentence)}\n".encode("utf-8", "backslashreplace"))


class _Stdout(io.TextIOBase):
    """Text to a descriptor; what its encoding lacks is escaped."""

    def __init__(self, number: int, encoding: str) -> None:
        self._number = number
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # which may be set there
        return self._encoding

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, words: str, /) -> int:
        write(self._number, words.encode(self._encoding, "backslashreplace"))
        return len(words)


class _Whole(_Stdout):
    """The same, all of it at its end."""

    def __init__(self, number: int, encoding: str) -> None:
        super().__init__(number, encoding)
        self._words: list[str] = []

    def write(self, words: str, /) -> int:
        self._words.append(words)
        return len(words)

    def end(self) -> None:
        super().write("".join(self._words))


class _Stderr(_Stdout):
    """The same for complaints: where they cannot be written, nobody can be told, and what we do goes on."""

    def write(self, words: str, /) -> int:
        with contextlib.suppress(OutputError):
            super().write(words)
        return len(words)
