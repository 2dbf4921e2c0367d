"""Owns the guest's disk: a Debian with systemd as its init, and worker-service installed as the README says.

All of it is made on the host, natively, in a chroot; only what needs a running systemd, the last line of the
README's block, is left for the guest.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.vm.disk import GIB, blank
from tests.vm.machine import VirtualMachineError
from tests.vm.needs import SYSTEM_PATH

ROOT = Path(__file__).parents[2]
#: What the guest has beside Debian's smallest set: its init, and what worker-service wants.
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,openssl"
#: Where the guest finds this repository, its wheels and an authority with everybody's certificates.
PROJECT, WHEELS, CERTS = "root/worker-service", "root/wheels", "root/certs"
_BLOCK = re.compile(r"^## As a systemd service$.*?^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read_instructions(readme: str) -> tuple[str, str]:
    """Return the README's instructions: those that need no running systemd, and the last line."""
    found = _BLOCK.search(readme)
    lines = found[1].splitlines() if found else []
    if [line.startswith("systemctl ") for line in lines] != [False] * (len(lines) - 1) + [True]:
        raise VirtualMachineError(
            'README.md needs, below "As a systemd service", a block of commands whose last line alone is '
            "systemctl's: look at what has changed there, and at tests/systemd/root.py."
        )
    return "\n".join(lines[:-1]), lines[-1]


def make_root(root: Path, cache: Path | None) -> str:
    """Make the guest's file system in `root`, and return the commands that are left for the guest.

    Args:
        root: a folder that is not there yet.
        cache: where the bare Debian is kept for the next time; None for not at all.
    """
    before, after = read_instructions((ROOT / "README.md").read_text())
    _debian(cache or root)
    if cache is not None:
        _run(
            ["cp", "-a", "--reflink=auto", str(cache), str(root)], "the Debian that is kept cannot be copied"
        )
    _copy_project(root / PROJECT)
    _make_wheels(root)
    _run(
        ["chroot", str(root), "sh", "-exc", f"cd /{PROJECT}\n{before}"],
        "the README's instructions failed",
        {"HOME": "/root", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"/{WHEELS}", "LANG": "C.UTF-8"},
    )
    # Here, because keys of 4096 bits take an emulated machine minutes.
    init = ["/opt/worker-service/bin/worker-service", "certs", "init", "--dir", f"/{CERTS}"]
    _run(["chroot", str(root), *init, "--san", "127.0.0.1"], "no certificates could be made")
    shutil.copy(ROOT / "tests/systemd/checks.service", root / "etc/systemd/system")
    _run(["chroot", str(root), "systemctl", "-q", "enable", "checks"], "the checks cannot be set up")
    return after


def pack(root: Path, disk: Path) -> Path:
    """Make a disk of a file system; it takes no more space than its files until the guest writes to it."""
    _run(["mkfs.ext4", "-q", "-F", "-d", str(root), str(blank(disk, 2 * GIB))], "mkfs.ext4 made no disk")
    return disk


def _debian(root: Path) -> None:
    """The Debian of this machine, from where this machine gets its own; what is there already stays."""
    if (root / "etc/debian_version").exists():
        return
    suite = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    form = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]
    listed = _run(form, "apt says nothing of its sources").split("\n")
    found = [line.split() for line in listed if suite and line.endswith(f" {suite[1]} main")]
    if not found:
        raise VirtualMachineError("apt knows no source of this machine's Debian: look into /etc/apt.")
    (uri, release, _), *_ = found
    sys.stdout.write(f"test-systemd: making a Debian {release}; this takes some minutes\n")
    sys.stdout.flush()
    making = root.with_name(root.name + ".making")  # what was cut short must not be taken for one
    if making.exists():
        shutil.rmtree(making)
    making.parent.mkdir(parents=True, exist_ok=True)
    options = ["--variant=minbase", f"--include={PACKAGES}"]
    _run(["debootstrap", *options, release, str(making), uri], "debootstrap made no Debian")
    making.rename(root)


def _copy_project(folder: Path) -> None:
    listed = _run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        "git does not say which files the project has",
    )
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def _make_wheels(root: Path) -> None:
    """Everything that pip will want in the guest, which has no network."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not (root / "usr/bin" / version).exists():
        raise VirtualMachineError(f"this Debian has no {version}: make .venv with Debian's own python3.")
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "-w", str(root / WHEELS), str(ROOT), "hatchling"]
    _run(pip, "pip could not make the wheels", os.environ)
    for wheel in (root / WHEELS).glob("worker_service-*"):
        wheel.unlink()  # the README's own command is to make it


def _run(command: Sequence[str], failed: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it printed; its last words are the error's."""
    done = subprocess.run(
        command,
        env={**(environment or {}), "PATH": SYSTEM_PATH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise VirtualMachineError(f"{failed}:\n{words}")
    return done.stdout
