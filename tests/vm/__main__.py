"""Owns `just test-vm`: the tests marked `host` in a virtual machine whose only cgroups are version 2.

Arguments go to pytest, and its exit code comes back. VM_PATIENCE is how long the tests may take, in seconds.
"""

import os
import shlex
import sys
import tempfile
from pathlib import Path

from tests.vm.disk import GIB, blank, formatted
from tests.vm.machine import SHARED, boot_command, exit_code, run
from tests.vm.needs import SYSTEM_PATH, find_needs

ROOT = Path(__file__).parents[2]
PATIENCE = 20 * 60
#: What the guest's boot and its end may take on top, in seconds.
BOOT_PATIENCE = 180
#: How much slower an emulated machine is than a real one, for tests that wait.
SLOWNESS = 8


def settings(patience: int, arguments: list[str]) -> str:
    """Return the shell file that guest.sh reads: its variables, the tests' environment, and its arguments."""
    environment = {"SLOW_MACHINE": str(SLOWNESS)}
    if sys.stdout.isatty():
        environment |= {"PY_COLORS": "1", "COLUMNS": str(os.get_terminal_size().columns)}
    variables = {"ROOT": str(ROOT), "PYTHON": sys.executable, "PATIENCE": str(patience)}
    lines = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join([*lines, f"set -- {shlex.join(arguments)}", ""])


def test_in_machine(arguments: list[str]) -> int:
    """Build the disks, boot, and return pytest's exit code; raises VirtualMachineError."""
    patience = int(os.environ.get("VM_PATIENCE") or PATIENCE)
    needs = find_needs()
    with tempfile.TemporaryDirectory(prefix="test-vm-") as folder:
        work = Path(folder)
        shared = work / "shared"
        shared.mkdir()
        (shared / "settings").write_text(settings(patience, arguments))
        disks = {"image": formatted(work / "image", 4 * GIB), "scratch": blank(work / "scratch", GIB // 2)}
        sys.stdout.write(f"test-vm: booting {needs.kernel}\n")
        sys.stdout.flush()
        script = shlex.join(["sh", str(ROOT / "tests/vm/guest.sh"), SHARED])
        # vng finds its own programs on PATH, and leaves files in TMPDIR when it is killed.
        path = f"{needs.vng.parent}:{SYSTEM_PATH}"
        env = os.environ | {"PATH": path, "TMPDIR": str(work)}
        command = boot_command(needs.vng, needs.kernel, shared, disks, script)
        return run(command, env, patience + BOOT_PATIENCE, shared / "status")


def main() -> int:
    """Run the tests; errors are sentences on stderr."""
    return exit_code(lambda: test_in_machine(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
