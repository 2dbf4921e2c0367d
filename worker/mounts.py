"""Owns where cgroup hierarchies are mounted on this host, and our own place in each."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """One cgroup hierarchy: the top of what is mounted of it, and our own cgroup in it."""

    version: int
    controllers: frozenset[str]
    own: Path
    top: Path


def find_mounts(mountinfo: str, own_cgroups: str) -> list[Mount]:
    """Read the cgroup mounts and our place in them.

    Args:
        mountinfo: the text of /proc/self/mountinfo, proc_pid_mountinfo(5).
        own_cgroups: the text of /proc/self/cgroup, cgroups(7).
    """
    # Lines end with a newline and fields with a space, and with nothing else that Python takes for one:
    # the kernel escapes only these in the names of mounts, which users may choose, or leave empty.
    own: dict[str, str] = {}
    for line in own_cgroups.split("\n")[:-1]:
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    mounts = []
    for line in mountinfo.split("\n")[:-1]:
        left, _, right = line.partition(" - ")
        root, mountpoint = (_unescape(word) for word in left.split(" ")[3:5])
        fstype, _, options = right.split(" ")[:3]
        if fstype == "cgroup2" and "" in own:
            place = _own_path(mountpoint, root, own[""])
            mounts.append(Mount(2, frozenset(), place, Path(mountpoint)))
        elif fstype == "cgroup":
            found = frozenset(options.split(",")) & own.keys()
            if found:
                place = _own_path(mountpoint, root, own[min(found)])
                mounts.append(Mount(1, found, place, Path(mountpoint)))
    return mounts


def read_mounts() -> list[Mount]:
    """This host's cgroup mounts, as `find_mounts` finds them."""
    proc = Path("/proc/self")
    return find_mounts(*(os.fsdecode((proc / name).read_bytes()) for name in ("mountinfo", "cgroup")))


def _unescape(word: str) -> str:
    return word.encode("latin-1", "backslashreplace").decode("unicode_escape") if "\\" in word else word


def _own_path(mountpoint: str, root: str, own: str) -> Path:
    """Where our own cgroup shows below a mount; a container's mount may show only a part of the tree."""
    prefix = root.rstrip("/") + "/"
    inside = own[len(prefix) :] if (own + "/").startswith(prefix) and own != root else ""
    place = Path(mountpoint) / inside.lstrip("/")
    return place if ".." not in place.parts and place.is_dir() else Path(mountpoint)
