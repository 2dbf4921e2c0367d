"""Owns where cgroups live on this host: the mounts, our own subtree in each, and dead servers' leftovers.

One server makes one base cgroup, ``worker-service-<pid>-<random>``, below its own cgroup in every
hierarchy that it uses: the v2 one, which keeps jobs together and kills them, and on hybrid hosts the
v1 ones of the controllers. Each base is locked with flock(2) through a descriptor that the spawner
shares, so the lock lasts as long as either lives, and a base that can be locked is a dead server's.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .spawner_main import remove_tree, sweep

PREFIX = "worker-service-"
#: Our names for the controllers, and v1's where it differs.
CONTROLLERS: Mapping[str, str] = {"cpu": "cpu", "memory": "memory", "io": "blkio", "pids": "pids"}


class CgroupError(Exception):
    """This host gives us no cgroup to work in; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One cgroup hierarchy: where it is mounted, and our own cgroup in it."""

    version: int
    controllers: frozenset[str]
    own: Path


@dataclass(frozen=True, slots=True)
class Controller:
    """A controller that can be used: its cgroup version and the base directory for jobs."""

    version: int
    base: Path


@dataclass(slots=True)
class Hierarchies:
    """Our subtree: ``tracking`` is the v2 base, ``controllers`` the bases that can enforce limits.

    ``missing`` says, for each controller that cannot be used, why and what to do.
    """

    tracking: Path
    controllers: dict[str, Controller] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    locks: list[int] = field(default_factory=list)

    @property
    def bases(self) -> list[Path]:
        """Every base directory, the tracking one first."""
        return list(dict.fromkeys([self.tracking, *(c.base for c in self.controllers.values())]))


def find_mounts(mountinfo: str, own_cgroups: str) -> list[Mount]:
    """Read the cgroup mounts and our place in them.

    Args:
        mountinfo: the text of /proc/self/mountinfo, proc_pid_mountinfo(5).
        own_cgroups: the text of /proc/self/cgroup, cgroups(7).
    """
    # Lines end with a newline and fields with a space, and with nothing else that Python takes for one:
    # the kernel escapes only these in the names of mounts, which users may choose, or leave empty.
    own: dict[str, str] = {}
    for line in own_cgroups.split("\n")[:-1]:
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    mounts = []
    for line in mountinfo.split("\n")[:-1]:
        left, _, right = line.partition(" - ")
        root, mountpoint = (_unescape(word) for word in left.split(" ")[3:5])
        fstype, _, options = right.split(" ")[:3]
        if fstype == "cgroup2" and "" in own:
            mounts.append(Mount(2, frozenset(), _own_path(mountpoint, root, own[""])))
        elif fstype == "cgroup":
            found = frozenset(options.split(",")) & own.keys()
            if found:
                place = _own_path(mountpoint, root, own[min(found)])
                mounts.append(Mount(1, found, place))
    return mounts


def _unescape(word: str) -> str:
    return word.encode("latin-1", "backslashreplace").decode("unicode_escape") if "\\" in word else word


def _own_path(mountpoint: str, root: str, own: str) -> Path:
    """Where our own cgroup shows below a mount; a container's mount may show only a part of the tree."""
    prefix = root.rstrip("/") + "/"
    inside = own[len(prefix) :] if (own + "/").startswith(prefix) and own != root else ""
    place = Path(mountpoint) / inside.lstrip("/")
    return place if ".." not in place.parts and place.is_dir() else Path(mountpoint)


@contextlib.contextmanager
def open_hierarchies() -> Iterator[Hierarchies]:
    """Make our base cgroups, and remove them at the end. Sweeps dead servers' leftovers first.

    Raises:
        CgroupError: no v2 hierarchy is mounted, or we may not make cgroups in it.
    """
    proc = Path("/proc/self")
    mounts = find_mounts(*(os.fsdecode((proc / name).read_bytes()) for name in ("mountinfo", "cgroup")))
    unified = next((mount for mount in mounts if mount.version == 2), None)
    if unified is None:
        raise CgroupError(
            "no cgroup v2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)."
        )
    for mount in mounts:
        sweep_leftovers(mount.own, unified.own)
    name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    hierarchies = Hierarchies(tracking=unified.own / name)
    with contextlib.ExitStack() as stack:
        stack.callback(_close, hierarchies)
        try:
            hierarchies.locks.append(make_base(hierarchies.tracking))
        except OSError as error:
            raise CgroupError(
                f"cannot make a cgroup below {unified.own}: {error.strerror}. "
                "Run the server as root, or as a systemd unit with Delegate=yes."
            ) from error
        for controller, v1_name in CONTROLLERS.items():
            try:
                _add_controller(hierarchies, controller, v1_name, unified.own, mounts)
            except OSError as error:
                hierarchies.missing[controller] = (
                    f"the {controller} controller cannot be used here ({error.strerror}); "
                    "run the server as root, or as a systemd unit with Delegate=yes"
                )
        yield hierarchies


def _add_controller(
    hierarchies: Hierarchies, controller: str, v1_name: str, own: Path, mounts: list[Mount]
) -> None:
    for mount in mounts:
        if v1_name in mount.controllers:
            base = mount.own / hierarchies.tracking.name
            if not base.exists():
                hierarchies.locks.append(make_base(base))
            hierarchies.controllers[controller] = Controller(1, base)
            return
    if controller not in (own / "cgroup.controllers").read_text().split():
        hierarchies.missing[controller] = (
            f"the kernel offers no {controller} controller in {own}; "
            "boot with it enabled, or delegate it to this cgroup"
        )
        return
    for folder in (own, hierarchies.tracking):
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")
    hierarchies.controllers[controller] = Controller(2, hierarchies.tracking)


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


def sweep_leftovers(folder: Path, kill_folder: Path) -> None:
    """Kill and remove the base cgroups that dead servers left in a folder; live ones keep theirs.

    Args:
        folder: where bases of one hierarchy are.
        kill_folder: where those of the v2 hierarchy are, through which processes are killed.
    """
    for base in folder.glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError):
            fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                sweep(str(kill_folder / base.name / "cgroup.kill"), [str(base)])
            finally:
                os.close(fd)


def _close(hierarchies: Hierarchies) -> None:
    # The spawner has gone by now and removed what it could; this is the last look.
    for base in hierarchies.bases:
        remove_tree(str(base))
    for fd in hierarchies.locks:
        os.close(fd)
