"""Owns what tests of the worker share: this host's cgroups, a real spawner, and a log that can be read."""

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import settings

from tests.harness import PATIENCE
from tests.host.common import skip_if_emulated
from tests.worker.common import KeptLog
from worker import hierarchy
from worker import spawner as spawner_module
from worker.hierarchy import Hierarchies, open_hierarchies
from worker.mounts import read_mounts
from worker.spawner import Spawner

# Wall-clock deadlines fail on a loaded machine and say nothing about the code.
settings.register_profile("worker", deadline=None)
settings.load_profile("worker")


@pytest.fixture
def log() -> KeptLog:
    """A log that tests can read."""
    return KeptLog()


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Which of this host's cgroups to use: ``here`` for all, ``v1`` for those alone, or ``none``.

    Tests that are to run on each kind say ``@pytest.mark.parametrize("kind", KINDS, indirect=True)``.
    """
    return str(getattr(request, "param", "here"))


@pytest.fixture
def hierarchies(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hierarchies]:
    """A subtree of this host's cgroups."""
    mounts = read_mounts()
    if kind == "v1":
        mounts = [mount for mount in mounts if mount.version == 1]
        if not mounts:
            pytest.skip("NOT TESTED: this machine mounts no v1 hierarchy; a hybrid one does")
    elif kind == "none":
        skip_if_emulated()
        mounts = []
    with monkeypatch.context() as patch:
        patch.setattr(hierarchy, "read_mounts", lambda: mounts)
        with open_hierarchies() as found:
            yield found


@pytest.fixture
def cgrouped(hierarchies: Hierarchies) -> Hierarchies:
    """A subtree that is there; skips where a host that has none is meant."""
    if hierarchies.tracking is None:
        pytest.skip("not for hosts without cgroups: there is no cgroup to refuse a limit or a name")
    return hierarchies


@pytest.fixture
async def spawner(
    hierarchies: Hierarchies, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Spawner]:
    """A running spawner, which starts again without a pause if it is killed."""
    monkeypatch.setattr(spawner_module, "RESTART_PAUSE", 0)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as link:
            spawner = Spawner(hierarchies, log)
            await link.start(spawner.run)
            yield spawner
            link.cancel_scope.cancel()


@pytest.fixture
def sleep() -> Iterator[Callable[[Path | None], subprocess.Popen[bytes]]]:
    """Starts processes that stay, each in a cgroup."""
    processes = []

    def start(path: Path | None) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(["sleep", "600"]))
        if path is not None:
            (path / "cgroup.procs").write_text(str(processes[-1].pid))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(PATIENCE)  # one in a frozen v1 cgroup would stay
