"""Owns what is done to a whole cgroup tree, by server and spawner alike: list, signal, kill, remove, sweep.

The spawner loads it, so it imports the standard library alone, and little of that. Sources: cgroup-v2.rst
(cgroup.kill, cgroup.freeze) and cgroup-v1/freezer-subsystem.rst in the kernel's documentation.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable

from .walk import Steps, finish, walk

#: Where v1's freezer is mounted by all that mount it.
FREEZER = "/sys/fs/cgroup/freezer"
#: Longest wait for killed processes to be gone when a subtree is swept, in seconds.
SWEEP_DEADLINE = 10.0


def write(path: str, text: str, parent: int | None = None) -> None:
    """Write to a file of a cgroup, in one write(2) as the kernel wants it; from a directory if one is given.

    Raises:
        OSError: the kernel refused it.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path  # write(2) knows no name
        raise
    finally:
        os.close(fd)


def read(path: str, parent: int | None = None) -> str:
    """Read a file of a cgroup, named from a directory if one is given; empty text if that cannot be."""
    try:
        return _read(path, parent)
    except OSError:
        return ""


def _read(path: str, parent: int | None) -> str:
    opener = None if parent is None else lambda name, flags: os.open(name, flags, dir_fd=parent)
    with open(path, opener=opener) as file:  # pathlib costs the spawner its start-up
        return file.read()


