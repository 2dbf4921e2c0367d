"""Owns the file that takes a job's oldest output: unlinked from the start, so that nothing of it persists.

Writing happens in a thread, many blocks at a time. Reading is tried without waiting first (preadv2(2),
RWF_NOWAIT), as what was written lately is in the page cache; only what must come from the disk goes to a
thread, so that a slow disk holds up its reader and not the server.
"""

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio

from .blocks import RUN_BYTES, Block

#: fallocate(2): give a range back to the file system, and keep the file's size.
_PUNCH_HOLE = 0x02 | 0x01
_libc = ctypes.CDLL(None, use_errno=True)


class SpillFile:
    """One log's file. It is closed once nobody uses it any more.

    Args:
        folder: where; the file has no name there.

    Raises:
        OSError: it cannot be made.
    """

    __slots__ = ("_closing", "_fd", "_users")

    def __init__(self, folder: Path) -> None:
        self._users = 0
        self._closing = False
        try:
            self._fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self._fd, name = tempfile.mkstemp(dir=folder)  # this file system has no O_TMPFILE
            Path(name).unlink()

    async def write(self, blocks: Sequence[Block], position: int) -> None:
        """Write blocks, each behind its tables, from a position on. They must not change meanwhile.

        Raises:
            OSError: not all of them could be written; what was, is given back.
        """
        with self._in_use():
            await trio.to_thread.run_sync(self._write, blocks, position)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._closing and not self._users:
                os.close(self._fd)

    def _write(self, blocks: Sequence[Block], position: int) -> None:
        buffers = [memoryview(part) for block in blocks for part in (block.tables(), block.data)]
        begin = position
        try:
            while buffers:
                written = os.pwritev(self._fd, buffers[:512], position)
                position += written
                while buffers and written >= len(buffers[0]):
                    written -= len(buffers[0])
                    buffers.pop(0)
                if written:
                    buffers[0] = buffers[0][written:]
        except OSError:
            self.punch(begin, position - begin)
            raise

    async def read(self, start: int, position: int, runs: int, length: int) -> Block:
        """Read a block back.

        Args:
            start: the block's offset in the log.
            position: where it was written.
            runs: how many runs it has.
            length: bytes of data in it.

        Raises:
            OSError: the disk fails.
        """
        await trio.lowlevel.checkpoint()
        whole = bytearray(RUN_BYTES * runs + length)
        with self._in_use():
            try:
                got = os.preadv(self._fd, [whole], position, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                    raise
                got = 0
            if got < len(whole):
                await trio.to_thread.run_sync(self._read_rest, whole, got, position)
        with memoryview(whole) as view:
            return Block.restore(start, whole[: RUN_BYTES * runs], bytes(view[RUN_BYTES * runs :]))

    def _read_rest(self, whole: bytearray, got: int, position: int) -> None:
        with memoryview(whole) as view:
            while got < len(whole):
                more = os.preadv(self._fd, [view[got:]], position + got)
                if more == 0:
                    raise OSError(errno.EIO, "the file is shorter than what was written to it")
                got += more

    def punch(self, position: int, length: int) -> None:
        """Give the disk space of a range back, where the file system can."""
        if length > 0:
            _libc.fallocate(self._fd, _PUNCH_HOLE, ctypes.c_long(position), ctypes.c_long(length))

    def close(self) -> None:
        """Let the file go, once nobody uses it."""
        self._closing = True
        if not self._users:
            os.close(self._fd)
