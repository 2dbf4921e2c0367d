"""Owns our own subtree in this host's cgroups: where it is, which controllers it has, who may remove it.

One server makes one base cgroup, ``worker-service-<pid>-<random>``, in every hierarchy that it uses: the
tracking one, which keeps jobs together and kills them (v2 where it is mounted, v1's freezer otherwise), and
those of v1 controllers. Each base is locked with flock(2) through a descriptor that the spawner shares, so
the lock lasts as long as either lives, and a base that can be locked is a dead server's.

In v2, a cgroup that has processes cannot enable controllers for its children, the real root excepted. So a
server to whom its own cgroup is delegated moves into a leaf of it first, and back at the end. Processes
that are not ours are never moved.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import cgroupfs
from .disks import count_from_now, whole_disks
from .mounts import Mount, read_mounts
from .oom import OomBell

PREFIX = "worker-service-"
#: Our names for the controllers, and v1's where it differs.
CONTROLLERS: Mapping[str, str] = {"cpu": "cpu", "memory": "memory", "io": "blkio", "pids": "pids"}
#: v1 hierarchies that can keep a job together, the best first; any other will do after them.
_TRACKING = ("freezer", "pids", "name=systemd")
_REMEDY = "run the server as root, or as a systemd unit with Delegate=yes"


class CgroupError(Exception):
    """The cgroup that the operator named cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Controller:
    """A controller that can be used: its cgroup version and the base directory for jobs."""

    version: int
    base: Path


@dataclass(slots=True)
class Hierarchies:
    """Our subtree: ``tracking`` keeps jobs together, ``controllers`` enforce limits and count.

    ``tracking`` is None where we may make no cgroup at all. ``missing`` says, for each controller that
    cannot be used, why and what to do. ``cpuacct`` is v1's base for CPU time, where v2 does not count it.
    ``oom`` is for v1's memory controller, and must be run.
    """

    tracking: Path | None
    controllers: dict[str, Controller] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    locks: list[int] = field(default_factory=list)
    cpuacct: Path | None = None
    leaf: Path | None = None
    oom: OomBell = field(default_factory=OomBell)

    @property
    def bases(self) -> list[Path]:
        """Every base directory, the tracking one first."""
        bases = [self.tracking, *(controller.base for controller in self.controllers.values()), self.cpuacct]
        return [base for base in dict.fromkeys(bases) if base is not None]


@contextlib.contextmanager
def open_hierarchies(parent: str | None = None) -> Iterator[Hierarchies]:
    """Make our base cgroups, and remove them at the end. Sweeps dead servers' leftovers first.

    Args:
        parent: the cgroup below which to build in every hierarchy, as a path from its mount, made if it
            is missing; None for our own cgroup or, for root without delegation, the root.

    Raises:
        CgroupError: we may not build below the parent.
    """
    opening = _Opening(read_mounts(), parent)
    with contextlib.ExitStack() as stack:
        stack.callback(opening.close)
        opening.track()
        for controller, v1_name in CONTROLLERS.items():
            opening.add(controller, v1_name)
        io = opening.hierarchies.controllers.get("io")
        if io is not None and io.version == 1:
            count_from_now(io.base, whole_disks())
        yield opening.hierarchies


