"""Owns what the kernel is asked for a file that has no name: to make it, and to give ranges of it back."""

import ctypes
import errno
import os
import tempfile
from pathlib import Path

#: fallocate(2): give a range back to the file system, and keep the file's size.
_PUNCH_HOLE = 0x02 | 0x01
_libc = ctypes.CDLL(None, use_errno=True)


def open_unlinked(folder: Path) -> int:
    """The descriptor of a new file, for reading and writing.

    Raises:
        OSError: it cannot be made.
    """
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        fd, name = tempfile.mkstemp(dir=folder)  # this file system has no O_TMPFILE
        Path(name).unlink()
        return fd


def punch(fd: int, position: int, length: int) -> None:
    """Give the disk space of a range back, where the file system can."""
    _libc.fallocate(fd, _PUNCH_HOLE, ctypes.c_long(position), ctypes.c_long(length))