def children(path: str) -> list[str]:
    """The cgroups directly below one; none if it is gone."""
    try:
        return [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _pids(cgroup: int) -> list[int]:
    """The processes in one cgroup.

    Raises:
        OSError: that cannot be read now.
    """
    try:
        return [int(pid) for pid in _read("cgroup.procs", cgroup).split()]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return []  # it is gone, or holds threads, whose processes are listed above it
        raise


def members(path: str) -> list[int]:
    """The processes in a cgroup and in those below it."""
    return [pid for cgroup, left in walk(path) if left is None for pid in _pids(cgroup)]


def looking(path: str) -> Steps:
    """Whether no living process is left in a cgroup or below it; False if that cannot be read now."""
    events = read(path + "/cgroup.events")
    if events:
        return "populated 0" in events
    if not os.path.exists(path + "/tasks"):  # noqa: PTH110  # pathlib costs the spawner its start-up
        return not os.path.exists(path)  # noqa: PTH110  # likewise
    try:
        for cgroup, left in walk(path):
            if left is None and _pids(cgroup):
                return False
            yield
    except OSError:
        return False
    return True


def sending(path: str, number: int) -> Steps:
    """Send a signal to every process in a cgroup tree, and to no stranger; it may fail, as `killing` may.

    Args:
        path: the cgroup; its last component is unique on this host.
        number: the signal.
    """
    return _reaching(path, lambda pid, pinned: signal.pidfd_send_signal(pinned, number))


def _reaching(path: str, act: Callable[[int, int], None]) -> Steps:
    """Do something to every process in a cgroup tree, and to no stranger.

    A pid may be reused between reading and acting. So each is pinned by a pidfd first: if the pid is a
    member *after* that, it belongs either to the pinned process or to one that took the number of a dead
    one, and a signal to the dead one goes nowhere.
    """
    name = os.path.basename(path)  # noqa: PTH119  # pathlib costs the spawner its start-up
    try:
        for cgroup, left in walk(path):
            for pid in _pids(cgroup) if left is None else ():
                _act(pid, act, cgroup, name)
                yield
            yield
    except OSError:
        return False
    return True


def _act(pid: int, act: Callable[[int, int], None], cgroup: int, name: str) -> None:
    try:
        pinned = os.pidfd_open(pid)
    except OSError:
        return  # it has ended
    try:
        # Some kernels tell no cgroups whose paths are longer than PATH_MAX.
        if name in read(f"/proc/{pid}/cgroup") or pid in _pids(cgroup):
            act(pid, pinned)
    except OSError:
        pass  # likewise
    finally:
        os.close(pinned)


def set_frozen(path: str, parent: int | None = None, *, frozen: bool) -> None:
    """Ask that nothing in a cgroup tree runs, so that nothing in it forks; or let run what was frozen so.

    Args:
        path: the cgroup, named from a directory if one is given.
        parent: that directory's descriptor.
        frozen: which of both.
    """
    texts = (("cgroup.freeze", "1" if frozen else "0"), ("freezer.state", "FROZEN" if frozen else "THAWED"))
    for file, text in texts:
        with contextlib.suppress(OSError):  # this hierarchy has the other, or neither
            write(os.path.join(path, file), text, parent)  # noqa: PTH118  # likewise


def thawing(path: str) -> Steps:
    """Let all of a cgroup tree run again; what a job froze below its own would stay so by itself."""
    try:
        for cgroup, left in walk(path):
            if left is None:
                set_frozen("", cgroup, frozen=False)
            yield
    except OSError:
        return False
    return True


def freeing(path: str, freezer: str = FREEZER) -> Steps:
    """Take the processes of a cgroup tree out of cgroups of another hierarchy, v1's freezer, to its root.

    A job that is root may put its processes into a cgroup of the freezer and freeze that: then no signal
    reaches them. Others may be in it too, and stay as they are.

    Args:
        path: the tree.
        freezer: where the freezer is mounted.
    """
    # In the freezer's own tree, `killing` thaws; and v2 is no freezer, whatever a cgroup of it is called.
    if path.startswith(freezer + "/") or not os.path.exists(freezer + "/tasks"):  # noqa: PTH110  # likewise
        return False
    return (yield from _reaching(path, lambda pid, pinned: write(freezer + "/cgroup.procs", str(pid))))


def killing(path: str) -> Steps:
    """Kill every process in a cgroup tree: at once where there is cgroup.kill (Linux 5.14, v2).

    Elsewhere they are frozen first, so that none outruns it by forking. It may fail for a moment, as
    when descriptors have run out: whoever needs an empty cgroup asks again until it is empty.
    """
    try:
        write(path + "/cgroup.kill", "1")
    except FileNotFoundError:
        set_frozen(path, frozen=True)
        try:
            sent = yield from sending(path, signal.SIGKILL)
        finally:
            set_frozen(path, frozen=False)
        return (yield from thawing(path)) and sent
    except OSError:
        return False
    return True


def kill(path: str) -> None:
    """All of `killing` at once."""
    finish(killing(path))


def has_children(path: str) -> bool:
    """Whether there may be cgroups below one."""
    try:
        return os.stat(path).st_nlink != 2  # noqa: PTH116  # likewise
    except OSError:
        return False


def removing(path: str) -> Steps:
    """Remove a cgroup and those below it; False while that cannot be done, as something in it is dying."""
    if _remove(path):
        return True
    try:
        for cgroup, left in walk(path):
            if left is not None:
                with contextlib.suppress(OSError):
                    os.rmdir(left, dir_fd=cgroup)
            yield
    except OSError:
        return False
    return _remove(path)


def _remove(path: str) -> bool:
    try:
        os.rmdir(path)  # noqa: PTH106  # likewise
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_tree(path: str) -> bool:
    """All of `removing` at once."""
    return finish(removing(path))


def sweep(tracking: str, cgroups: list[str]) -> bool:
    """Kill all that is left and remove the cgroups, within SWEEP_DEADLINE; return whether they are gone.

    Args:
        tracking: the cgroup above every process; killing it kills them all.
        cgroups: what to remove, with all that is below; a zombie does not keep a cgroup from going.
    """
    deadline = time.monotonic() + SWEEP_DEADLINE
    remaining = cgroups
    while remaining:
        kill(tracking)
        remaining = [path for path in remaining if not remove_tree(path)]
        if remaining:
            finish(freeing(tracking))
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
    return True
