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
