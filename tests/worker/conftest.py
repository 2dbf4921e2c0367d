"""Owns what tests of the worker share: this host's cgroups, a real spawner, and a log that can be read."""

from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from hypothesis import settings

from tests.worker.common import KeptLog
from worker import spawner as spawner_module
from worker.hierarchy import Hierarchies, open_hierarchies
from worker.spawner import Spawner

# Wall-clock deadlines fail on a loaded machine and say nothing about the code.
settings.register_profile("worker", deadline=None)
settings.load_profile("worker")


@pytest.fixture
def log() -> KeptLog:
    """A log that tests can read."""
    return KeptLog()


@pytest.fixture
def hierarchies() -> Iterator[Hierarchies]:
    """A subtree of this host's cgroups."""
    with open_hierarchies() as found:
        yield found


@pytest.fixture
async def spawner(
    hierarchies: Hierarchies, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Spawner]:
    """A running spawner, which starts again without a pause if it is killed."""
    monkeypatch.setattr(spawner_module, "RESTART_PAUSE", 0)
    with trio.fail_after(20):
        async with trio.open_nursery() as link:
            spawner = Spawner(hierarchies, log)
            await link.start(spawner.run)
            yield spawner
            link.cancel_scope.cancel()
