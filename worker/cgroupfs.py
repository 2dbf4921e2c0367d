"""Owns what is done to a whole cgroup tree, by server and spawner alike: list, signal, kill, remove, sweep.

The spawner loads it, so it imports the standard library alone, and little of that. Sources: cgroup-v2.rst
(cgroup.kill, cgroup.freeze) and cgroup-v1/freezer-subsystem.rst in the kernel's documentation.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Where v1's freezer is mounted by all that mount it.
FREEZER = "/sys/fs/cgroup/freezer"
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


def has_children(path: str) -> bool:
    """Whether there may be cgroups below one."""
    try:
        return os.stat(path).st_nlink != 2  # noqa: PTH116  # likewise
    except OSError:
        return False


def visit(path: str, enter: Callable[[int], None], leave: Callable[[int, str], None] | None = None) -> None:
    """Go through a cgroup and those below it, however deep: a job may make them a thousand deep.

    So nothing is called recursively, a path may be longer than the kernel takes, and one directory is open
    at a time. What vanishes meanwhile is passed over; the walk may then end early.

    Args:
        path: where to begin.
        enter: called with a descriptor of each, a parent before its children.
        leave: called with a descriptor of the parent and the name of each below ``path``, after its children.

    Raises:
        OSError: one cannot be opened, and is there.
    """
    names: list[str] = []
    try:
        here = os.open(path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        enter(here)
        pending = [_subdirectories(here)]
        while True:
            if pending[-1]:
                name = pending[-1].pop()
                try:
                    below = os.open(name, _DIRECTORY, dir_fd=here)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                os.close(here)
                here = below
                names.append(name)
                enter(here)
                pending.append(_subdirectories(here))
            elif names:
                above = os.open("..", _DIRECTORY, dir_fd=here)
                os.close(here)
                here = above
                pending.pop()
                name = names.pop()
                if leave is not None:
                    leave(here, name)
            else:
                return
    except FileNotFoundError:  # we stood in one that is gone, and there is no way up from there
        return
    finally:
        os.close(here)


def _subdirectories(directory: int) -> list[str]:
    if os.fstat(directory).st_nlink == 2:  # its own name, and its "."
        return []
    return [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]


def _read_at(directory: int, name: str) -> str:
    try:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)) as file:  # noqa: PTH123  # likewise
            return file.read()
    except OSError:
        return ""


def members(path: str) -> list[int]:
    """The processes in a cgroup and in those below it."""
    found: list[int] = []
    visit(path, lambda directory: found.extend(map(int, _read_at(directory, "cgroup.procs").split())))
    return found


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

    def tell(directory: int) -> None:
        for file, text in texts:
            with contextlib.suppress(OSError):  # this hierarchy has the other, or neither
                fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
                try:
                    os.write(fd, text.encode())
                finally:
                    os.close(fd)

    if not frozen:
        # One that was frozen by itself, as a job may do below its own, stays so when its parent is thawed.
        visit(path, tell)
        return
    with contextlib.suppress(FileNotFoundError):
        here = os.open(path, _DIRECTORY)
        try:
            tell(here)
        finally:
            os.close(here)


def thaw_members(path: str, freezer: str = FREEZER) -> None:
    """Thaw the processes of a cgroup tree that are frozen by another hierarchy: v1's freezer.

    A job that is root may put its processes into a cgroup of the freezer and freeze that: then no signal
    reaches them. Only a cgroup is thawed whose processes are all in the tree.

    Args:
        path: the tree.
        freezer: where the freezer is mounted.
    """
    inside = set(members(path))
    seen: set[str] = set()
    for pid in inside:
        for line in read(f"/proc/{pid}/cgroup").splitlines():
            _, controllers, place = line.split(":", 2)
            while controllers == "freezer" and place not in ("/", *seen):
                seen.add(place)
                folder = freezer + place
                if inside.issuperset(members(folder)):
                    with contextlib.suppress(OSError):
                        write(folder + "/freezer.state", "THAWED")
                place = os.path.dirname(place)  # noqa: PTH120  # likewise


def kill(path: str) -> None:
    """Kill every process in a cgroup tree: at once where there is cgroup.kill (Linux 5.14, v2).

    Elsewhere they are frozen first, so that none outruns it by forking. It may fail for a moment, as
    when descriptors have run out: whoever needs an empty cgroup asks again until it is empty.
    """
    try:
        write(path + "/cgroup.kill", "1")
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            freeze(path, frozen=True)
            send(path, signal.SIGKILL)
            freeze(path, frozen=False)
    except OSError:
        pass


def remove_tree(path: str) -> bool:
    """Remove a cgroup and those below it; False while that cannot be done, as something in it is dying."""

    def remove(above: int, name: str) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=above)

    try:
        os.rmdir(path)  # noqa: PTH106  # likewise; most have none below them
    except FileNotFoundError:
        return True
    except OSError:
        pass
    else:
        return True
    try:
        visit(path, lambda directory: None, remove)
        os.rmdir(path)  # noqa: PTH106  # likewise
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


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
            with contextlib.suppress(OSError):
                thaw_members(tracking)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
    return True
