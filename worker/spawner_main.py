"""The spawner: a single-threaded, stdlib-only process that forks, joins cgroups, execs and reaps.

Run as ``python -I -S spawner_main.py SOCKET_FD DESCRIPTORS PERMITS CGROUP...`` by worker.spawner, and by
nobody else. DESCRIPTORS is the soft RLIMIT_NOFILE that jobs get, PERMITS what worker.privileges leaves to
them, with commas between; the first CGROUP is above every job, the others are the bases of v1 controllers,
and there is none where the server may make no cgroup.

Theory of operation. The server is large and has threads; forking it would stall its event loop.
This process is small, so a fork here is cheap whatever the server holds, and the code between fork
and exec is plain Python with nothing running beside it. It is the parent of every job and the
child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) of every orphan that a job leaves.

The server's messages come over a Unix stream socket: a 32-bit big-endian length, then JSON, with
file descriptors as SCM_RIGHTS on its first byte. Each asks for one process:
``{"job", "argv", "env", "cwd", "user", "fds", "merge", "keep"}``, where the user is null for our own, or a
list of uid, gid and groups; with descriptors stdout, stderr (unless merged) and the job's directory in each
cgroup hierarchy. The answers, framed alike: ``started`` with a pid
(sent only after exec succeeded: the close-on-exec pipe closed without a word), ``failed`` with the
step and its errno, and later ``exited`` with the wait status and what the process used. ``{"op": "ping"}``
is answered with ``pong``. Bytes stand
in JSON as text by UTF-8 with surrogate escapes. With ``keep``, a keeper (worker.keeper) stands between
this process and the job's, and ``started`` names it too.

End-of-file on the socket means that the server is gone, however it went. Then every job is killed, the
cgroups are removed, and this process ends. A live server that merely gives up on us keeps its base
cgroups, which the next spawner needs; one that ends in order says so with an empty message, and removes
them itself.
"""

import array
import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":  # -I keeps our own folder off the path
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120

from worker import cgroupfs, keeper, privileges

#: rt_sigaction(2) by machine. A program linked with musl leaves the C library's own signals ignored in
#: what it starts, and glibc lets nobody reset them.
RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134}
LIBC_SIGNALS = (32, 33, 34)
LENGTH_BYTES = 4
FD_BYTES = array.array("i").itemsize
#: clone3(2): the same number on every machine.
CLONE3 = 435
CLONE_INTO_CGROUP = 0x200000000
#: The most descriptors of one message: stdout, stderr and the hierarchies of a v1 host.
MAX_FDS = 32
#: How long a server whose end of the socket has closed may take to be gone, in seconds.
DYING = 1.0


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


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


#: What a child says right before it becomes its program: if its pipe ends without, it was killed before.
ABOUT_TO_EXEC = b"\n"


class Child:
    """One process between fork and reaping."""

    def __init__(self, job: str, pid: int, exec_pipe: int, report: int) -> None:
        self.job = job
        self.pid = pid  # of our own child: the job's main process, or its keeper
        self.exec_pipe = exec_pipe  # -1 once exec has succeeded or failed
        self.report = report  # where the keeper reports; -1 without one, or once it has
        self.kept = report >= 0
        self.failed = False
        self.told = b""  # by the exec pipe


