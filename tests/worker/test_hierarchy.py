"""Where cgroups are found on each kind of host, and who may remove a server's base."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import PATIENCE
from worker import hierarchy
from worker.hierarchy import (
    CgroupError,
    Hierarchies,
    make_base,
    open_hierarchies,
    sweep_leftovers,
)
from worker.mounts import Mount


def v2(path: Path) -> Mount:
    return Mount(2, frozenset(), path, path)


def v1(path: Path, *controllers: str) -> Mount:
    return Mount(1, frozenset(controllers), path, path)


# --- make_base


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_base_is_locked(tmp_path: Path) -> None:
    fd = make_base(tmp_path / "base")
    other = os.open(tmp_path / "base", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not os.get_inheritable(fd)
    os.close(other)
    os.close(fd)


@pytest.mark.parametrize("remade", [False, True])
def test_a_base_swept_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remade: bool
) -> None:
    """A sweeper had the lock first, and removed it; perhaps another has made one of that name since."""
    base, real, before = tmp_path / "base", fcntl.flock, descriptors()
    seen: list[int] = []

    def flock(fd: int, operation: int) -> None:
        if not seen:
            base.rename(tmp_path / "gone")  # kept, so that its inode is not used again
            if remade:
                base.mkdir()
        seen.append(fd)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    fd = make_base(base)
    assert len(seen) == 2
    assert os.fstat(fd).st_ino == base.stat().st_ino
    os.close(fd)
    assert descriptors() == before


def test_a_base_swept_before_it_was_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, real = tmp_path / "base", Path.mkdir
    made: list[Path] = []

    def mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        real(self, mode, parents, exist_ok)
        made.append(self)
        if len(made) == 1:
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    os.close(make_base(base))
    assert made == [base, base]


def test_a_lock_that_fails_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    before = descriptors()
    with pytest.raises(OSError, match="No locks"):
        make_base(tmp_path / "base")
    assert descriptors() == before


# --- sweep_leftovers, on real cgroups


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()


@pytest.mark.host
def test_leftovers_are_swept_with_all_that_is_in_them(
    hierarchies: Hierarchies, sleeper: subprocess.Popen[bytes]
) -> None:
    folder = hierarchies.bases[0]
    dead = folder / "worker-service-1-dead"
    inner = dead / "job" / "made by the job"
    inner.mkdir(parents=True)
    (inner / "cgroup.procs").write_text(str(sleeper.pid))
    empty = folder / "worker-service-2-empty"
    empty.mkdir()
    live = folder / "worker-service-3-live"
    lock = make_base(live)
    others = [folder / "worker-service", folder / "system.slice"]
    for other in others:
        other.mkdir()
    before = descriptors()
    try:
        sweep_leftovers(folder)
        assert sleeper.wait(PATIENCE / 4) == -9
        assert not dead.exists()
        assert not empty.exists()
        assert live.is_dir()
        assert all(other.is_dir() for other in others)
        assert descriptors() == before
    finally:
        os.close(lock)
    sweep_leftovers(folder)
    assert not live.exists()


@pytest.mark.host
def test_leftovers_in_a_v1_hierarchy_are_killed_and_removed(
    hierarchies: Hierarchies, sleeper: subprocess.Popen[bytes]
) -> None:
    controller = hierarchies.controllers["pids"]
    if controller.version == 2:
        pytest.skip("this host has no v1 hierarchy")
    base = controller.base / "worker-service-1-dead"
    base.mkdir()
    (base / "cgroup.procs").write_text(str(sleeper.pid))
    sweep_leftovers(controller.base)
    assert sleeper.wait(PATIENCE / 4) == -9
    assert not base.exists()


# --- open_hierarchies


@pytest.mark.host
def test_bases_are_made_locked_and_removed() -> None:
    before = descriptors()
    with open_hierarchies() as found:
        bases = found.bases
        assert bases[0] == found.tracking
        assert len(bases) == len(set(bases)) == len(found.locks)
        assert {base.name for base in bases} == {bases[0].name}
        for base in bases:
            sweep_leftovers(base.parent)
        assert all(base.is_dir() for base in bases)
        (bases[0] / "left" / "behind").mkdir(parents=True)
    assert not any(base.exists() for base in bases)
    assert descriptors() == before


@pytest.fixture
def unified_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up v2 host that offers the cpu controller alone."""
    monkeypatch.setattr(hierarchy, "read_mounts", lambda: [v2(tmp_path)])
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu\n")
    (tmp_path / "cgroup.subtree_control").touch()
    real = Path.mkdir

    def mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        real(self, mode, parents, exist_ok)
        (self / "cgroup.subtree_control").touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    return tmp_path


