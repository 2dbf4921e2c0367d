"""Owns what tests of the worker use by name: a readable log, cancels at a chosen step, kinds of hosts."""

import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import trio
from trio._core import _thread_cache

from worker.blocks import BLOCK_BYTES, Chunk
from worker.hierarchy import Hierarchies
from worker.log import Log
from worker.output import OutputLog

#: For the fixture `hierarchies`: what this host has, its v1 hierarchies alone, and none at all.
KINDS = ("here", "v1", "none")


class KeptLog(Log):
    """A log that tests can read."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        super().__init__(self._text, readable=False)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self._text.getvalue().splitlines()]

    @property
    def messages(self) -> list[str]:
        """Each line's message."""
        return [line["message"] for line in self.lines]


class Other:
    """Another task beside a test's, and how many turns it has had."""

    turns = 0

    async def run(self) -> NoReturn:
        """Take one turn after another, until cancelled."""
        while True:
            await trio.lowlevel.checkpoint()
            self.turns += 1


@contextmanager
def without_threads() -> Iterator[None]:
    """Let the kernel give no more threads, for real: it has no room for a stack of a petabyte."""
    idle, _thread_cache.THREAD_CACHE = _thread_cache.THREAD_CACHE, _thread_cache.ThreadCache()
    usual = threading.stack_size(2**50)
    try:
        yield
    finally:
        threading.stack_size(usual)
        _thread_cache.THREAD_CACHE = idle


def in_memory(log: OutputLog) -> list[Chunk]:
    """A log's chunks, none of which has been spilled."""
    chunks: list[Chunk] = []
    while block := log.block_in_memory(offset := chunks[-1].offset + len(chunks[-1].data) if chunks else 0):
        chunk = block.chunk(offset, BLOCK_BYTES, None)
        assert chunk is not None
        chunks.append(chunk)
    return chunks


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before the k-th step of any task, Trio's own excepted; `left` counts down to it."""

    def __init__(self, scope: trio.CancelScope, k: int) -> None:
        self.scope = scope
        self.left = k

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by Trio."""
        if not task.name.startswith("trio."):
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


def descriptors(pid: int | str = "self") -> set[str]:
    """The descriptors of a process, ours if none is named; that of the listing itself is among ours."""
    return set(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def directories(hierarchies: Hierarchies) -> list[Path]:
    """The jobs' directories in every hierarchy."""
    return [path for base in hierarchies.bases for path in base.iterdir() if path.is_dir()]


class Woken(trio.abc.Instrument):
    """Which tasks ran, but for the test's."""

    def __init__(self) -> None:
        self.tasks: set[str] = set()
        self._own = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by Trio."""
        if task is not self._own:
            self.tasks.add(task.name)
