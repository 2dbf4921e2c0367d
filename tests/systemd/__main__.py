"""Owns `just test-systemd`: the unit as shipped, under a real systemd, in a virtual machine.

The machine boots this host's kernel, with cgroup v2 alone, and a Debian of its own with systemd as its init.
worker-service is installed there as the README says, and `tests/systemd/checks.py` does as operators do.
What a host lacks for it is said, and nothing is tested then.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.systemd.checks import CHECKS
from tests.systemd.guest import CHOSEN, INSTRUCTION
from tests.systemd.root import make_root, pack
from tests.vm.machine import CPU, exit_code, run
from tests.vm.needs import SYSTEM_PATH, newest_kernel

#: Programs that must be there, each with the Debian package that brings it.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "debootstrap": "debootstrap",
    "mkfs.ext4": "e2fsprogs",
    "git": "git",
}
#: How long the machine may live, in seconds; the checks take two minutes where nothing else runs.
PATIENCE = 15 * 60


def find_missing(boot: Path = Path("/boot")) -> list[str]:
    """A sentence for each thing that is not there."""
    missing = [
        f"{program} is missing: install the Debian package {package}."
        for program, package in PROGRAMS.items()
        if shutil.which(program, path=SYSTEM_PATH) is None
    ]
    kernel = newest_kernel(boot.glob("vmlinuz-*-amd64"))
    if kernel is None or not initrd_of(kernel).exists():
        missing.append(f"{boot} has no kernel with its initrd: install linux-image-amd64.")
    if os.geteuid() != 0:
        missing.append("debootstrap needs root: run this as root.")
    return missing


def initrd_of(kernel: Path) -> Path:
    """The initial file system that Debian makes for a kernel, with the drivers for the disk."""
    return kernel.with_name(kernel.name.replace("vmlinuz-", "initrd.img-"))


def boot_command(kernel: Path, disk: Path, count: Path) -> list[str]:
    """Return the command that boots `disk` with systemd and powers off once the checks are done.

    Its serial ports: the console, which is stderr; what the checks show, on stdout; and the file `count`.
    """
    append = "root=/dev/vda rw init=/lib/systemd/systemd systemd.unified_cgroup_hierarchy=1"
    append += " console=ttyS0 loglevel=4 systemd.show_status=0"
    append += " systemd.mask=apt-daily.timer systemd.mask=apt-daily-upgrade.timer"
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", CPU, "-m", "2G", "-smp", "2"]
    command += ["-kernel", str(kernel), "-initrd", str(initrd_of(kernel)), "-append", append]
    command += ["-drive", f"if=virtio,format=raw,cache=unsafe,file={str(disk).replace(',', ',,')}"]
    for name, path in (("console", "/dev/stderr"), ("shown", "/dev/stdout"), ("count", str(count))):
        command += ["-chardev", f"file,id={name},path={path}", "-serial", f"chardev:{name}"]
    return command


def test_in_machine(checks: list[str], cache: Path | None) -> int:
    """Make the disk, boot it, and return how many checks failed; raises VirtualMachineError."""
    kernel = newest_kernel(Path("/boot").glob("vmlinuz-*-amd64"))
    assert kernel is not None
    with tempfile.TemporaryDirectory(prefix="test-systemd-", dir="/var/tmp") as folder:
        work = Path(folder)
        root = work / "root"
        instruction = make_root(root, cache)
        for path, text in ((INSTRUCTION, instruction), (CHOSEN, " ".join(checks))):
            (root / path.relative_to("/")).write_text(text)
        disk = pack(root, work / "disk")
        sys.stdout.write(f"test-systemd: booting {kernel}\n")
        sys.stdout.flush()
        return run(
            boot_command(kernel, disk, work / "count"), {"PATH": SYSTEM_PATH}, PATIENCE, work / "count"
        )


def main() -> int:
    """Run the checks; errors are sentences on stderr."""
    parser = argparse.ArgumentParser(prog="just test-systemd", description=__doc__)
    parser.add_argument("--debian", type=Path, help="keep the bare Debian here, and use one that is there")
    names = [it.__name__ for it in CHECKS]
    parser.add_argument("--only", action="append", choices=names, metavar="CHECK", help="may be repeated")
    asked = parser.parse_args()
    missing = find_missing()
    if missing:
        sys.stderr.write(
            "SKIPPED, NOTHING WAS TESTED under systemd:\n" + "".join(f"  {it}\n" for it in missing)
        )
        return 0
    return exit_code(lambda: min(test_in_machine(asked.only or [], asked.debian), 1))


if __name__ == "__main__":
    sys.exit(main())