def test_a_controller_that_is_not_offered_is_missing_with_a_remedy(unified_only: Path) -> None:
    with open_hierarchies() as found:
        assert list(found.controllers) == ["cpu"]
        base = found.bases[0]
        assert found.controllers["cpu"] == hierarchy.Controller(2, base)
        assert (unified_only / "cgroup.subtree_control").read_text() == "+cpu"
        assert (base / "cgroup.subtree_control").read_text() == "+cpu"
        assert list(found.missing) == ["memory", "io", "pids"]
        assert found.missing["memory"] == "this kernel offers no memory controller; boot with it enabled"


def test_a_controller_that_we_may_not_use_is_missing_with_a_remedy(unified_only: Path) -> None:
    (unified_only / "cgroup.subtree_control").unlink()
    (unified_only / "cgroup.subtree_control").symlink_to("/proc/1/mem/none")  # writing to it fails
    with open_hierarchies() as found:
        assert found.controllers == {}
        assert found.missing["cpu"] == (
            "the cpu controller cannot be used here (Not a directory); "
            "run the server as root, or as a systemd unit with Delegate=yes"
        )


def test_a_v1_host_tracks_by_its_freezer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = []
    for name in ("pids", "freezer", "cpuacct"):
        (tmp_path / name).mkdir()
        mounts.append(v1(tmp_path / name, name))
    monkeypatch.setattr(hierarchy, "read_mounts", lambda: mounts)
    with open_hierarchies() as found:
        assert found.bases[0].parent == tmp_path / "freezer"
        assert found.controllers["pids"].base.parent == tmp_path / "pids"
        assert found.cpuacct is not None
        assert found.cpuacct.parent == tmp_path / "cpuacct"
        assert sorted(found.missing) == ["cpu", "io", "memory"]


def test_a_host_without_cgroups_misses_every_controller_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hierarchy, "read_mounts", lambda: [v2(tmp_path / "gone")])
    before = descriptors()
    with open_hierarchies() as found:
        assert found.tracking is None
        assert found.bases == []
        assert set(found.missing) == {"cpu", "memory", "io", "pids"}
        assert "as root, or as a systemd unit with Delegate=yes" in found.missing["cpu"]
    assert descriptors() == before


@pytest.mark.parametrize("parent", ["../up", "/a/../../b", "a-file"])
def test_a_parent_that_cannot_be_used_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parent: str
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.setattr(hierarchy, "read_mounts", lambda: [v2(tmp_path)])
    with pytest.raises(CgroupError, match="--cgroup-parent"), open_hierarchies(parent):
        pass


def test_co_mounted_controllers_share_one_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("unified", "cpu,memory"):
        (tmp_path / name).mkdir()
    (tmp_path / "unified/cgroup.controllers").write_text("\n")
    mounts = [v1(tmp_path / "cpu,memory", "cpu", "memory"), v2(tmp_path / "unified")]
    monkeypatch.setattr(hierarchy, "read_mounts", lambda: mounts)
    with open_hierarchies() as found:
        assert found.controllers["cpu"] == found.controllers["memory"]
        assert len(found.locks) == len(found.bases) == 2
        assert sorted(found.missing) == ["io", "pids"]


def test_a_parent_into_which_nothing_may_be_moved_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making and limiting cgroups there would work, and then every job would fail to join."""
    monkeypatch.setattr(hierarchy, "read_mounts", lambda: [Mount(2, frozenset(), tmp_path / "own", tmp_path)])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with (
        pytest.raises(CgroupError, match=f"may write to {tmp_path}/cgroup.procs"),
        open_hierarchies("/elsewhere"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
