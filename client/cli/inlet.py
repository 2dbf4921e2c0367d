"""Owns our own stdin, which `run` does not pass on to its job: what waits there is refused, never swallowed.

Theory of operation. Who pipes or redirects something into `run` means it for the job, and would see it vanish
with exit code 0. But most of those who have no terminal there mean nothing by it, and are not to be bothered:

- systemd, containers and xargs(1) give /dev/null; cron and many CI runners a pipe to which nobody can write
  any more. Nothing can come from there, and nothing is said.
- ssh(1) without a terminal, and programs that keep a pipe to us, give one that is open and empty. Whether
  anything will come, nobody knows: that is noted, and the job starts. ``</dev/null`` or ``ssh -n`` spares it.
- Within ``while read line; do ... done <list`` and ``sh <script``, stdin is what loop or shell has not read
  yet. It looks like input, and a job with an input would swallow it; so it is refused, with the way out.
"""

import fcntl
import os
import socket
import stat
import struct
import termios

from . import streams
from .exits import UsageError

_REFUSAL = (
    "run passes no stdin on to its job, and here {} still holds something: let the job read it from a file "
    "on the server, or add </dev/null if nothing is meant for the job."
)
_NOTE = (
    "note: run passes no stdin on to its job; what comes from {} here is lost. Add </dev/null if nothing is "
    "meant for the job."
)


def check() -> None:
    """Refuse bytes that wait on stdin, and say so where some may come.

    Raises:
        UsageError: there are some.
    """
    mode = os.fstat(0)
    if fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        return
    kind = stat.S_IFMT(mode.st_mode)
    if kind in (stat.S_IFREG, stat.S_IFBLK):
        if _has_rest(mode):
            raise UsageError(_REFUSAL.format("the file"))
    elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
        what = "the pipe" if kind == stat.S_IFIFO else "the socket"
        if _waiting():
            raise UsageError(_REFUSAL.format(what))
        if not _is_over(kind):
            streams.complain(_NOTE.format(what))
    elif kind == stat.S_IFCHR and not os.isatty(0) and mode.st_rdev != _rdev_of_null():
        streams.complain(_NOTE.format("the device"))


def _has_rest(mode: os.stat_result) -> bool:
    """Whether a file has something behind its offset, which stays where it is."""
    try:
        offset = os.lseek(0, 0, os.SEEK_CUR)
        # Files of /proc and disks have a size of 0, whatever they hold.
        return offset < mode.st_size or (not mode.st_size and bool(os.pread(0, 1, offset)))
    except OSError:
        return False


def _waiting() -> int:
    """How many bytes a pipe or socket holds."""
    try:
        found: int = struct.unpack("i", fcntl.ioctl(0, termios.FIONREAD, bytes(4)))[0]
    except OSError:  # a socket that listens, say
        return 0
    return found


def _is_over(kind: int) -> bool:
    """Whether nothing more can come from an empty pipe or socket."""
    if kind == stat.S_IFIFO:
        import select

        poll = select.poll()
        poll.register(0, select.POLLIN)
        return any(event & select.POLLHUP for _, event in poll.poll(0))
    peer = socket.socket(fileno=os.dup(0))
    try:
        return not peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:  # it is not connected
        return True
    finally:
        peer.close()


def _rdev_of_null() -> int:
    try:
        return os.stat(os.devnull).st_rdev  # noqa: PTH116  # no Path on the way to the first byte
    except OSError:  # a root directory without devices
        return -1
