"""Owns what a job is not to inherit of the server: privileges, priority, keys.

`settle` runs once in the spawner, for what every fork of it may share; `drop` and `new_session_keyring` run
in the child between fork and exec, where nothing may block or ask anybody for a name. Sources:
capabilities(7), prctl(2), session-keyring(7), proc_pid_oom_score_adj(5).

The spawner loads it, so it imports the standard library alone, and little of that.
"""

import ctypes
import errno
import os
import resource
import stat

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
#: Those that let a process keep capabilities when it gives up root. The others only take some away, and stay.
SECUREBITS_THAT_KEEP = 0x4 | 0x10  # SECBIT_NO_SETUID_FIXUP, SECBIT_KEEP_CAPS
CAPABILITY_VERSION = 0x20080522
#: keyctl(2) by machine, and its command for a new session keyring without a name.
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
KEYCTL_JOIN_SESSION_KEYRING = 1
#: ioprio_set(2) by machine: of this process, to what its niceness says.
IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
IOPRIO_WHO_PROCESS = 1
UMASK = 0o022
OOM_SCORE_ADJ = "/proc/self/oom_score_adj"
#: By how much of all memory, in thousandths, a job is a likelier victim of the host's OOM killer than an
#: ordinary process, and than us: making that of a process higher needs no privilege.
JOB_SCORE = 200
MAX_SCORE = 1000
#: What the operator may leave to jobs, as words of the spawner's command line.
NEW_PRIVILEGES, CORE_DUMPS = "new-privileges", "core-dumps"

#: PyDLL, as it keeps the interpreter's lock, and found before any fork.
_libc = ctypes.PyDLL(None, use_errno=True)
_machine = os.uname().machine


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    """The lower or the upper 32 capabilities of each set."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def prctl(option: int, *arguments: int) -> int:
    """Call prctl(2), and return what it does.

    Raises:
        OSError: the kernel refused it.
    """
    words = (ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4])
    result: int = _libc.prctl(option, *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
    return result


def _syscall(*words: int) -> None:
    _libc.syscall(*map(ctypes.c_long, words))


def _capabilities(call: str, sets: "ctypes.Array[_CapabilitySets]") -> None:
    header = _CapabilityHeader(CAPABILITY_VERSION, 0)
    if getattr(_libc, call)(ctypes.byref(header), sets) != 0:
        raise OSError(ctypes.get_errno(), f"{call} failed")


def _try(option: int, *arguments: int) -> None:
    """prctl where it may be refused, or is older than the kernel: then there is nothing to give up."""
    try:  # noqa: SIM105  # contextlib costs the spawner its start-up
        prctl(option, *arguments)
    except OSError:
        pass


class Privileges:
    """What the operator leaves to jobs, and what the host has to be told of.

    Args:
        permits: of NEW_PRIVILEGES, CORE_DUMPS.
    """

    def __init__(self, permits: "frozenset[str]") -> None:
        self._permits = permits
        self._capabilities = _last_capability() + 1
        self._score = 0  # for the OOM killer, of each child; 0 if it has it from us

    def settle(self) -> None:
        """Give up, for this process and all that it forks, what no job may inherit."""
        os.umask(UMASK)
        _normal_priority()
        if CORE_DUMPS not in self._permits:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sets = (_CapabilitySets * 2)()
        _capabilities("capget", sets)
        for half in sets:
            half.inheritable = 0  # which empties the ambient set too
        _capabilities("capset", sets)
        bits = prctl(PR_GET_SECUREBITS)
        if bits & SECUREBITS_THAT_KEEP:
            _try(PR_SET_SECUREBITS, bits & ~SECUREBITS_THAT_KEEP)
        if NEW_PRIVILEGES not in self._permits:
            prctl(PR_SET_NO_NEW_PRIVS, 1)
        # This process keeps the server's protection from the OOM killer, where each child may give it up. One
        # without privileges may not, once nobody may look into it: then it gives it up here.
        score = min(MAX_SCORE, max(0, _oom_score()) + JOB_SCORE)
        if os.geteuid() == 0:
            self._score = score
        else:
            _set_oom_score(score)
        new_session_keyring()
        # Other processes of our user, jobs among them, may not look into this one (ptrace(2)).
        prctl(PR_SET_DUMPABLE, 0)

    def drop(self, user: "tuple[int, int, list[int]] | None") -> None:
        """In the child: be a likelier victim of the OOM killer, be the user, have no capability.

        Root keeps its capabilities: without them, it could still get at all that root owns.

        Args:
            user: uid, gid and groups, to be taken for good; None to stay who we are.

        Raises:
            OSError: the kernel refused it; the process must end.
        """
        if self._score:
            _set_oom_score(self._score)
        open_to(None if user is None else user[0], (1, 2))
        if user is not None:
            self._become(*user)
        if os.geteuid() != 0:
            _capabilities("capset", (_CapabilitySets * 2)())

    def _become(self, uid: int, gid: int, groups: "list[int]") -> None:
        # Where a set-user-ID program may give privileges back, it must have some to give.
        if uid != 0 and NEW_PRIVILEGES not in self._permits:
            for number in range(self._capabilities):
                _try(PR_CAPBSET_DROP, number)
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if os.getresgid() != (gid,) * 3 or os.getresuid() != (uid,) * 3:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))  # -1 means "as it is", and is no error
        # With fs.suid_dumpable 1 we could be looked into now, until exec resets it.
        _try(PR_SET_DUMPABLE, 0)


def open_to(uid: "int | None", fds: "tuple[int, ...]") -> None:
    """Let a user open these pipes again by name, as /dev/stdout, and write to them whoever it becomes later.

    The name leads through /proc/PID/fd, where only those get that may look into a process of the job
    (ptrace(2)). What is no pipe stays as it is: /dev/null, say, is the whole host's.
    """
    for fd in fds:
        try:
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                continue
            os.fchmod(fd, 0o622)
            if uid is not None:
                os.fchown(fd, uid, -1)
        except OSError:
            pass


def new_session_keyring() -> None:
    """Leave the session keyring that was inherited, with its keys, for an empty one."""
    number = KEYCTL.get(_machine)
    # It may also be forbidden, or the user's keys used up: then there is the spawner's own, without keys.
    if number is not None:
        _syscall(number, KEYCTL_JOIN_SESSION_KEYRING, 0)


def _normal_priority() -> None:
    """The scheduling of an ordinary process, as far as we may; what is lower may stay lower."""
    try:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if os.getpriority(os.PRIO_PROCESS, 0) != 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    except OSError:
        pass
    number = IOPRIO_SET.get(_machine)
    if number is not None:
        _syscall(number, IOPRIO_WHO_PROCESS, 0, 0)


def _last_capability() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:  # noqa: PTH123  # pathlib is slow to import
            return int(file.read())
    except (OSError, ValueError):
        return 63


def _oom_score() -> int:
    try:
        with open(OOM_SCORE_ADJ) as file:  # noqa: PTH123  # likewise
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _set_oom_score(score: int) -> None:
    try:
        fd = os.open(OOM_SCORE_ADJ, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % score)
        finally:
            os.close(fd)
    except OSError:
        pass  # no such file, or lower than it was without the right to it
