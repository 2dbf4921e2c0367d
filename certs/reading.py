"""Owns the first look at a file that may be anything: what is no file is refused in words, never waited for.

To open a FIFO waits for its writer, and a device may give bytes without end. It stands on the command line's
way to its first byte, so it imports the standard library and nothing else.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

#: More than any file of ours has, in bytes: a list of 100,000 revoked certificates is a tenth of it.
MOST_BYTES: Final = 64 * 2**20
_KINDS: Final = {
    stat.S_IFIFO: "it is a FIFO, and no file",
    stat.S_IFCHR: "it is a device, and no file",
    stat.S_IFBLK: "it is a device, and no file",
    stat.S_IFSOCK: "it is a socket, and no file",
    stat.S_IFDIR: os.strerror(errno.EISDIR),
}


def read(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file, or of a pipe that we were given by our parent, as in ``show <(command)``.

    Raises:
        OSError: it cannot be read, or is no file; ``strerror`` says which.
        ValueError: no file can have that name.
    """
    descriptor = open_file(path)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor, not of a path
        large = os.fstat(descriptor).st_size > most
        content = b"" if large else file.read(most + 1)
    if large or len(content) > most:
        raise OSError(errno.EFBIG, "it is too large to be one of ours", str(path))
    return content


def open_file(path: Path) -> int:
    """Open a file for reading, without waiting; errors are those of `read`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, _KINDS[stat.S_IFSOCK], str(path)) from error
        raise
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFIFO and os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:"):  # noqa: PTH115
            os.set_blocking(descriptor, True)  # it has no name, so somebody has opened it to write to us
        elif kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, _KINDS.get(kind, "it is no file"), str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
