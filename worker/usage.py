"""Owns what a job has used, as its cgroups count it. Sources: as in `worker.ceilings`."""

import os
from pathlib import Path

from wire.jobs import Usage

from .cgroupfs import read
from .hierarchy import Hierarchies


def measure(hierarchies: Hierarchies, name: str) -> Usage | None:
    """Read a job's counters.

    Args:
        hierarchies: the server's subtree.
        name: the job's directory below each base.

    Returns:
        What is counted on this host; None if CPU time is not.
    """
    cpu = _cpu(hierarchies, name)
    if cpu is None:
        return None
    user, system = cpu
    memory, memory_peak = _memory(hierarchies, name)
    disk = _disk(hierarchies, name)
    pids = _path(hierarchies, name, "pids")
    return Usage(
        cpu_user=user,
        cpu_system=system,
        memory=memory,
        memory_peak=memory_peak,
        tasks=_number(pids / "pids.current") if pids else None,
        disk_read=disk[0],
        disk_written=disk[1],
        disk_reads=disk[2],
        disk_writes=disk[3],
        throttled=_throttled(hierarchies, name),
    )


def _path(hierarchies: Hierarchies, name: str, controller: str) -> Path | None:
    found = hierarchies.controllers.get(controller)
    return found.base / name if found else None


def _number(path: Path) -> int | None:
    text = read(str(path)).strip()
    return int(text) if text.isdigit() else None


def _keyed(path: Path) -> dict[str, int]:
    """A flat keyed file: a name and a number on each line."""
    pairs = (line.split() for line in read(str(path)).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _cpu(hierarchies: Hierarchies, name: str) -> tuple[float, float] | None:
    if hierarchies.tracking is not None:  # v2 counts CPU time in every cgroup, whatever is enabled
        stat = _keyed(hierarchies.tracking / name / "cpu.stat")
        if "user_usec" in stat:
            return stat["user_usec"] / 1e6, stat["system_usec"] / 1e6
    if hierarchies.cpuacct is not None:
        stat = _keyed(hierarchies.cpuacct / name / "cpuacct.stat")
        if stat:
            ticks = os.sysconf("SC_CLK_TCK")
            return stat["user"] / ticks, stat["system"] / ticks
    return None


def _throttled(hierarchies: Hierarchies, name: str) -> float | None:
    path = _path(hierarchies, name, "cpu")
    if path is None:
        return None
    stat = _keyed(path / "cpu.stat")
    if "throttled_usec" in stat:
        return stat["throttled_usec"] / 1e6
    return stat["throttled_time"] / 1e9 if "throttled_time" in stat else None


def _memory(hierarchies: Hierarchies, name: str) -> tuple[int | None, int | None]:
    path = _path(hierarchies, name, "memory")
    if path is None:
        return None, None
    if hierarchies.controllers["memory"].version == 2:
        return _number(path / "memory.current"), _number(path / "memory.peak")
    return _number(path / "memory.usage_in_bytes"), _number(path / "memory.max_usage_in_bytes")


def _disk(hierarchies: Hierarchies, name: str) -> tuple[int, int, int, int] | tuple[None, None, None, None]:
    """Bytes read and written, operations read and written, on whole disks: what lies on them counts once."""
    path = _path(hierarchies, name, "io")
    if path is None:
        return None, None, None, None
    if hierarchies.controllers["io"].version == 2:
        totals = dict.fromkeys(("rbytes", "wbytes", "rios", "wios"), 0)
        disk = ""
        # Some kernels print a disk without figures and without a line's end: each number begins a new one.
        for word in read(f"{path}/io.stat").split():
            key, equals, value = word.partition("=")
            if not equals:
                disk = word
            elif key in totals and value.isdigit() and _is_disk(disk):
                totals[key] += int(value)
        return totals["rbytes"], totals["wbytes"], totals["rios"], totals["wios"]
    sizes, counts = (_v1_disk(path, file) for file in ("io_service_bytes", "io_serviced"))
    return *sizes, *counts


def _v1_disk(path: Path, file: str) -> tuple[int, int]:
    found = {"Read": 0, "Write": 0}
    for line in read(f"{path}/blkio.throttle.{file}_recursive").splitlines():
        match line.split():
            case [disk, ("Read" | "Write") as way, value] if _is_disk(disk):
                found[way] += int(value)
    return found["Read"], found["Write"]


def _is_disk(number: str) -> bool:
    return os.path.exists(f"/sys/dev/block/{number}/device")  # noqa: PTH110  # once a line, at every query
