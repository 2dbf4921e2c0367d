"""Owns how tests find cgroups: by name, in every hierarchy, while others make and remove theirs."""

import fnmatch
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def find_cgroups(pattern: str) -> list[Path]:
    """The cgroups with such a name. Unlike Path.glob, os.walk bears that others vanish under it."""
    return sorted(
        Path(folder) / name for folder, names, _ in os.walk(ROOT) for name in fnmatch.filter(names, pattern)
    )


def cgroups_in(parent: Path) -> list[Path]:
    """The cgroups right below one; none if it has been removed."""
    return sorted(parent / name for _, names, _ in list(os.walk(parent))[:1] for name in names)


def own_place(controller: str) -> str:
    """Where this process is in the v1 hierarchy of a controller, from its root; empty at the root itself."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, place = line.split(":", 2)
        if controller in names.split(","):
            return place.rstrip("/")
    return ""
