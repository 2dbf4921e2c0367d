"""Owns what /proc tells of a process: its memory, its processor time, what it has transferred (proc(5))."""

import os
from pathlib import Path


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, from its state on, which is proc(5)'s third."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def memory_of(pid: int, field: str = "VmRSS") -> int:
    """Bytes of its memory by a field of /proc/PID/status, such as VmHWM for the peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"/proc/{pid}/status has no {field}")


def transferred(pid: int, field: str) -> int:
    """Bytes that it has read (rchar) or written (wchar) so far, wherever."""
    return int(Path(f"/proc/{pid}/io").read_text().partition(f"{field}: ")[2].split()[0])


def processor_seconds(pid: int) -> float:
    """How long it has used a processor."""
    fields = stat_of(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waited_seconds(pid: int) -> float:
    """How long its main thread could have run and did not: others ran, or its quota was used up.

    0 where the kernel does not count that (CONFIG_SCHED_INFO, sched-stats.rst).
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


def page_faults(pid: int) -> int:
    """How often it has touched memory that it had not yet, or no more."""
    return int(stat_of(pid)[7])