class Spawner:
    """The loop: requests in, processes out, exit statuses back."""

    def __init__(self, sock: socket.socket, rights: privileges.Privileges, base: str = "") -> None:
        self.sock = sock
        self.rights = rights
        self.dismissed = False
        self.buffer = bytearray()
        self.fds: list[int] = []
        self.children: dict[int, Child] = {}
        self.exec_pipes: dict[int, Child] = {}
        self.reports: dict[int, Child] = {}
        # Until the kernel or the host turns out not to do that.
        self.born_inside = is_born_alive(base)
        self.epoll = select.epoll()
        self.wakeup, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.epoll.register(self.wakeup, select.EPOLLIN)
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # Exec resets what has a handler; what is ignored stays so, unless it is reset before.
        self.ignored = [
            number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN
        ]

    def run(self) -> None:
        """Serve until the server closes its end."""
        while True:
            for fd, _ in self.epoll.poll():
                if fd == self.wakeup:
                    os.read(self.wakeup, 4096)
                    self.reap()
                elif fd in self.exec_pipes:
                    self.finish_exec(self.exec_pipes[fd])
                elif fd in self.reports:
                    self.finish_kept(self.reports[fd])
                elif fd == self.sock.fileno() and not self.receive():
                    return

    def receive(self) -> bool:
        """Read from the server; False at its end."""
        try:
            # Not socket.recv_fds, which drops its flags: these descriptors must never reach a job.
            data, ancillary, _, _ = self.sock.recvmsg(
                256 * 1024, socket.CMSG_SPACE(MAX_FDS * FD_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return False
        for _, _, rights in ancillary:
            self.fds += array.array("i", rights[: len(rights) // FD_BYTES * FD_BYTES])
        if not data:
            return False
        self.buffer += data
        while len(self.buffer) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self.buffer[:LENGTH_BYTES], "big")
            if len(self.buffer) < end:
                break
            if end == LENGTH_BYTES:
                self.dismissed = True
                return False
            request = json.loads(self.buffer[LENGTH_BYTES:end])
            del self.buffer[:end]
            if request.get("op") == "ping":
                self.send(op="pong")
                continue
            fds, self.fds = self.fds[: request["fds"]], self.fds[request["fds"] :]
            try:
                self.spawn(request, fds)
            finally:
                for fd in fds:
                    os.close(fd)
        return True

    def send(self, **message: object) -> None:
        body = json.dumps(message).encode()
        self.sock.sendall(len(body).to_bytes(LENGTH_BYTES, "big") + body)

    def spawn(self, request: dict, fds: list[int]) -> None:  # type: ignore[type-arg]
        """Fork and, in the child, become the job, or the keeper of it."""
        pipes: list[int] = []
        try:
            for _ in range(2 if request["keep"] else 1):
                pipes += os.pipe2(os.O_CLOEXEC)
            outputs = 1 if request["merge"] else 2
            pid, inside = self.fork(fds[outputs:])
        except OSError as error:
            for fd in pipes:
                os.close(fd)
            self.send(op="failed", job=request["job"], step="fork", errno=error.errno)
            return
        exec_read, exec_write, *report = pipes
        if pid == 0:
            try:
                if request["keep"]:
                    keeper.keep(report[1], lambda: os.fork() or self.become(request, fds, exec_write))
                else:
                    self.become(request, [*fds[:outputs], *fds[outputs + inside :]], exec_write)
            finally:
                os._exit(127)
        for fd in (exec_write, *report[1:]):
            os.close(fd)
        child = Child(request["job"], pid, exec_read, report[0] if report else -1)
        self.children[pid] = self.exec_pipes[exec_read] = child
        self.epoll.register(exec_read, select.EPOLLIN)

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

    def become(self, request: dict, fds: list[int], exec_write: int) -> int:  # type: ignore[type-arg]
        """In the child: join the cgroups, take clean descriptors and signals, be the user, exec."""
        step = "cgroup"
        try:
            outputs = 1 if request["merge"] else 2
            for directory in fds[outputs:]:
                join(directory)
            step = "setup"
            os.setsid()
            # Every descriptor we have is above 2 and close-on-exec, but for these three.
            os.dup2(self.null, 0)
            os.dup2(fds[0], 1)
            os.dup2(fds[outputs - 1], 2)
            signal.set_wakeup_fd(-1)
            for number in self.ignored:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            step = "user"
            self.rights.drop(request["user"])
            privileges.new_session_keyring()
            step = "cwd"
            os.chdir(encode(request["cwd"]))
            step = "exec"
            words = encode(request["env"]).split(b"\0") if request["env"] else []
            env = dict(word.split(b"=", 1) for word in words)
            argv = encode(request["argv"]).split(b"\0")
            os.write(exec_write, ABOUT_TO_EXEC)
            execute(argv, env)
        except OSError as error:
            os.write(exec_write, json.dumps({"step": step, "errno": error.errno}).encode())
        except BaseException as error:  # noqa: BLE001, ASYNC103  # the server must hear of it; nobody else is here
            os.write(exec_write, json.dumps({"step": step, "errno": 0, "error": repr(error)}).encode())
        os._exit(127)

    def finish_exec(self, child: Child) -> None:
        """The close-on-exec pipe spoke: at its end, report success, or the failure that it carried."""
        if part := os.read(child.exec_pipe, 4096):
            child.told += part
            return
        report = child.told.removeprefix(ABOUT_TO_EXEC)
        self.epoll.unregister(child.exec_pipe)
        os.close(child.exec_pipe)
        del self.exec_pipes[child.exec_pipe]
        child.exec_pipe = -1
        if report:
            child.failed = True
            self.drop_report(child)
            self.send(op="failed", job=child.job, **json.loads(report))
        elif not child.told:  # it was killed before, as by a cgroup that is being killed
            child.failed, self.born_inside = True, False
            self.drop_report(child)
            self.send(op="failed", job=child.job, step="setup", errno=errno.ESRCH)
        elif child.report < 0:
            self.send(op="started", job=child.job, pid=child.pid, keeper=0)
        elif pid := os.read(child.report, keeper.PID_DIGITS):
            self.reports[child.report] = child
            os.set_blocking(child.report, False)
            self.epoll.register(child.report, select.EPOLLIN)
            self.send(op="started", job=child.job, pid=int(pid), keeper=child.pid)
        else:
            child.failed = True
            self.drop_report(child)
            self.send(op="failed", job=child.job, step="setup", errno=errno.ESRCH)

    def finish_kept(self, child: Child) -> None:
        """A keeper has told of its main process's end, or has ended without a word: killed, by the job."""
        if child.report < 0:
            return
        try:
            report = json.loads(os.read(child.report, 4096) or '{"status": 9, "usage": [0, 0, 0]}')
        except BlockingIOError:
            return
        self.drop_report(child)
        self.send(op="exited", job=child.job, **report)

    def drop_report(self, child: Child) -> None:
        """Close what a keeper reports to."""
        if child.report >= 0:
            if self.reports.pop(child.report, None) is not None:
                self.epoll.unregister(child.report)
            os.close(child.report)
            child.report = -1

    def reap(self) -> None:
        """Reap every process that has ended: jobs, and the orphans that they left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.children.pop(pid, None)
            if child is None:
                continue  # an orphan of some job
            while child.exec_pipe >= 0:  # it ran and ended before we saw the exec succeed
                self.finish_exec(child)
            if child.kept:
                self.finish_kept(child)
            elif not child.failed:
                self.send(
                    op="exited",
                    job=child.job,
                    status=status,
                    usage=[usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024],
                )


def is_born_alive(base: str) -> bool:
    """Whether a process can be born into a v2 cgroup, tried with one below ``base``.

    Linux kills a child at its birth whose parent's cgroup, or one above that, was killed (cgroup.kill)
    another number of times than its own: it takes the child for one that outran the kill.
    """
    if not base:
        return True
    trial = f"{base}/trial"
    try:
        os.mkdir(trial)  # noqa: PTH102  # likewise
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


def execute(argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Exec, looking the program up on the job's own PATH as shells do; raise the best OSError.

    Unlike for execvp(3), a folder that may not be entered is passed over without a word: what is in it was
    not found, rather than found and forbidden.
    """
    program = argv[0]
    if b"/" in program:
        os.execve(program, argv, env)  # noqa: S606  # no shell, by design
    best: OSError | None = None
    for folder in env.get(b"PATH", b"/usr/bin:/bin").split(b":"):
        path = (folder or b".") + b"/" + program
        try:
            os.execve(path, argv, env)  # noqa: S606  # likewise
        except (FileNotFoundError, NotADirectoryError) as error:
            best = best or error
        except PermissionError as error:
            if is_found(path):
                best = error
    raise best or FileNotFoundError(errno.ENOENT, "not on PATH")


def is_found(path: bytes) -> bool:
    """Whether a program is there, as far as we may look: in a folder that we may not enter, none is."""
    try:
        os.stat(path)  # noqa: PTH116  # pathlib costs the spawner its start-up
    except OSError:
        return False
    return True


def is_gone(parent: int) -> bool:
    """Whether the server has died; its socket closes a moment before."""
    deadline = time.monotonic() + DYING
    while os.getppid() == parent:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def sweep(cgroups: list[str], *, bases_too: bool) -> None:
    """Kill all that is left of every job, and remove the jobs' cgroups or all of them. Bounded."""
    if cgroups:
        below = [child for path in cgroups for child in cgroupfs.children(path)]
        cgroupfs.sweep(cgroups[0], cgroups if bases_too else below)
    else:
        keeper.kill_all(os.getpid(), cgroupfs.SWEEP_DEADLINE)


def main() -> None:
    """Serve the server at the other end of the socket, then sweep up after it."""
    fd, descriptors, permits, *cgroups = sys.argv[1:]
    parent = os.getppid()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208  # likewise
        if int(entry) > 2:
            try:  # noqa: SIM105  # contextlib costs the spawner its start-up
                os.set_inheritable(int(entry), False)
            except OSError:
                pass  # the one that listed them
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (int(descriptors), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    privileges.prctl(keeper.PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # without SIGCHLD, no job would ever end
    number = RT_SIGACTION.get(os.uname().machine)
    if number is not None:
        libc = ctypes.CDLL(None)
        for libc_signal in LIBC_SIGNALS:
            libc.syscall(number, libc_signal, bytes(32), None, 8)  # an all-zero sigaction is the default
    # The terminal's Ctrl-C and systemd's SIGTERM go to the whole group; only the server acts on
    # them, and this process ends when the server has.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    rights = privileges.Privileges(frozenset(permits.split(",")))
    rights.settle()
    sock = socket.socket(fileno=int(fd))
    sock.setblocking(True)
    spawner = Spawner(sock, rights, cgroups[0] if cgroups else "")
    try:
        spawner.run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server went while we spoke to it
    finally:
        if cgroups:  # first of all: a service manager that sees the server gone kills this process too
            cgroupfs.kill(cgroups[0])
        sock.close()  # a server that lives learns at once that we failed
        bases_too = not spawner.dismissed and is_gone(parent)
        sweep(cgroups, bases_too=bases_too)


if __name__ == "__main__":
    main()
