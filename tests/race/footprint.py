"""Owns what the tests of races mean by "nothing left": processes, cgroups, descriptors, tasks and jobs."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import trio

from tests.harness import PATIENCE, children
from worker.hierarchy import PREFIX, Hierarchies

#: Longest wait for what is ending anyway: the dead are reaped by another process, for one.
SETTLE_SECONDS = PATIENCE / 4


class LeftError(AssertionError):
    """Something was left behind; the message names it."""


def expect(condition: object, otherwise: str) -> None:
    """Check what must hold.

    Raises:
        LeftError: it does not; with these words.
    """
    if not condition:
        raise LeftError(otherwise)


@dataclass(frozen=True)
class Footprint:
    """What this process holds, in words: one entry for each thing."""

    process: Counter[str]
    cgroup: Counter[str]
    descriptor: Counter[str]
    task: Counter[str]

    @classmethod
    def take(cls, hierarchies: Hierarchies, root: trio.lowlevel.Task) -> "Footprint":
        """What there is now.

        Args:
            hierarchies: says in which directories servers of this process build.
            root: the task whose tree is looked at.
        """
        return cls(
            Counter(map(str, _descendants(os.getpid()))),
            Counter(map(str, _cgroups({base.parent for base in hierarchies.bases}))),
            Counter(_descriptors()),
            Counter(task.name for task in tree(root)),
        )

    def added(self, before: "Footprint") -> list[str]:
        """What was not there before, in words."""
        found = []
        for kind in fields(self):
            more = getattr(self, kind.name) - getattr(before, kind.name)
            found += [f"{kind.name} {word}" for word in more.elements()]
        return found


async def assert_same(before: Footprint, hierarchies: Hierarchies, root: trio.lowlevel.Task) -> None:
    """Wait until nothing is there that was not before.

    Raises:
        LeftError: it stays.
    """
    await assert_none(lambda: Footprint.take(hierarchies, root).added(before))


async def assert_none(left: Callable[[], list[str]]) -> None:
    """Wait until there is nothing left, for what is ending takes its time.

    Raises:
        LeftError: it stays.
    """
    with trio.move_on_after(SETTLE_SECONDS) as scope:
        await until(lambda: not left())
    if scope.cancelled_caught:
        raise LeftError(f"left behind: {', '.join(left())}")


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nobody tells."""
    await trio.lowlevel.checkpoint()
    while not condition():  # noqa: ASYNC110  # there is no event for it
        await trio.sleep(0.0005)


def tree(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """A task and those below it."""
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from tree(child)


def is_below(task: trio.lowlevel.Task, root: trio.lowlevel.Task) -> bool:
    """Whether a task is in another one's tree."""
    while task is not root:
        if task.parent_nursery is None:
            return False
        task = task.parent_nursery.parent_task
    return True


def _descendants(pid: int) -> Iterator[int]:
    """Zombies too: they are left until somebody reaps them."""
    try:
        found = children(pid)
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in found:
        yield child
        yield from _descendants(child)


def _cgroups(parents: Iterable[Path]) -> Iterator[Path]:
    mine = f"{PREFIX}{os.getpid()}-"
    for parent in parents:
        for base in _folders(parent):
            if base.name.startswith(mine):
                yield base
                yield from _below(base)


def _below(folder: Path) -> Iterator[Path]:
    for child in _folders(folder):
        yield child
        yield from _below(child)


def _folders(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # it went meanwhile


def _descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208  # one call, and nothing of it is kept
        try:
            yield os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115  # likewise
        except OSError:
            continue  # the one that listed them


def private(owner: Any, name: str) -> Any:
    """A private attribute, whose emptiness shows that nothing was forgotten."""
    return getattr(owner, name)
