"""Owns how a job of these tests looks into other processes: ``python -I -S look.py WHAT...`` prints JSON.

WHAT are pids: what can be had of each, and of our parent. Or it is ``between``: of the first process found
that is our user's and has not become its job yet. It imports the standard library alone.
"""

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)
VM_READV = {"x86_64": 310, "aarch64": 270, "riscv64": 270}[os.uname().machine]
PIDFD_GETFD = 438
PTRACE_SEIZE = 0x4206


def call(*words: int) -> None:
    if libc.syscall(*map(ctypes.c_long, words)) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def read_memory(pid: int) -> None:
    """From address 0, where there is none: EFAULT comes after the question whether one may."""
    word = ctypes.create_string_buffer(8)
    here, there = ((ctypes.c_size_t * 2)(at, 8) for at in (ctypes.addressof(word), 0))
    try:
        call(VM_READV, pid, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise


def trace(pid: int) -> None:
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) < 0:  # until this process ends
        raise OSError(ctypes.get_errno(), "refused")


WAYS: dict[str, Callable[[int], object]] = {
    "environment": lambda pid: os.open(f"/proc/{pid}/environ", os.O_RDONLY),
    "descriptor": lambda pid: os.readlink(f"/proc/{pid}/fd/0"),  # noqa: PTH115
    "program": lambda pid: os.readlink(f"/proc/{pid}/exe"),  # noqa: PTH115
    "memory": lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDONLY),
    "reading": read_memory,
    "stealing": lambda pid: call(PIDFD_GETFD, os.pidfd_open(pid), 0, 0),
    "tracing": trace,
}


def look(pid: int) -> dict[str, str]:
    """What each way comes to: ok, or its errno's name."""
    found = {}
    for name, way in WAYS.items():
        try:
            way(pid)
            found[name] = "ok"
        except OSError as error:
            found[name] = errno.errorcode[error.errno or 0]
    return found


def is_between(pid: str) -> bool:
    """Whether it is ours, and still runs what forked it."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            if not any(word.endswith(b"spawner_main.py") for word in file.read().split(b"\0")):
                return False
        with open(f"/proc/{pid}/status") as file:  # noqa: PTH123
            return f"\nUid:\t{os.getuid()}\t" in file.read()
    except OSError:
        return False


def between() -> dict[str, str]:
    """Wait for such a process, and look; again, if it had gone on before all was tried."""
    while True:
        for pid in os.listdir("/proc"):  # noqa: PTH208
            if pid.isdigit() and is_between(pid):
                found = look(int(pid))
                if is_between(pid):
                    return found


def main() -> None:
    """Tell it."""
    print("looking", flush=True)  # noqa: T201
    if sys.argv[1:] == ["between"]:
        print(json.dumps(between()))  # noqa: T201
    else:
        print(json.dumps([*(look(int(pid)) for pid in sys.argv[1:]), look(os.getppid())]))  # noqa: T201


if __name__ == "__main__":
    main()
