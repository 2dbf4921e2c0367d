"""Owns one job's cgroup: made and limited before the job starts, signalled, killed, read and removed.

The job is a member of a v2 cgroup, which keeps its processes together whatever they do, and on hybrid
hosts of one v1 cgroup for each controller that its limits need. Sources: cgroup-v2.rst and
cgroup-v1/{memory,blkio-controller}.rst in the kernel's documentation.
"""

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import trio

from wire.limits import Limits

from .hierarchy import Hierarchies
from .spawner_main import remove_tree

#: CPU bandwidth is given in this period, in microseconds: the kernel's default.
CPU_PERIOD = 100_000
#: Longest wait for killed processes to leave and for the cgroup to be removed, in seconds.
REMOVE_DEADLINE = 10.0
#: The limits and the controller that each needs.
_CONTROLLER_OF = {"cpu": "cpu", "memory": "memory", "disk_ops": "io", "disk_bytes": "io", "pids": "pids"}


class LimitRefusedError(Exception):
    """A limit cannot be enforced here; the message names controller and remedy."""


def check_enforceable(hierarchies: Hierarchies, limits: Limits) -> None:
    """Refuse limits that this host cannot enforce, before anything starts.

    Raises:
        LimitRefusedError: with the controller's name and the remedy.
    """
    for name in limits.named():
        controller = _CONTROLLER_OF[name]
        if controller not in hierarchies.controllers:
            reason = hierarchies.missing.get(controller, f"there is no {controller} controller")
            raise LimitRefusedError(f"The {name} limit cannot be enforced on this host: {reason}.")
        if controller == "io" and not whole_disks():
            raise LimitRefusedError(f"The {name} limit cannot be enforced on this host: it has no disk.")


def whole_disks(block: Path = Path("/sys/block")) -> list[str]:
    """The ``major:minor`` of every real disk: what has a device behind it, so no loop, dm, md or ram.

    One path of a multipath NVMe disk has no number of its own; the disk itself has.
    """
    return sorted(
        (disk / "dev").read_text().strip()
        for disk in block.iterdir()
        if (disk / "device").exists() and (disk / "dev").exists()
    )


class JobCgroup:
    """One job's cgroup, in every hierarchy that it needs.

    Args:
        hierarchies: the server's subtree.
        name: the directory's name, the job's id.
        limits: what to enforce; checked with `check_enforceable` before.

    Raises:
        OSError: the kernel refused a directory; nothing is left behind.
        LimitRefusedError: the kernel refused a value; nothing is left behind.
    """

    def __init__(self, hierarchies: Hierarchies, name: str, limits: Limits) -> None:
        self.path = hierarchies.tracking / name
        self._memory_events: Path | None = None
        bases = [hierarchies.controllers[_CONTROLLER_OF[limit]].base for limit in limits.named()]
        self.paths = [base / name for base in dict.fromkeys([hierarchies.tracking, *bases])]
        made = []
        try:
            for path in self.paths:
                path.mkdir()
                made.append(path)
            for limit, value in limits.named().items():
                controller = hierarchies.controllers[_CONTROLLER_OF[limit]]
                self._limit(limit, value, controller.version, controller.base / name)
        except BaseException:
            for path in made:
                path.rmdir()
            raise

    def _limit(self, limit: str, value: int, version: int, path: Path) -> None:
        for file, text in _settings(limit, value, version, path):
            try:
                (path / file).write_text(text)
            except OSError as error:
                raise LimitRefusedError(
                    f"The kernel refused {limit} = {value} ({file}: {error.strerror})."
                ) from error
        if limit == "memory":
            self._memory_events = path / ("memory.events" if version == 2 else "memory.oom_control")

    @contextlib.contextmanager
    def open_procs(self) -> Iterator[list[int]]:
        """Descriptors through which a process joins: writing ``0`` to each moves the writer in."""
        with contextlib.ExitStack() as stack:
            fds = []
            for path in self.paths:
                fds.append(os.open(path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            yield fds

    def pids(self) -> list[int]:
        """The processes in the cgroup and in those that the job made below it."""
        pids: list[int] = []
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):
                pids += map(int, (Path(folder) / "cgroup.procs").read_text().split())
        return pids

    def is_empty(self) -> bool:
        """Whether no living process is left in the cgroup or below it; False if that cannot be read now."""
        try:
            return "populated 0" in (self.path / "cgroup.events").read_text()
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENODEV)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the job, and to no stranger.

        A pid may be reused between reading and signalling. So each is pinned by a pidfd first: if the
        pid is a member *after* that, it belongs either to the pinned process or to one that took the
        number of a dead one, and a signal to the dead one goes nowhere.
        """
        for pid in self.pids():
            with contextlib.suppress(OSError):
                pinned = os.pidfd_open(pid)
                try:
                    if self.path.name in Path(f"/proc/{pid}/cgroup").read_text():
                        signal.pidfd_send_signal(pinned, number)
                finally:
                    os.close(pinned)

    def kill(self) -> None:
        """Kill every process of the job at once (cgroup.kill, Linux 5.14).

        It may fail for a moment, as when descriptors have run out: `remove` tries again.
        """
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def oom_kills(self) -> int:
        """How many of the job's processes the kernel's OOM killer took, by its own counter."""
        if self._memory_events is None:
            return 0
        with contextlib.suppress(OSError):
            for line in self._memory_events.read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0

    async def wait_empty(self) -> None:
        """Wait until no living process is left. Looks again ever more rarely, 50 times a second at least."""
        await trio.lowlevel.checkpoint()
        pause = 0.0005
        while not self.is_empty():
            await trio.sleep(pause)
            pause = min(pause * 2, 0.02)

    async def remove(self) -> bool:
        """Kill what is left and remove the cgroup; return False if it would not go within the deadline."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_DEADLINE):
            await trio.lowlevel.checkpoint()
            pause = 0.0005
            while True:
                # Again each time: a process that was being started may have joined after the last kill.
                self.kill()
                if self.is_empty() and all(remove_tree(str(path)) for path in self.paths):
                    return True
                await trio.sleep(pause)
                pause = min(pause * 2, 0.1)
        return False


def _settings(limit: str, value: int, version: int, path: Path) -> list[tuple[str, str]]:
    """The files to write for one limit, in order, as (name, text)."""
    match limit, version:
        case "cpu", 2:
            return [("cpu.max", f"{value * CPU_PERIOD // 1000} {CPU_PERIOD}")]
        case "cpu", 1:
            return [
                ("cpu.cfs_period_us", str(CPU_PERIOD)),
                ("cpu.cfs_quota_us", str(value * CPU_PERIOD // 1000)),
            ]
        case "memory", 2:
            swap = [("memory.swap.max", "0")] if (path / "memory.swap.max").exists() else []
            return [("memory.max", str(value)), *swap, ("memory.oom.group", "1")]
        case "memory", 1:
            both = path / "memory.memsw.limit_in_bytes"
            swap = [(both.name, str(value))] if both.exists() else []
            return [("memory.limit_in_bytes", str(value)), *swap]
        case "disk_ops", 2:
            return [("io.max", f"{disk} riops={value} wiops={value}") for disk in whole_disks()]
        case "disk_bytes", 2:
            return [("io.max", f"{disk} rbps={value} wbps={value}") for disk in whole_disks()]
        case (("disk_ops" | "disk_bytes"), 1):
            unit = "iops" if limit == "disk_ops" else "bps"
            return [
                (f"blkio.throttle.{way}_{unit}_device", f"{disk} {value}")
                for disk in whole_disks()
                for way in ("read", "write")
            ]
        case _:
            return [("pids.max", str(value))]
