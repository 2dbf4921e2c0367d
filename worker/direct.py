"""Owns I/O past the page cache (open(2), O_DIRECT): aligned buffers, and a second way to an open file.

Output that spills is written once and seldom read, a lot at a time. Past the page cache the disk takes it
from our buffer, so that it costs neither a copy nor memory that others could use; where memory is dear to
touch, as in a virtual machine whose host takes back what is free, that is most of what spilling costs.
"""

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator, Sequence

#: What positions, lengths and buffers are multiples of; the block of any disk divides it.
ALIGN = 4096
#: The most bytes of one transfer.
BUFFER_BYTES = 8 * 1024 * 1024
#: Buffers that nobody uses. There are as many as there were transfers at the same time.
_spare: list[mmap.mmap] = []


def aligned(position: int) -> int:
    """The next position that is a multiple of ALIGN."""
    return -(-position // ALIGN) * ALIGN


class DirectFile:
    """A second way to an open file.

    Args:
        fd: the file, open for reading and writing.

    Raises:
        OSError: its file system has no such way (EINVAL), or there are no descriptors left.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)

    def write(self, parts: Sequence[bytes | bytearray], position: int) -> None:
        """Write parts one behind the other, and zeros up to the next multiple of ALIGN.

        Args:
            parts: at most BUFFER_BYTES together.
            position: a multiple of ALIGN.

        Raises:
            OSError: not all of it could be written.
        """
        with _buffer() as view:
            end = 0
            for part in parts:
                view[end : end + len(part)] = part
                end += len(part)
            whole = aligned(end)
            view[end:whole] = bytes(whole - end)
            written = 0
            while written < whole:
                more = os.pwrite(self._fd, view[written:whole], position + written)
                if more % ALIGN:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # no more went there
                written += more

    def read(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read what lies at some positions, in one transfer.

        Args:
            spans: position and length of each, in order; from the first to the last are at most
                BUFFER_BYTES, less ALIGN.

        Raises:
            OSError: the disk fails, or the file is shorter.
        """
        base = spans[0][0] // ALIGN * ALIGN
        end = sum(spans[-1]) - base
        with _buffer() as view:
            got = 0
            while got < end:
                more = os.preadv(self._fd, [view[got : aligned(end)]], base + got)
                if more == 0 or (more % ALIGN and got + more < end):
                    raise OSError(errno.EIO, "the file is shorter than what was written to it")
                got += more
            return [bytes(view[position - base : position - base + length]) for position, length in spans]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


@contextlib.contextmanager
def _buffer() -> Iterator[memoryview]:
    try:
        buffer = _spare.pop()
    except IndexError:
        buffer = mmap.mmap(-1, BUFFER_BYTES)
    try:
        with memoryview(buffer) as view:
            yield view
    finally:
        _spare.append(buffer)