class _Opening:
    """One server's bases, while they are made and until they are removed."""

    def __init__(self, mounts: list[Mount], parent: str | None) -> None:
        # v2 first, for tracking and for the sweep: what it kills is dead before v1's directories are removed.
        self._mounts = sorted(mounts, key=_tracking_rank)
        for mount in self._mounts:
            if parent is not None and Path(parent).is_relative_to(mount.top):
                parent = str(Path(parent).relative_to(mount.top))
        if parent is not None and ".." in Path(parent).parts:
            raise CgroupError(f"--cgroup-parent {parent!r} must not go up with '..'.")
        self._parent = parent
        self._name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._enabled: list[str] = []
        self.hierarchies = Hierarchies(tracking=None)

    def _place(self, mount: Mount) -> Path:
        """The cgroup of a hierarchy below which we build."""
        if self._parent is not None:
            return mount.top / self._parent.lstrip("/")
        undelegated = os.geteuid() == 0 and not is_delegated(mount.own)
        return mount.top if mount.version == 2 and undelegated and is_root(mount.top) else mount.own

    def track(self) -> None:
        """Sweep, then make the base that keeps jobs together, in the best hierarchy that lets us."""
        reason = "no cgroup hierarchy is mounted"
        for mount in self._mounts:
            sweep_leftovers(self._place(mount))
        for mount in self._mounts:
            self._check_ways_in(mount)
            try:
                self.hierarchies.tracking = self._base(mount)
            except OSError as error:
                reason = f"no cgroup can be made below {self._place(mount)}: {error.strerror}"
                if self._parent is not None:
                    raise CgroupError(
                        f"--cgroup-parent {self._parent!r} cannot be used: {reason}."
                    ) from error
            else:
                if mount.version == 1:
                    self._count_cpu()
                return
        self.hierarchies.missing = dict.fromkeys(CONTROLLERS, f"{reason}; {_REMEDY}")

    def _check_ways_in(self, mount: Mount) -> None:
        """Refuse a parent into which we may move nothing: v2 asks for the right in the cgroup above both."""
        if self._parent is None or mount.version != 2:
            return
        above = Path(os.path.commonpath((mount.own, self._place(mount))))
        if not os.access(above / "cgroup.procs", os.W_OK):
            raise CgroupError(
                f"--cgroup-parent {self._parent!r} cannot be used: a process may be moved there only by who "
                f"may write to {above}/cgroup.procs; name a cgroup below the server's own."
            )

    def _base(self, mount: Mount) -> Path:
        base = self._place(mount) / self._name
        if not base.exists():
            if self._parent is not None:
                base.parent.mkdir(parents=True, exist_ok=True)
            self.hierarchies.locks.append(make_base(base))
        return base

    def _count_cpu(self) -> None:
        for mount in self._mounts:
            if "cpuacct" in mount.controllers:
                with contextlib.suppress(OSError):
                    self.hierarchies.cpuacct = self._base(mount)

    def add(self, controller: str, v1_name: str) -> None:
        """Find a controller where it lives, and make it usable or say why it is not."""
        found, missing = self.hierarchies, self.hierarchies.missing
        if found.tracking is None:
            return
        try:
            for mount in self._mounts:
                if v1_name in mount.controllers:
                    found.controllers[controller] = Controller(1, self._base(mount))
                    return
            unified = self._mounts[0]
            if unified.version != 2 or controller not in _words(unified.top / "cgroup.controllers"):
                missing[controller] = f"this kernel offers no {controller} controller; boot with it enabled"
                return
            self._enable(controller, unified, found.tracking)
            found.controllers[controller] = Controller(2, found.tracking)
        except OSError as error:
            missing[controller] = (
                f"the {controller} controller cannot be used here ({error.strerror}); {_REMEDY}"
            )
            if error.errno == errno.EBUSY:
                place = Path(error.filename or self._place(unified)).parent
                remedy = "start the server in a cgroup of its own, as a systemd unit with Delegate=yes"
                if self._parent is None:
                    remedy += ", or give --cgroup-parent"
                missing[controller] = f"other processes are in {place} ({_residents(place)}); {remedy}"
            elif error.errno == errno.ENOENT:
                missing[controller] = (
                    f"the {controller} controller is not delegated to {self._place(unified)}; "
                    f"{_REMEDY}, or give --cgroup-parent"
                )

    def _enable(self, controller: str, mount: Mount, base: Path) -> None:
        place = self._place(mount)
        folders = [place, base]
        if self._parent is not None:
            above = [folder for folder in place.parents if folder.is_relative_to(mount.top)]
            folders = [*reversed(above), *folders]
        for folder in folders:
            if not is_root(folder):
                self._leave(folder)
            if controller not in _words(folder / "cgroup.subtree_control"):
                cgroupfs.write(f"{folder}/cgroup.subtree_control", f"+{controller}")
                leaf = self.hierarchies.leaf
                if leaf is not None and folder == leaf.parent:
                    self._enabled.append(controller)

    def _leave(self, place: Path) -> None:
        """Move out of a cgroup that is to have children with controllers, into a leaf of it."""
        if str(os.getpid()) in _words(place / "cgroup.procs"):
            self.hierarchies.leaf = place / f"{self._name}.server"
            self.hierarchies.locks.append(make_base(self.hierarchies.leaf))
            cgroupfs.write(f"{self.hierarchies.leaf}/cgroup.procs", "0")

    def close(self) -> None:
        """Remove the bases and go back to where we came from, as far as the kernel lets us."""
        # The spawner has gone by now and removed what it could; this is the last look.
        for base in self.hierarchies.bases:
            cgroupfs.remove_tree(str(base))
        leaf = self.hierarchies.leaf
        if leaf is not None:
            with contextlib.suppress(OSError):  # another server may need the controllers; then we stay
                for controller in self._enabled:
                    cgroupfs.write(f"{leaf.parent}/cgroup.subtree_control", f"-{controller}")
                cgroupfs.write(f"{leaf.parent}/cgroup.procs", "0")
                leaf.rmdir()
        for fd in self.hierarchies.locks:
            os.close(fd)


def _tracking_rank(mount: Mount) -> int:
    if mount.version == 2:
        return -1
    return next((rank for rank, name in enumerate(_TRACKING) if name in mount.controllers), len(_TRACKING))


def _words(path: Path) -> list[str]:
    return cgroupfs.read(str(path)).split()


def _residents(place: Path) -> str:
    """The processes of a cgroup but for ourselves, for people; three at most."""
    pids = [pid for pid in _words(place / "cgroup.procs") if pid != str(os.getpid())]
    named = [f"pid {pid} {cgroupfs.read(f'/proc/{pid}/comm').strip()}" for pid in pids[:3]]
    return ", ".join(named + ["..."] * (len(pids) > 3))


def is_root(cgroup: Path) -> bool:
    """Whether a v2 cgroup is the real root of its hierarchy; a container's is not, and has this file."""
    return not (cgroup / "cgroup.events").exists()


def is_delegated(cgroup: Path) -> bool:
    """Whether systemd has given a cgroup to what runs in it (systemd.resource-control(5), Delegate=)."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(cgroup, name) == b"1":
                return True
    return False


def make_base(path: Path) -> int:
    """Make a base cgroup and lock it; return the descriptor that holds the lock.

    Another server that is sweeping may take a directory that is made and not yet locked for a
    leftover; then it is gone once we hold the lock, and is made anew.
    """
    while True:
        path.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def sweep_leftovers(folder: Path) -> None:
    """Kill and remove the base cgroups that dead servers left in a folder; live ones keep theirs."""
    for base in folder.glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError):
            fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                cgroupfs.sweep(str(base), [str(base)])
            finally:
                os.close(fd)
