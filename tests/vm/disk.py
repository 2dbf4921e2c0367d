"""Owns the disks of the virtual machine: files that take no space until the guest writes to them."""

import subprocess
from pathlib import Path

from tests.vm.machine import VirtualMachineError
from tests.vm.needs import SYSTEM_PATH

GIB = 1024**3


def blank(path: Path, size: int) -> Path:
    """Make an empty disk of `size` bytes."""
    with path.open("xb") as file:
        file.truncate(size)
    return path


def formatted(path: Path, size: int) -> Path:
    """Make a disk of `size` bytes that is an empty ext4."""
    made = subprocess.run(
        ["mkfs.ext4", "-q", "-F", str(blank(path, size))],
        env={"PATH": SYSTEM_PATH},
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise VirtualMachineError(
            f"mkfs.ext4 could not make the virtual machine's disk: {made.stderr.strip()}"
        )
    return path
