"""Where cgroups are found on each kind of host, and where we are in them: recorded texts of /proc."""

import os
from pathlib import Path

import pytest

from worker.mounts import Mount, find_mounts, read_mounts

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
    "32 25 0:28 / {0}/freezer rw,nosuid shared:12 - cgroup cgroup rw,xattr,freezer\n"
)
V1_OWN = "6:freezer:/\n5:memory:/\n4:cpu,cpuacct:/user.slice\n"


def v2(own: Path, top: Path) -> Mount:
    return Mount(2, frozenset(), own, top)


def v1(own: Path, top: Path, *controllers: str) -> Mount:
    return Mount(1, frozenset(controllers), own, top)


def test_a_unified_host(tmp_path: Path) -> None:
    own = tmp_path / "cgroup/system.slice/a:b.service"
    own.mkdir(parents=True)
    found = find_mounts(UNIFIED.format(tmp_path), "0::/system.slice/a:b.service\n")
    assert found == [v2(own, tmp_path / "cgroup")]


def test_a_hybrid_host(tmp_path: Path) -> None:
    (tmp_path / "memory/api/f0ae").mkdir(parents=True)
    plain = ("cpu", "cpuacct", "blkio", "pids", "unified")
    cpu, cpuacct, blkio, pids, unified = (tmp_path / name for name in plain)
    assert find_mounts(HYBRID.format(tmp_path), HYBRID_OWN) == [
        v1(cpu, cpu, "cpu"),
        v1(cpuacct, cpuacct, "cpuacct"),
        v1(tmp_path / "memory/api/f0ae", tmp_path / "memory", "memory"),
        v1(blkio, blkio, "blkio"),
        v1(pids, pids, "pids"),
        v1(tmp_path / "systemd", tmp_path / "systemd", "name=systemd"),
        v2(unified, unified),
    ]


def test_a_v1_host(tmp_path: Path) -> None:
    own = tmp_path / "cpu,cpuacct/user.slice"
    own.mkdir(parents=True)
    assert find_mounts(V1.format(tmp_path), V1_OWN) == [
        v1(own, tmp_path / "cpu,cpuacct", "cpu", "cpuacct"),
        v1(tmp_path / "memory", tmp_path / "memory", "memory"),
        v1(tmp_path / "freezer", tmp_path / "freezer", "freezer"),
    ]
    assert find_mounts(V1.format(tmp_path), "") == []


def test_a_host_without_cgroups(tmp_path: Path) -> None:
    proc = UNIFIED.splitlines(keepends=True)[0]
    assert find_mounts(proc, "") == find_mounts("", "") == []


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
    assert find_mounts(line, f"0::{own}\n") == [v2(mountpoint / place, mountpoint)]


def test_escaped_mountpoints(tmp_path: Path) -> None:
    line = f"35 24 0:30 / {tmp_path}/a\\040b\\011\\134040\u20ac\\0121 rw - cgroup2 cgroup2 rw\n"
    place = Path(f"{tmp_path}/a b\t\\040\u20ac\n1")
    assert find_mounts(line, "0::/\n") == [v2(place, place)]


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
    assert found == [v2(tmp_path / "cgroup", tmp_path / "cgroup")]


@pytest.mark.host
def test_this_host() -> None:
    found = read_mounts()
    assert found
    for mount in found:
        assert (mount.version == 1) == bool(mount.controllers)
        assert mount.own.is_relative_to(mount.top)
        assert str(os.getpid()) in (mount.own / "cgroup.procs").read_text().split()
