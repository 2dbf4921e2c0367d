"""Owns a virtual machine's life: QEMU as a process group of its own, its output relayed, its end certain.

vng (virtme-ng) boots a kernel over this machine's own file system, read-only, and runs one command in it. The
command's output arrives on stdout as it is made; the kernel's, from warnings up, on stderr, kept for the day
on which the machine dies.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

#: Of the kernel's last words, the number of lines to show.
LAST_WORDS = 30
#: Where the guest sees the folder that it shares with the host.
SHARED = "/run/shared"
#: What udev would load for hardware that only costs an emulated machine seconds of its boot.
UNWANTED = "kvm_amd,kvm_intel,ahci,psmouse,i2c_i801,lpc_ich,iTCO_wdt"
#: What the guest's kernel is told. Guarding against speculation and clearing fresh pages, neither of which an
#: emulated CPU or a machine of one user needs, took half of its time.
KERNEL = (
    "cgroup_no_v1=all",
    "loglevel=4",
    f"modprobe.blacklist={UNWANTED}",
    "mitigations=off",
    "init_on_alloc=0",
)

#: x86-64-v2. What else QEMU can emulate only brings the kernel more modules to load and to test.
CPU = "qemu64,+cx16,+popcnt,+ssse3,+sse4.1,+sse4.2,+rdrand"
#: This machine's file system once more, for the guest to mount by the name `host`.
HOST = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"


class VirtualMachineError(Exception):
    """The tests could not run, or not to their end; the message is one sentence."""


def boot_command(vng: Path, kernel: Path, shared: Path, disks: dict[str, Path], script: str) -> list[str]:
    """Return the command that boots `kernel`, runs `script` (in sh) as root, and powers off.

    The guest may write to `shared`, a folder of the host, and to `disks`, raw images by their serial number.
    They are not given to vng's --disk, because it lets QEMU guess their format, and QEMU then refuses to let
    the guest write a partition table.
    """
    command = [str(vng), "--verbose", "--disable-kvm", "--force-9p", "--run", str(kernel), "--user", "root"]
    command += ["--memory", "2G", "--cpus", "2", "--name", "test-vm", "--rwdir", f"{SHARED}={shared}"]
    for option in KERNEL:
        command += ["--append", option]
    qemu = ["-cpu", CPU, "-virtfs", HOST]
    for serial, image in disks.items():
        drive = f"if=none,id={serial},format=raw,file={str(image).replace(',', ',,')}"
        qemu += ["-drive", drive, "-device", f"virtio-blk-pci,drive={serial},serial={serial}"]
    return [*command, "--exec", script, f"--qemu-opts={shlex.join(qemu)}"]


class Machine:
    """A virtual machine, or any command. `console` grows with its stderr; on leaving the block it is dead."""

    def __init__(self, command: list[str], env: dict[str, str], patience: float) -> None:
        """Start it; `patience`, in seconds, is how long it may live."""
        self.console: deque[bytes] = deque(maxlen=LAST_WORDS)
        self.overdue = False
        # Pipes, because QEMU opens and truncates whatever file it finds as its stdout and stderr.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=env,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._alarm = threading.Timer(patience, self._expire)
        self._listener.start()
        self._alarm.start()

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self._alarm.cancel()
        self._alarm.join()
        self._kill()  # while its leader is not waited for, no other group can have this number
        with self._process:
            self._listener.join(5)

    def _listen(self, stderr: IO[bytes]) -> None:
        for line in stderr:
            self.console.append(line.rstrip())

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _expire(self) -> None:
        self.overdue = True
        self._kill()

    def relay(self, sink: BinaryIO) -> None:
        """Copy its stdout as it comes, until its end."""
        assert self._process.stdout is not None
        while chunk := os.read(self._process.stdout.fileno(), 65536):
            sink.write(chunk)
            sink.flush()

    def last_words(self) -> str:
        """What it said last on stderr, for people: the kernel's, or vng's if it never came to boot."""
        self._listener.join(1)
        return "\n".join(line.decode(errors="replace") for line in self.console)


def run(command: list[str], env: dict[str, str], patience: float, status: Path) -> int:
    """Run a machine to its end, its stdout on ours, and return the number that its script left in `status`.

    Raises VirtualMachineError if it left none, after showing the machine's last words on stderr.
    """
    with Machine(command, env, patience) as machine:
        machine.relay(sys.stdout.buffer)
        words = machine.last_words()
        overdue = machine.overdue
    with suppress(FileNotFoundError, ValueError):
        return int(status.read_text())
    sys.stderr.write(f"{words}\n")
    if overdue:
        raise VirtualMachineError(f"the virtual machine was killed: it still ran after {patience:.0f} s.")
    if "Kernel panic" in words:
        raise VirtualMachineError("the virtual machine's kernel panicked, as shown above.")
    raise VirtualMachineError("the virtual machine ended before the tests did; its last words are above.")


def exit_code(test: Callable[[], int]) -> int:
    """Run what tests in a machine, which ends with it; errors are sentences on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return test()
    except VirtualMachineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; the virtual machine was ended.\n")
        return 130
