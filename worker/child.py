"""Owns one process that the spawner is asked for: what it is to be, whether it started, how it ended."""

import os
from dataclasses import dataclass, field
from typing import Any

import trio

from .state import Exit
from .users import User


class SpawnError(Exception):
    """A process could not be started.

    Args:
        step: what failed: ``request``, ``fork``, ``cgroup``, ``setup``, ``user``, ``cwd``, ``exec``,
            ``timeout`` or ``lost``.
        errno: the kernel's reason, 0 if there is none.
    """

    def __init__(self, step: str, errno: int) -> None:
        super().__init__(f"{step}: {os.strerror(errno) if errno else 'the spawner was lost'}")
        self.step = step
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.errno), self.__dict__


@dataclass(slots=True)
class Child:
    """One process that was asked for, and its keeper if it has one. ``end`` is there once it has ended."""

    pid: int = 0
    keeper: int = 0
    failure: SpawnError | None = None
    #: Whether the failure is none that another try would meet.
    again: bool = False
    started: trio.Event = field(default_factory=trio.Event)
    end: Exit | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    async def wait(self) -> Exit:
        """Wait for the process's end and return it."""
        await self.ended.wait()
        assert self.end is not None  # noqa: S101  # set before the event
        return self.end


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run: all bytes, as the kernel takes them; as which user, None for the server's own."""

    argv: tuple[bytes, ...]
    env: dict[bytes, bytes]
    cwd: bytes
    merge: bool
    user: User | None = None
