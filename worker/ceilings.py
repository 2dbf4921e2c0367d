"""Owns what a limit means to the kernel: its files in each cgroup version, what can be enforced, notes.

Sources: cgroup-v2.rst and cgroup-v1/{memory,blkio-controller}.rst in the kernel's documentation.
"""

import errno
import os
from pathlib import Path
from typing import Any

from wire.limits import Limits

from . import cgroupfs
from .disks import Disk, whole_disks, without_weights
from .hierarchy import Controller, Hierarchies

#: CPU bandwidth is given in this period, in microseconds: the kernel's default.
CPU_PERIOD = 100_000
#: The longest quota that the kernel takes, in microseconds, and the most tasks; more is no ceiling to it.
MAX_QUOTA = 2**44 - 1
MAX_PIDS = 4 * 1024 * 1024
#: v1 keeps only 32 bits of a number of operations: of 2^32 it would let none through.
MAX_V1_IOPS = 2**32 - 1
#: The limits and the controller that each needs.
CONTROLLER_OF = {
    "cpu": "cpu",
    "memory": "memory",
    "disk_ops": "io",
    "disk_bytes": "io",
    "pids": "pids",
    "cpu_weight": "cpu",
    "disk_weight": "io",
}

#: What says nothing of a limit, but that we can do no more at the moment.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_NO_SWAP = "the memory controller does not count swap here; boot with swapaccount=1, or turn swap off"


class LimitRefusedError(Exception):
    """A limit cannot be enforced here; the message names controller and remedy.

    Args:
        message: one sentence for people.
        limit: a field's name of `wire.limits.Limits`.
    """

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.limit), self.__dict__


def check_enforceable(hierarchies: Hierarchies, limits: Limits) -> None:
    """Refuse limits that this host cannot enforce, before anything starts.

    Raises:
        LimitRefusedError: with the controller's name and the remedy.
    """
    for name in limits.named():
        reason = why_not(hierarchies, name)
        if reason:
            raise LimitRefusedError(f"The {name} limit cannot be enforced on this host: {reason}.", name)


def why_not(hierarchies: Hierarchies, limit: str) -> str | None:
    """Why a limit cannot be enforced here, with the remedy; None if it can.

    Args:
        hierarchies: the server's subtree.
        limit: a field's name of `wire.limits.Limits`.
    """
    name = CONTROLLER_OF[limit]
    controller = hierarchies.controllers.get(name)
    if controller is None:
        return hierarchies.missing.get(name, f"there is no {name} controller")
    if limit == "memory":
        return None if counts_swap(controller) else _NO_SWAP
    if name != "io":
        return None
    disks = whole_disks()
    if not disks:
        return "the io controller finds no real disk on it"
    if limit == "disk_weight":
        root = next((path for path in controller.base.parents if (path / "io.cost.qos").exists()), Path("/"))
        missing = without_weights(disks, controller.version, root)
        if missing:
            return (
                f"the io controller shares {', '.join(missing)} by weight only with the bfq scheduler "
                f"(echo bfq >/sys/block/{missing[0]}/queue/scheduler)"
                + (" or with io.cost.qos" if controller.version == 2 else "")
            )
    return None


def counts_swap(controller: Controller) -> bool:
    """Whether the memory controller holds swap too; nothing is to be held where there is none."""
    file = "memory.swap.max" if controller.version == 2 else "memory.memsw.limit_in_bytes"
    return (controller.base / file).exists() or len(cgroupfs.read("/proc/swaps").splitlines()) < 2


def notes(limits: Limits) -> tuple[str, ...]:
    """Say which ceilings are higher than this machine: allowed, and probably not what was meant."""
    machine = {
        "cpu": (os.cpu_count() or 1) * 1000,
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "pids": int(cgroupfs.read("/proc/sys/kernel/pid_max") or MAX_PIDS),
    }
    words = {
        "cpu": lambda value: f"{value / 1000:g} CPUs",
        "memory": lambda value: f"{value / 2**30:.1f} GiB",
        "pids": lambda value: f"{value} tasks",
    }
    return tuple(
        f"The {name} limit of {words[name](value)} is more than this machine's {words[name](machine[name])}."
        for name, value in limits.named().items()
        if value > machine.get(name, value)
    )


