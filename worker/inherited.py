"""Owns what the server inherited from whatever started it: settled once, before anything else is done.

A parent may have blocked or ignored any signal, removed the directory that it works in, chosen any umask, or
left a timer or a limit that ends us later. What would break the server is mended here; what its operator may
have meant is left, and told in the log. Descriptors 0 to 2 are open already (client.cli.streams), the limit
on open files is raised where the connections are counted (worker.server), and what no job may inherit is
given up by worker.privileges. Sources: signal(7), execve(2), getcwd(3), getrlimit(2).
"""

import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .log import Log
from .privileges import UMASK

#: Where jobs work that name no directory, where the server's own has been removed.
FALLBACK = Path("/")
#: Limits that end or cripple a server once it reaches them, and what they are called where they are set.
_TOLD = {
    resource.RLIMIT_FSIZE: ("the size of a file, in bytes", "LimitFSIZE=, ulimit -f"),
    resource.RLIMIT_CPU: ("CPU time, in seconds; it is then killed", "LimitCPU=, ulimit -t"),
    resource.RLIMIT_AS: ("address space, in bytes", "LimitAS=, ulimit -v"),
    resource.RLIMIT_DATA: ("memory, in bytes", "LimitDATA=, ulimit -d"),
}


class RelativePathError(Exception):
    """A relative path, and the working directory has been removed; the text is a sentence for people."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What is to be known of it later.

    ``directory`` is where we were started, None if it has been removed; ``timer`` is in how many seconds an
    alarm ends us, 0 for never.
    """

    directory: Path | None
    timer: float

    def absolute(self, flag: str, path: Path) -> Path:
        """A path as it is now, whatever becomes of the working directory.

        Raises:
            RelativePathError: that has been removed.
        """
        if path.is_absolute():
            return path
        if self.directory is None:
            raise RelativePathError(
                f"{flag} {str(path)!r} is relative, and the working directory has been removed: "
                "give an absolute path, or start the server in a directory that is there."
            )
        # No link in the directory's own name, but maybe in the path, whose target may change: only what leads
        # out of the directory is worked out now, as that cannot be done once it is gone.
        parts, base = path.parts, self.directory
        while parts[:1] == ("..",):
            parts, base = parts[1:], base.parent
        return base.joinpath(*parts)

    def tell(self, log: Log) -> None:
        """Log what the operator may not know of."""
        if self.directory is None:
            log.warning(
                "the working directory has been removed; jobs that name none work in another",
                directory=str(FALLBACK),
            )
        if self.timer:
            log.warning("an alarm that was set before the start ends this server", seconds=self.timer)
        for what, most, remedy in _limits():
            log.warning("this process was started with a limit", on=what, limit=most, remedy=remedy)


def settle() -> Inherited:
    """Mend what would break the server, and say what else there is. Only the main thread may call it."""
    # What a parent ignores stays ignored, such as SIGHUP by nohup; but children whose end is ignored are
    # reaped by the kernel, and their status is lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(UMASK)
    return Inherited(_directory(), signal.getitimer(signal.ITIMER_REAL)[0])


def _directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


def _limits() -> Iterator[tuple[str, int, str]]:
    for number, (what, remedy) in _TOLD.items():
        most, _ = resource.getrlimit(number)
        if most != resource.RLIM_INFINITY:
            yield what, most, remedy
