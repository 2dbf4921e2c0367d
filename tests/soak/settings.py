"""Owns the servers that the soak runs: their budgets of output, and the burst that each must bear."""

import enum
from dataclasses import dataclass

MIB = 2**20


class Ending(enum.Enum):
    """How a phase's server ends: at rest, once all is checked, or while its clients do what they do."""

    REST = "SIGTERM at rest"
    TERM = "SIGTERM"
    KILL = "SIGKILL"


@dataclass(frozen=True)
class Burst:
    """Jobs that print much at once.

    Args:
        ended: jobs that print, a few at a time, and end.
        ended_bytes: what each of them prints.
        at_once: jobs that are then started together.
        at_once_bytes: what each of them prints.
    """

    ended: int
    ended_bytes: int
    at_once: int
    at_once_bytes: int


@dataclass(frozen=True)
class Setting:
    """One server.

    Args:
        name: its budget, for people.
        memory: MiB of output in memory, of all jobs.
        job_memory: MiB of one job's.
        most: bytes that a job of the mixture prints at most.
        burst: what comes after the mixture.
        drop: whether output past ``disk`` is dropped.
        disk: MiB of output on the disk; None for the server's default.
        stall: seconds after which a reader is given up that takes nothing; None for the server's default.
        ending: how it ends; without rest, there is no burst.
        full: whether the disk is to be full now and then, so that jobs wait until others are removed.
    """

    name: str
    memory: int
    job_memory: int
    most: int
    burst: Burst
    drop: bool = False
    disk: int | None = None
    stall: int | None = None
    ending: Ending = Ending.REST
    full: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of `serve`."""
        flags = ["--output-memory", f"{self.memory}M", "--job-memory", f"{self.job_memory}M"]
        flags += ["--overflow", "drop" if self.drop else "block"]
        if self.disk is not None:
            flags += ["--spill-limit", f"{self.disk}M"]
        if self.stall is not None:
            flags += ["--stall-timeout", str(self.stall)]
        if self.ending is Ending.TERM:
            flags += ["--grace", "1"]
        return tuple(flags)


NO_BURST = Burst(0, 0, 0, 0)
#: Of each budget, as much again as fits in ended jobs, and then more at once than is left.
SETTINGS = (
    Setting("64M", 64, 64, 4 * MIB, Burst(70, 1_000_000, 20, 5_000_000)),
    Setting("4M", 4, 1, 3 * MIB, Burst(12, 500_000, 20, 2_000_000)),
    Setting("4M-drop", 4, 1, 3 * MIB, Burst(12, 500_000, 20, 2_000_000), drop=True, disk=16),
    Setting("16M-killed", 16, 4, 2 * MIB, NO_BURST, ending=Ending.KILL),
    Setting("1M", 1, 1, MIB, Burst(12, 100_000, 20, 1_000_000)),
    Setting("256M", 256, 64, 6 * MIB, Burst(200, 1_000_000, 30, 10_000_000)),
    Setting("64M-drop", 64, 8, 4 * MIB, Burst(70, 1_000_000, 20, 5_000_000), drop=True, disk=64),
    Setting("4M-full", 4, 1, 200_000, Burst(30, 500_000, 20, 1_000_000), disk=24, full=True),
    Setting("4M-ended", 4, 2, 2 * MIB, NO_BURST, stall=2, ending=Ending.TERM),
)
