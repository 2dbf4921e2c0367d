"""Owns the real disks of this host: which there are, and which of them can share by weight.

A limit on every whole disk holds for all that lies on them: partitions belong to their disk, and what
device-mapper, md or a file system stacks on a disk reaches it as requests of the same cgroup.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import cgroupfs

BLOCK = Path("/sys/block")


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk: its kernel name, its ``major:minor``, and whether the BFQ scheduler serves it."""

    name: str
    number: str
    bfq: bool


def whole_disks(block: Path = BLOCK) -> list[Disk]:
    """Every real disk: what has a device behind it, so no loop, dm, md, ram or zram.

    One path of a multipath NVMe disk has no number of its own; the disk itself has.

    Raises:
        OSError: they could not all be looked at; a limit must not miss one.
    """
    disks = []
    for disk in sorted(block.iterdir()):
        if (disk / "device").exists():
            with contextlib.suppress(FileNotFoundError):
                number = (disk / "dev").read_text().strip()
                disks.append(Disk(disk.name, number, "[bfq]" in _text(disk / "queue/scheduler")))
    return disks


def without_weights(disks: Iterable[Disk], version: int, root: Path) -> list[str]:
    """The names of disks on which weights have no effect.

    Args:
        disks: the disks to look at.
        version: that of the io controller.
        root: the root cgroup, where io.cost is configured (v2).
    """
    lines = _text(root / "io.cost.qos").splitlines() if version == 2 else []
    costed = {line.split()[0] for line in lines if "enable=1" in line.split()}
    return [disk.name for disk in disks if not disk.bfq and disk.number not in costed]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def count_from_now(base: Path, disks: Iterable[Disk]) -> None:
    """Make v1's blkio count what cgroups below a base do to disks.

    Newer kernels begin to count once a disk has had a ceiling; this one is as good as none, and goes again.
    """
    for disk in disks:
        for value in (2**63 - 1, 0):
            with contextlib.suppress(OSError):
                cgroupfs.write(f"{base}/blkio.throttle.read_bps_device", f"{disk.number} {value}")
