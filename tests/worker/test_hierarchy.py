"""Where cgroups are found on each kind of host, and who may remove a server's base."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from worker import hierarchy
from worker.hierarchy import (
    CgroupError,
    Hierarchies,
    Mount,
    find_mounts,
    make_base,
    open_hierarchies,
    sweep_leftovers,
)

# Recorded; {0} is where the test has put the directories that these hosts have.
UNIFIED = (
    "23 30 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw\n"
    "35 24 0:30 / {0}/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - "
    "cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
)
HYBRID = (
    "31 23 0:28 / {0} rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / {0}/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    "33 31 0:30 / {0}/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n"
    "35 31 0:32 / {0}/memory rw,relatime - cgroup cgroup rw,memory\n"
    "38 31 0:35 / {0}/blkio rw,relatime - cgroup cgroup rw,blkio\n"
    "39 31 0:36 / {0}/pids rw,relatime - cgroup cgroup rw,pids\n"
    "40 31 0:37 / {0}/systemd rw,relatime - cgroup cgroup rw,name=systemd\n"
    "41 31 0:38 / {0}/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
HYBRID_OWN = "9:name=systemd:/\n8:pids:/\n7:blkio:/\n4:memory:/api/f0ae\n2:cpuacct:/\n1:cpu:/\n0::/\n"
V1 = (
    "30 25 0:26 / {0}/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
    "31 25 0:27 / {0}/memory rw,nosuid shared:11 - cgroup cgroup rw,memory\n"
)


def v2(path: Path) -> Mount:
    return Mount(2, frozenset(), path)


def v1(path: Path, *controllers: str) -> Mount:
    return Mount(1, frozenset(controllers), path)


def test_a_unified_host(tmp_path: Path) -> None:
    own = tmp_path / "cgroup/system.slice/a:b.service"
    own.mkdir(parents=True)
    found = find_mounts(UNIFIED.format(tmp_path), "0::/system.slice/a:b.service\n")
    assert found == [v2(own)]


def test_a_hybrid_host(tmp_path: Path) -> None:
    (tmp_path / "memory/api/f0ae").mkdir(parents=True)
    assert find_mounts(HYBRID.format(tmp_path), HYBRID_OWN) == [
        v1(tmp_path / "cpu", "cpu"),
        v1(tmp_path / "cpuacct", "cpuacct"),
        v1(tmp_path / "memory/api/f0ae", "memory"),
        v1(tmp_path / "blkio", "blkio"),
        v1(tmp_path / "pids", "pids"),
        v1(tmp_path / "systemd", "name=systemd"),
        v2(tmp_path / "unified"),
    ]


def test_a_v1_host(tmp_path: Path) -> None:
    own = tmp_path / "cpu,cpuacct/user.slice"
    own.mkdir(parents=True)
    assert find_mounts(V1.format(tmp_path), "5:memory:/\n4:cpu,cpuacct:/user.slice\n") == [
        v1(own, "cpu", "cpuacct"),
        v1(tmp_path / "memory", "memory"),
    ]
    assert find_mounts(V1.format(tmp_path), "") == []


@pytest.mark.parametrize(
    ("root", "own", "place"),
    [
        ("/", "/", ""),  # a container with its own cgroup namespace
        ("/docker/abc", "/docker/abc", ""),  # one without: its part of the tree is mounted
        ("/docker/abc", "/docker/abc/inner", "inner"),
        ("/docker/abc", "/docker/abcdef", ""),  # that is another's
        ("/docker/abc", "/", ""),
        ("/..", "/", ""),  # a mount from outside of our namespace
        ("/", "/../..", ""),  # we are outside of the mount's namespace
        ("/", "/../inner", ""),
        ("/", "/not/shown", ""),
    ],
)
def test_containers(tmp_path: Path, root: str, own: str, place: str) -> None:
    mountpoint = tmp_path / "cgroup"
    (mountpoint / "inner").mkdir(parents=True)
    line = f"1184 1170 0:30 {root} {mountpoint} ro,nosuid - cgroup2 cgroup rw\n"
    assert find_mounts(line, f"0::{own}\n") == [v2(mountpoint / place)]


def test_escaped_mountpoints(tmp_path: Path) -> None:
    line = f"35 24 0:30 / {tmp_path}/a\\040b\\011\\134040\u20ac\\0121 rw - cgroup2 cgroup2 rw\n"
    assert find_mounts(line, "0::/\n") == [v2(Path(f"{tmp_path}/a b\t\\040\u20ac\n1"))]


@pytest.mark.parametrize(
    "strange",
    [
        "50 30 0:40 / /mnt rw -  tmpfs  rw\n".replace("-  ", "- "),  # mounted with an empty source
        "50 30 0:40 / /home/u/a\x0cb rw - fuse.x x rw\n",  # what Python calls a line's end
        "50 30 0:40 / /home/u/a\u2028b rw - fuse.x x rw\n",
        "50 30 0:40 / /home/u/a\x85b rw - fuse.x x rw\n",
        "50 30 0:40 /a\u3000b /home/u/c rw - fuse.x x rw\n",
        os.fsdecode(b"50 30 0:40 / /home/u/\xff\xfe rw - fuse.x x rw\n"),
    ],
)
def test_strange_mounts_of_others_are_passed_over(tmp_path: Path, strange: str) -> None:
    (tmp_path / "cgroup").mkdir()
    found = find_mounts(strange + UNIFIED.format(tmp_path) + strange, "0::/\n")
    assert found == [v2(tmp_path / "cgroup")]


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
    folder = hierarchies.tracking
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
        sweep_leftovers(folder, folder)
        assert sleeper.wait(5) == -9
        assert not dead.exists()
        assert not empty.exists()
        assert live.is_dir()
        assert all(other.is_dir() for other in others)
        assert descriptors() == before
    finally:
        os.close(lock)
    sweep_leftovers(folder, folder)
    assert not live.exists()


@pytest.mark.host
def test_leftovers_in_a_v1_hierarchy_are_killed_through_the_v2_one(
    hierarchies: Hierarchies, sleeper: subprocess.Popen[bytes]
) -> None:
    controller = hierarchies.controllers["pids"]
    if controller.version == 2:
        pytest.skip("no v1 hierarchy here")
    bases = [folder / "worker-service-1-dead" for folder in (hierarchies.tracking, controller.base)]
    for base in bases:
        base.mkdir()
        (base / "cgroup.procs").write_text(str(sleeper.pid))
    sweep_leftovers(controller.base, hierarchies.tracking)
    assert sleeper.wait(5) == -9
    assert [base.exists() for base in bases] == [True, False]
    sweep_leftovers(hierarchies.tracking, hierarchies.tracking)
    assert not bases[0].exists()


# --- open_hierarchies


@pytest.mark.host
def test_bases_are_made_locked_and_removed() -> None:
    before = descriptors()
    with open_hierarchies() as found:
        bases = found.bases
        assert bases[0] == found.tracking
        assert len(bases) == len(set(bases)) == len(found.locks)
        assert {base.name for base in bases} == {found.tracking.name}
        for base in bases:
            sweep_leftovers(base.parent, found.tracking.parent)
        assert all(base.is_dir() for base in bases)
        (found.tracking / "left" / "behind").mkdir(parents=True)
    assert not any(base.exists() for base in bases)
    assert descriptors() == before


@pytest.fixture
def unified_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up v2 host that offers the cpu controller alone."""
    monkeypatch.setattr(hierarchy, "find_mounts", lambda *texts: [v2(tmp_path)])
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu\n")
    return tmp_path


