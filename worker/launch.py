"""Owns a process's way from the spawner's fork to its program: cgroups, descriptors, signals, user, exec.

The spawner loads this, so it imports the standard library alone. What a child runs between fork and exec is
plain Python in a process with one thread, so nothing runs beside it.
"""

import ctypes
import errno
import json
import os
import resource
import signal

from . import cgroupfs, privileges

#: rt_sigaction(2) by machine. A program linked with musl leaves the C library's own signals ignored in
#: what it starts, and glibc lets nobody reset them.
RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134}
LIBC_SIGNALS = (32, 33, 34)
#: clone3(2): the same number on every machine.
CLONE3 = 435
CLONE_INTO_CGROUP = 0x200000000
#: What ends the line that a child says right before it becomes its program: the most memory that it has had
#: resident, in KiB. If its pipe ends without, it was killed before.
ABOUT_TO_EXEC = b"\n"
#: How much more a child may have resident by the time that it is its program, in bytes. The kernel's counters
#: lag as well, by up to 32 pages a CPU.
PEAK_SLACK = 2**20


class CloneArgs(ctypes.Structure):
    """What clone3(2) takes, struct clone_args."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
            "set_tid", "set_tid_size", "cgroup",
        )
    )  # fmt: skip


#: PyDLL, as it keeps the interpreter's lock: the child goes on as if nothing had been let go.
libc = ctypes.PyDLL(None, use_errno=True)


def settle(descriptors: int) -> None:
    """Settle, once for all children, which descriptors and signals they get from us.

    Args:
        descriptors: how many they may have, the soft limit.
    """
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208  # pathlib costs the spawner its start-up
        if int(entry) > 2:
            try:  # noqa: SIM105  # contextlib costs the spawner its start-up
                os.set_inheritable(int(entry), False)
            except OSError:
                pass  # the one that listed them
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # without SIGCHLD, no job would ever end
    number = RT_SIGACTION.get(os.uname().machine)
    if number is not None:
        for libc_signal in LIBC_SIGNALS:
            libc.syscall(number, libc_signal, bytes(32), None, 8)  # an all-zero sigaction is the default


def fork_into(directory: int) -> int:
    """Fork into a v2 cgroup, Linux 5.7; as os.fork otherwise.

    A process that joins a v2 cgroup makes the kernel wait for all of its CPUs first (an RCU grace period:
    7 to 20 ms were measured on an idle machine). One that is born there does not.

    Raises:
        OSError: it is no v2 cgroup, or the kernel refuses; there is no child.
    """
    arguments = CloneArgs(flags=CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=directory)
    pid = libc.syscall(CLONE3, ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments)))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3 failed")
    return int(pid)


def is_born_alive(base: str) -> bool:
    """Whether a process can be born into a v2 cgroup, tried with one below ``base``.

    Linux kills a child at its birth whose parent's cgroup, or one above that, was killed (cgroup.kill)
    another number of times than its own: it takes the child for one that outran the kill.
    """
    if not base:
        return True
    trial = f"{base}/trial"
    try:
        os.mkdir(trial)  # noqa: PTH102  # pathlib costs the spawner its start-up
        directory = os.open(trial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            pid = fork_into(directory)
            if pid == 0:
                os._exit(0)
            return os.waitpid(pid, 0)[1] == 0
        finally:
            os.close(directory)
    except OSError:
        return True  # whatever it is, a job's start will tell
    finally:
        cgroupfs.remove_tree(trial)


def join(directory: int) -> None:
    """Move this process, which has one thread, into a cgroup.

    In v1, moving the calling thread spares the wait that moving a process costs.
    """
    try:
        fd = os.open("tasks", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    os.write(fd, b"0")
    os.close(fd)


class Launcher:
    """Forks children, and makes them the programs that they are to be.

    Args:
        rights: what no job gets.
        base: the cgroup above every job's in the first hierarchy; empty if there is none.
    """

    def __init__(self, rights: privileges.Privileges, base: str) -> None:
        self._rights = rights
        #: Whether children are born into their first cgroup: until kernel or host turn out not to do that.
        self.born_inside = is_born_alive(base)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # Exec resets what has a handler; what is ignored stays so, unless it is reset before.
        self._ignored = [
            number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN
        ]

    def fork(self, directories: list[int]) -> tuple[int, int]:
        """Fork, into the first cgroup if that can be; return the pid, and in how many the child was born."""
        if directories and self.born_inside:
            try:
                return fork_into(directories[0]), 1
            except OSError as error:
                # Anything else may be this cgroup's fault, and is told when the child tries to join it.
                if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EBADF, errno.EPERM, errno.E2BIG):
                    self.born_inside = False
        return os.fork(), 0

    def become(
        self,
        request: dict,  # type: ignore[type-arg]
        words: bytes,
        outputs: list[int],
        cgroups: list[int],
        told: int,
    ) -> int:
        """In the child: join the cgroups, take clean descriptors and signals, be the user, exec.

        Args:
            request: the server's.
            words: directory, arguments and environment, with NULs between.
            outputs: its stdout and stderr, which may be the same.
            cgroups: the directories of those that it is to join.
            told: a close-on-exec pipe, for what went wrong.
        """
        step = "cgroup"
        try:
            for directory in cgroups:
                join(directory)
            step = "setup"
            os.setsid()
            # Every descriptor we have is above 2 and close-on-exec, but for these three.
            os.dup2(self._null, 0)
            os.dup2(outputs[0], 1)
            os.dup2(outputs[-1], 2)
            signal.set_wakeup_fd(-1)
            for number in self._ignored:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            step = "user"
            self._rights.drop(request["user"])
            privileges.new_session_keyring()
            step = "cwd"
            cwd, *rest = words.split(b"\0")
            os.chdir(cwd)
            step = "exec"
            argv, variables = rest[: request["argv"]], rest[request["argv"] :]
            env = dict(variable.split(b"=", 1) for variable in variables)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            os.write(told, b"%d" % peak + ABOUT_TO_EXEC)
            execute(argv, env)
        except InterpreterError as error:
            os.write(told, json.dumps({"step": "interpreter", "errno": error.errno}).encode())
        except OSError as error:
            os.write(told, json.dumps({"step": step, "errno": error.errno}).encode())
        except BaseException as error:  # noqa: BLE001, ASYNC103  # the server must hear of it; nobody else is here
            os.write(told, json.dumps({"step": step, "errno": 0, "error": repr(error)[:1000]}).encode())
        os._exit(127)


class InterpreterError(OSError):
    """A program is there, and what its ``#!`` line, or its ELF header, would have run is not."""


