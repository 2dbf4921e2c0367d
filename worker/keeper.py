"""Owns how a job's processes are kept together where there is no cgroup: by a parent that outlives them.

The keeper is a fork of the spawner between it and the job's main process, and the child subreaper (prctl(2))
of all that the job starts. So a job's processes are the keeper's descendants, daemons included, and are found
by walking the process tree. A job could escape only by killing its keeper; a cgroup knows no such way.

The spawner loads it, so it imports the standard library alone, and little of that.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable

from .privileges import prctl

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
#: The keeper's first report is the main process's pid in so many digits.
PID_DIGITS = 12


def _stat(pid: int) -> list[bytes]:
    """What the kernel tells of a living process from its state on, the 3rd field: proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # pathlib costs the spawner its start-up
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return []  # it has ended
    return [] if fields[0] == b"Z" else fields


def parents() -> dict[int, int]:
    """Every living process and its parent."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # likewise
    return {pid: int(fields[1]) for pid in pids if (fields := _stat(pid))}


def birth(pid: int) -> bytes:
    """When a process began, by the kernel's clock, which names it beside its pid; empty if it is gone."""
    return fields[19] if (fields := _stat(pid)) else b""


def descendants(pid: int) -> list[int]:
    """The living processes below one, nearest first."""
    below: dict[int, list[int]] = {}
    for child, parent in parents().items():
        below.setdefault(parent, []).append(child)
    found = [pid]
    for one in found:
        found += below.get(one, [])
    return found[1:]


def send(pid: int, number: int) -> None:
    """Send a signal to every process below one, and to no stranger: each is pinned, then looked at again."""
    pinned = {}
    try:
        for one in descendants(pid):
            with contextlib.suppress(OSError):  # it has ended
                pinned[one] = os.pidfd_open(one)
        still = set(descendants(pid))
        for one, fd in pinned.items():
            with contextlib.suppress(OSError):  # likewise
                if one in still:
                    signal.pidfd_send_signal(fd, number)
    finally:
        for fd in pinned.values():
            os.close(fd)


def kill(pid: int) -> None:
    """Kill every process below one. They are stopped first, so that few outrun it by forking.

    Whoever needs all of them gone asks again until they are.
    """
    send(pid, signal.SIGSTOP)
    send(pid, signal.SIGKILL)


def kill_all(pid: int, seconds: float) -> bool:
    """Kill every process below one again and again; return whether all are gone in time."""
    deadline = time.monotonic() + seconds
    while descendants(pid):
        if time.monotonic() > deadline:
            return False
        kill(pid)
        time.sleep(0.005)
    return True


def keep(report: int, become: Callable[[], object]) -> None:
    """Be a keeper: start the main process, report its pid and its end, reap the rest until none is left.

    If the spawner dies, so do all of them.

    Args:
        report: where to write, first the pid, then ``{"status", "usage"}`` as JSON.
        become: makes this process the job's; called in the main process, once its keeper has reported it
            and let go of its pipes: the job may stop or kill its keeper in its first instruction.
    """
    spawner = os.getppid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, lambda number, frame: kill_all(os.getpid(), 10.0))
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    hear, say = os.pipe2(os.O_CLOEXEC)
    main = os.fork()
    if not main:
        os.close(say)
        if os.read(hear, 1):
            become()
        os._exit(127)
    os.write(report, b"%0*d" % (PID_DIGITS, main))
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # likewise
        if int(name) > 2 and int(name) not in (report, say):
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(int(name))
    os.write(say, b"\n")
    os.close(say)
    if os.getppid() != spawner:
        os.kill(os.getpid(), signal.SIGTERM)  # it died before we asked to be told
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return
        if pid == main:
            used = [usage.ru_utime, usage.ru_stime, usage.ru_maxrss]
            os.write(report, json.dumps({"status": status, "usage": used}).encode())
