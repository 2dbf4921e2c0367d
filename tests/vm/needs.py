"""Owns what a machine needs for tests in a virtual machine, and the sentences for what is missing."""

import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.machine import VirtualMachineError

#: Programs that must be there, each with the Debian package that brings it.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mkfs.ext4": "e2fsprogs",
    "busybox": "busybox-static",
    "file": "file",
    "modprobe": "kmod",
}
#: mkfs.ext4 and modprobe lie where a user's PATH may not reach.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Needs:
    """What was found: vng, and the newest installed kernel."""

    vng: Path
    kernel: Path


def newest_kernel(images: Iterable[Path]) -> Path | None:
    """Return the image with the highest version, or None if there are none."""

    def version(image: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", image.name)]

    return max(images, key=version, default=None)


def find_needs(boot: Path = Path("/boot"), which: Callable[[str], str | None] | None = None) -> Needs:
    """Find what is needed; raises VirtualMachineError with a sentence for each thing that is not there."""

    def on_path(program: str) -> str | None:
        return shutil.which(program, path=SYSTEM_PATH)

    found = which or on_path
    missing = [
        f"{program} is missing: install the Debian package {package}."
        for program, package in PROGRAMS.items()
        if found(program) is None
    ]
    kernel = newest_kernel(boot.glob("vmlinuz-*-amd64"))
    if kernel is None:
        missing.append(f"{boot} has no vmlinuz-*-amd64: install the Debian package linux-image-amd64.")
    vng = Path(sys.executable).with_name("vng")
    if not vng.exists():
        missing.append("vng is missing: run `just setup`.")
    if missing or kernel is None:
        raise VirtualMachineError("\n".join(missing))
    return Needs(vng, kernel)