def apply(hierarchies: Hierarchies, name: str, limits: Limits) -> None:
    """Write a job's limits into its cgroups.

    Args:
        hierarchies: the server's subtree.
        name: the job's directory below each base.
        limits: what to enforce.

    Raises:
        LimitRefusedError: the kernel refused a value.
        OSError: we have run out of what it takes to ask.
    """
    disks = whole_disks() if {"disk_ops", "disk_bytes"} & limits.named().keys() else []
    for limit, value in limits.named().items():
        controller = hierarchies.controllers[CONTROLLER_OF[limit]]
        path = controller.base / name
        for file, text in settings(limit, value, controller.version, path, disks):
            try:
                cgroupfs.write(f"{path}/{file}", text)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    continue  # a disk that was taken out since they were listed
                if error.errno in SHORTAGES:
                    raise
                reason = f"The kernel refused {limit} = {value} ({file}: {error.strerror})"
                if limit == "cpu" and error.errno == errno.EINVAL and controller.version == 1:
                    above = controller.base.parent
                    reason += f"; {above}, or a cgroup above it, has a lower quota: ask for less"
                raise LimitRefusedError(f"{reason}.", limit) from error


def settings(limit: str, value: int, version: int, path: Path, disks: list[Disk]) -> list[tuple[str, str]]:
    """The files to write for one limit, in order, as (name, text)."""
    quota = min(value * CPU_PERIOD // 1000, MAX_QUOTA)
    match limit, version:
        case "cpu", 2:
            return [("cpu.max", f"{quota} {CPU_PERIOD}")]
        case "cpu", _:
            return [("cpu.cfs_period_us", str(CPU_PERIOD)), ("cpu.cfs_quota_us", str(quota))]
        case "memory", 2:
            return [("memory.max", str(value)), *_if_there(path, "memory.swap.max", "0")]
        case "memory", _:
            swap = _if_there(path, "memory.memsw.limit_in_bytes", str(value))
            return [("memory.limit_in_bytes", str(value)), *swap]
        case "disk_ops", 2:
            return [("io.max", f"{disk.number} riops={value} wiops={value}") for disk in disks]
        case "disk_bytes", 2:
            return [("io.max", f"{disk.number} rbps={value} wbps={value}") for disk in disks]
        case (("disk_ops" | "disk_bytes"), _):
            unit, most = ("iops", MAX_V1_IOPS) if limit == "disk_ops" else ("bps", value)
            return [
                (f"blkio.throttle.{way}_{unit}_device", f"{disk.number} {min(value, most)}")
                for disk in disks
                for way in ("read", "write")
            ]
        case "cpu_weight", 2:
            return [("cpu.weight", str(value))]
        case "cpu_weight", _:
            # 100 is everybody's default weight, and 1024 everybody's default share.
            return [("cpu.shares", str(max(2, value * 1024 // 100)))]
        case "disk_weight", 2:
            return [
                *_if_there(path, "io.weight", str(value)),
                *_if_there(path, "io.bfq.weight", str(bfq_weight(value))),
            ]
        case "disk_weight", _:
            return [("blkio.bfq.weight", str(bfq_weight(value)))]
        case _:
            return [("pids.max", "max" if value > MAX_PIDS else str(value))]


def bfq_weight(weight: int) -> int:
    """A weight of 1 to 10000 in BFQ's 1 to 1000; both have 100 as everybody's default."""
    return weight if weight <= 100 else 100 + (weight - 100) * 900 // 9900


def _if_there(path: Path, file: str, text: str) -> list[tuple[str, str]]:
    return [(file, text)] if (path / file).exists() else []