def own_peak(peak: int, before: int) -> int | None:
    """The most that a job's program had resident, in bytes; None if it is not known.

    A process's peak is kept over exec(2), and that of ours, as the copy of a Python, is larger than many a
    program's. Only what is more than it is the program's own.

    Args:
        peak: ``ru_maxrss`` at its end, in KiB.
        before: the same right before its exec.
    """
    return peak * 1024 if peak * 1024 > before * 1024 + PEAK_SLACK else None


def execute(argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Exec, looking the program up on the job's own PATH as shells do; raise the best OSError.

    Unlike for execvp(3), a folder that may not be entered is passed over without a word: what is in it was
    not found, rather than found and forbidden.
    """
    program = argv[0]
    if b"/" in program:
        _execute(program, argv, env)
    best: OSError | None = None
    for folder in env.get(b"PATH", b"/usr/bin:/bin").split(b":"):
        path = (folder or b".") + b"/" + program
        try:
            _execute(path, argv, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            best = best or error
        except PermissionError as error:
            if is_found(path):
                best = error
        except InterpreterError as error:
            best = error
    raise best or FileNotFoundError(errno.ENOENT, "not on PATH")


def _execute(path: bytes, argv: list[bytes], env: dict[bytes, bytes]) -> None:
    try:
        os.execve(path, argv, env)  # noqa: S606  # no shell, by design
    except FileNotFoundError as error:
        if is_found(path):
            raise InterpreterError(error.errno, error.strerror) from None
        raise


def is_found(path: bytes) -> bool:
    """Whether a program is there, as far as we may look: in a folder that we may not enter, none is."""
    try:
        os.stat(path)  # noqa: PTH116  # pathlib costs the spawner its start-up
    except OSError:
        return False
    return True
