"""Owns the tasks, processes and threads, that all jobs together leave to the server and to the host.

A job without a limit of its own could use up those of a cgroup above both, or of the whole host. Then the
server starts no thread and no job, and nobody logs in to stop it. So the cgroup above all jobs gets a
ceiling, once, when the server starts: it costs no start anything.
"""

import os
import resource
from pathlib import Path

from . import cgroupfs
from .hierarchy import Hierarchies
from .log import Log

#: What is left: so many tasks or, where there are many, one in so many; but never more than half.
LEAST, SHARE = 64, 10
_HOST = ("/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max")


def ceiling(most: int) -> int:
    """How many tasks jobs may have, all together, where there are at most so many."""
    return max(1, most - min(max(LEAST, most // SHARE), most // 2))


def tasks_above(base: Path) -> int | None:
    """The most tasks that there may be where jobs are, by every bound above them; None if none is known."""
    files = [*_HOST, *(f"{folder}/pids.max" for folder in base.parents)]
    bounds = [int(text) for file in files if (text := cgroupfs.read(file).strip()).isdigit()]
    own = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.geteuid() != 0 and own != resource.RLIM_INFINITY:  # root is not held to it
        bounds.append(own)
    return min(bounds, default=None)


def leave_room(hierarchies: Hierarchies, log: Log) -> None:
    """Give all jobs together their ceiling, where there is a pids controller."""
    pids = hierarchies.controllers.get("pids")
    if pids is None or (most := tasks_above(pids.base)) is None:
        return
    try:
        cgroupfs.write(f"{pids.base}/pids.max", str(ceiling(most)))
    except OSError as error:
        log.warning("jobs may use up all tasks of this host", reason=error.strerror)
