"""Owns the walk through a tree of cgroups, however deep and wide a job has made it.

A job that is root may nest cgroups deeper than Python recurses, with paths longer than the kernel takes
(PATH_MAX), and more beside each other than there are descriptors. So a walk goes down by a name and up by
``..``, holds one descriptor, and is a generator: whoever serves others meanwhile pauses between two steps.

The spawner loads it, so it imports the standard library alone, and little of that.
"""

import os
from collections.abc import Generator, Iterator

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Work in small steps; in the end it says whether all of it was done.
Steps = Generator[None, None, bool]


def finish(steps: Steps) -> bool:
    """Take all steps at once; return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bool(end.value)


def walk(top: str) -> Iterator[tuple[int, str | None]]:
    """Visit a cgroup and all below it: each once on the way down, and each but the top on the way up.

    Yields:
        On the way down, a cgroup's descriptor and None. On the way up, its parent's, and its name. The
        descriptor is open until the next step. What is removed meanwhile is passed over.

    Raises:
        OSError: descriptors or memory have run out.
    """
    fd = _open(top)
    if fd is None:
        return
    try:
        yield fd, None
        names: list[str] = []
        waiting = [_children(fd)]
        while waiting:
            if waiting[-1]:
                name = waiting[-1].pop()
                inner = _open(name, fd)
                if inner is None:
                    continue
                os.close(fd)
                fd = inner
                yield fd, None
                names.append(name)
                waiting.append(_children(fd))
                continue
            waiting.pop()
            if names:
                # A cgroup never changes its parent, and knows it yet when it is removed.
                outer = os.open("..", _FLAGS, dir_fd=fd)
                os.close(fd)
                fd = outer
                yield fd, names.pop()
    finally:
        os.close(fd)


def _open(name: str, parent: int | None = None) -> int | None:
    try:
        return os.open(name, _FLAGS, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _children(fd: int) -> list[str]:
    if os.fstat(fd).st_nlink == 2:  # its own name and its dot: nothing is below it
        return []
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
