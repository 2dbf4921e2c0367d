"""A ping that the kernel has no memory for is tried again, and ends nobody."""

import errno
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from tests.harness import PATIENCE
from tests.worker.common import KeptLog
from worker import spawner
from worker.hierarchy import Hierarchies
from worker.spawner import Spawner


class Short:
    """A link to the spawner that has no buffer space the first time."""

    def __init__(self) -> None:
        self.sent = 0

    def fileno(self) -> int:
        return 5

    async def sendmsg(self, buffers: list[bytes], rights: object) -> int:
        await trio.lowlevel.checkpoint()
        self.sent += 1
        if self.sent == 1:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return sum(map(len, buffers))


async def test_a_shortage_is_no_end(log: KeptLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawner, "RESTART_PAUSE", 0.01)
    one = Spawner(cast("Hierarchies", SimpleNamespace(locks=[], bases=[])), log, 1024)
    link = Short()
    monkeypatch.setattr(one, "_sock", link)
    one._ready.set()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.ping)
            while link.sent < 2:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