def test_a_controller_that_is_not_offered_is_missing_with_a_remedy(unified_only: Path) -> None:
    with open_hierarchies() as found:
        assert list(found.controllers) == ["cpu"]
        assert found.controllers["cpu"] == hierarchy.Controller(2, found.tracking)
        assert (unified_only / "cgroup.subtree_control").read_text() == "+cpu"
        assert (found.tracking / "cgroup.subtree_control").read_text() == "+cpu"
        assert list(found.missing) == ["memory", "io", "pids"]
        assert found.missing["memory"] == (
            f"the kernel offers no memory controller in {unified_only}; "
            "boot with it enabled, or delegate it to this cgroup"
        )


def test_a_controller_that_we_may_not_use_is_missing_with_a_remedy(unified_only: Path) -> None:
    (unified_only / "cgroup.subtree_control").mkdir()  # writing to it fails
    with open_hierarchies() as found:
        assert found.controllers == {}
        assert found.missing["cpu"] == (
            "the cpu controller cannot be used here (Is a directory); "
            "run the server as root, or as a systemd unit with Delegate=yes"
        )


def test_no_v2_hierarchy_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hierarchy, "find_mounts", lambda *texts: [v1(tmp_path, "cpu")])
    with pytest.raises(CgroupError, match=r"mount -t cgroup2"), open_hierarchies():
        pass


def test_a_base_that_cannot_be_made_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hierarchy, "find_mounts", lambda *texts: [v2(tmp_path / "gone")])
    before = descriptors()
    remedy = "as root, or as a systemd unit with Delegate=yes"
    with pytest.raises(CgroupError, match=remedy), open_hierarchies():
        pass
    assert descriptors() == before


def test_co_mounted_controllers_share_one_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("unified", "cpu,memory"):
        (tmp_path / name).mkdir()
    (tmp_path / "unified/cgroup.controllers").write_text("\n")
    mounts = [v1(tmp_path / "cpu,memory", "cpu", "memory"), v2(tmp_path / "unified")]
    monkeypatch.setattr(hierarchy, "find_mounts", lambda *texts: mounts)
    with open_hierarchies() as found:
        assert found.controllers["cpu"] == found.controllers["memory"]
        assert len(found.locks) == len(found.bases) == 2
        assert sorted(found.missing) == ["io", "pids"]
