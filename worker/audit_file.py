"""Owns the audit log's file: a regular one, a FIFO, or the server's stderr, which may be anything.

A line is never larger than PIPE_BUF, so a pipe takes each whole or not at all (pipe(7)). A full disk may take
half a line: the rest follows it later, or, in another file, the whole line.
"""

import errno
import os
import select
import stat

from .log import Log

#: What names the server's own stderr in place of a file.
STDERR = "stderr"
#: The largest line, its newline included.
LINE_BYTES = select.PIPE_BUF
#: The longest that a write waits for a reader, and the pause before the next try, in seconds.
RETRY_SECONDS = 0.1


class AuditFile:
    """It is for one thread.

    Args:
        name: a file's path, or ``stderr``. A file is made with mode 0600 if it is missing.
        log: the server's log.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._torn = False  # the file ends within a line
        self._fd: int | None = None
        if name == STDERR:
            self._fd = 2
            return
        try:
            self._open()
        except OSError as error:
            if error.errno != errno.ENXIO:  # a FIFO that nobody reads yet: somebody may
                raise

    def write(self, data: bytes, begin: int) -> int:
        """Write what the file takes now of some lines from a byte on, and return how much that was.

        Raises:
            OSError: it takes nothing.
        """
        if self._fd is None:
            self._open()
        assert self._fd is not None  # noqa: S101  # what _open has just seen to
        if self._torn:
            os.write(self._fd, b"\n")
            self._torn = False
        if self._is_regular():
            return os.write(self._fd, data[begin:])
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(RETRY_SECONDS * 1000):
            raise BlockingIOError(errno.EAGAIN, "it is not read")
        return os.write(self._fd, data[begin : data.rfind(b"\n", begin, begin + LINE_BYTES) + 1])

    def open_again(self) -> bool:
        """Open the file by its name again; say whether it was, and tell the log if that fails."""
        if self._name == STDERR:
            return False
        try:
            self._open()
        except OSError as error:
            self._log.error(
                "the audit log was not opened again; the old file stays in use",
                sink=self._name,
                reason=error.strerror,
            )
            return False
        return True

    def was_deleted(self) -> bool:
        """Give up a file that has no name left: what is written to it would be lost without a word."""
        if self._fd is None or self._name == STDERR:
            return False
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink:
            return False
        self._log.warning("the audit log's file was deleted; it is made again", sink=self._name)
        self.shut()
        return True

    def shut(self) -> None:
        """Close it; the next write opens it again."""
        fd, self._fd = self._fd, None  # whatever close(2) says, it is ours no longer
        if fd is None or self._name == STDERR:
            return
        try:
            os.close(fd)
        except OSError as error:  # of a network's file system, on which earlier writes have failed
            self._log.error("the audit log may lack its last lines", sink=self._name, reason=error.strerror)

    def _open(self) -> None:
        # Without O_NONBLOCK, opening a FIFO would wait for its reader, and writing to it too.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        fd = os.open(self._name, flags, 0o600)
        self.shut()
        self._fd = fd
        self._torn = self._is_regular() and _ends_within_a_line(fd)

    def _is_regular(self) -> bool:
        return self._fd is not None and stat.S_ISREG(os.fstat(self._fd).st_mode)


def _ends_within_a_line(fd: int) -> bool:
    """Whether a server before us left half a line, which the next one must not be joined to."""
    size = os.fstat(fd).st_size
    if size == 0:
        return False
    try:
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # we may write to it alone
        return False
    try:
        return os.pread(reading, 1, size - 1) != b"\n"
    finally:
        os.close(reading)
