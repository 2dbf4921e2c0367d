"""Owns what is done to a whole cgroup tree, by server and spawner alike: list, signal, kill, remove, sweep.

The spawner loads it, so it imports the standard library alone, and little of that. Sources: cgroup-v2.rst
(cgroup.kill, cgroup.freeze) and cgroup-v1/freezer-subsystem.rst in the kernel's documentation.
"""

import contextlib
import os
import signal
import time

#: Longest wait for killed processes to be gone when a subtree is swept, in seconds.
SWEEP_DEADLINE = 10.0


def write(path: str, text: str) -> None:
    """Write to a file of a cgroup, in one write(2) as the kernel wants it.

    Raises:
        OSError: the kernel refused it.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path  # write(2) knows no name
        raise
    finally:
        os.close(fd)


def read(path: str) -> str:
    """Read a file of a cgroup; empty text if it is gone or was never there."""
    try:
        with open(path) as file:  # noqa: PTH123  # pathlib costs the spawner its start-up
            return file.read()
    except OSError:
        return ""


def children(path: str) -> list[str]:
    """The cgroups directly below one; none if it is gone."""
    try:
        return [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def tree(path: str) -> list[str]:
    """A cgroup and those below it, a parent before its children."""
    found = [path]
    for folder in found:
        found += children(folder)
    return found


def members(path: str) -> list[int]:
    """The processes in a cgroup and in those below it."""
    return [int(pid) for folder in tree(path) for pid in read(folder + "/cgroup.procs").split()]


def is_empty(path: str) -> bool:
    """Whether no living process is left in a cgroup or below it; False if that cannot be read now."""
    events = read(path + "/cgroup.events")
    if events:
        return "populated 0" in events
    return not os.path.exists(path) or (os.path.exists(path + "/tasks") and not members(path))  # noqa: PTH110


def send(path: str, number: int) -> None:
    """Send a signal to every process in a cgroup tree, and to no stranger.

    A pid may be reused between reading and signalling. So each is pinned by a pidfd first: if the pid is a
    member *after* that, it belongs either to the pinned process or to one that took the number of a dead
    one, and a signal to the dead one goes nowhere.

    Args:
        path: the cgroup; its last component is unique on this host.
        number: the signal.
    """
    name = os.path.basename(path)  # noqa: PTH119  # likewise
    for pid in members(path):
        try:
            pinned = os.pidfd_open(pid)
        except OSError:
            continue  # it has ended
        try:
            if name in read(f"/proc/{pid}/cgroup"):
                signal.pidfd_send_signal(pinned, number)
        except OSError:
            pass  # likewise
        finally:
            os.close(pinned)


def freeze(path: str, *, frozen: bool) -> None:
    """Ask that nothing in a cgroup tree runs, so that nothing in it forks; or let all of it run again."""
    texts = (("cgroup.freeze", "1" if frozen else "0"), ("freezer.state", "FROZEN" if frozen else "THAWED"))
    # One that was frozen by itself, as a job may do below its own, stays so when its parent is thawed.
    for folder in [path] if frozen else tree(path):
        for file, text in texts:
            with contextlib.suppress(OSError):  # this hierarchy has the other, or neither
                write(f"{folder}/{file}", text)


def kill(path: str) -> None:
    """Kill every process in a cgroup tree: at once where there is cgroup.kill (Linux 5.14, v2).

    Elsewhere they are frozen first, so that none outruns it by forking. It may fail for a moment, as
    when descriptors have run out: whoever needs an empty cgroup asks again until it is empty.
    """
    try:
        write(path + "/cgroup.kill", "1")
    except FileNotFoundError:
        freeze(path, frozen=True)
        send(path, signal.SIGKILL)
        freeze(path, frozen=False)
    except OSError:
        pass


def remove_tree(path: str) -> bool:
    """Remove a cgroup and those below it; False while that cannot be done, as something in it is dying."""
    try:
        below = [remove_tree(child) for child in children(path)]
        os.rmdir(path)  # noqa: PTH106  # likewise
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return all(below)


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
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
    return True
