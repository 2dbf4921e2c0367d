"""The spawner: a single-threaded, stdlib-only process that forks, joins cgroups, execs and reaps.

Run as ``python -I -S spawner_main.py SOCKET_FD DESCRIPTORS KILL_FILE CGROUP...`` by worker.spawner,
and by nobody else. DESCRIPTORS is the soft RLIMIT_NOFILE that jobs get.

Theory of operation. The server is large and has threads; forking it would stall its event loop.
This process is small, so a fork here is cheap whatever the server holds, and the code between fork
and exec is plain Python with nothing running beside it. It is the parent of every job and the
child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) of every orphan that a job leaves.

The server's messages come over a Unix stream socket: a 32-bit big-endian length, then JSON, with
file descriptors as SCM_RIGHTS on its first byte. Each asks for one process:
``{"job", "argv", "env", "cwd", "fds", "merge"}``, with descriptors stdout, stderr (unless merged)
and one open ``cgroup.procs`` for each hierarchy. The answers, framed alike: ``started`` with a pid
(sent only after exec succeeded: the close-on-exec pipe closed without a word), ``failed`` with the
step and its errno, and later ``exited`` with the wait status and what the process used. Bytes stand
in JSON as text by UTF-8 with surrogate escapes.

End-of-file on the socket means that the server is gone, however it went. Then every job's cgroup is
killed through KILL_FILE (cgroup.kill of the cgroup above them all), the cgroups are removed, and
this process ends. A live server that merely gives up on us keeps its base cgroups, which the next
spawner needs; one that ends in order says so with an empty message, and removes them itself.
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

PR_SET_CHILD_SUBREAPER = 36
#: rt_sigaction(2) by machine. A program linked with musl leaves the C library's own signals ignored in
#: what it starts, and glibc lets nobody reset them.
RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134}
LIBC_SIGNALS = (32, 33, 34)
LENGTH_BYTES = 4
FD_BYTES = array.array("i").itemsize
#: The most descriptors of one message: stdout, stderr and the hierarchies of a v1 host.
MAX_FDS = 32
#: Longest wait for killed processes to be gone once the server is, in seconds.
LAST_SWEEP = 10.0
#: How long a server whose end of the socket has closed may take to be gone, in seconds.
DYING = 1.0


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class Child:
    """One process between fork and reaping."""

    def __init__(self, job: str, pid: int, exec_pipe: int) -> None:
        self.job = job
        self.pid = pid
        self.exec_pipe = exec_pipe  # -1 once exec has succeeded or failed
        self.failed = False


class Spawner:
    """The loop: requests in, processes out, exit statuses back."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.dismissed = False
        self.buffer = bytearray()
        self.fds: list[int] = []
        self.children: dict[int, Child] = {}
        self.exec_pipes: dict[int, Child] = {}
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
        """Fork and, in the child, become the job."""
        try:
            exec_read, exec_write = os.pipe2(os.O_CLOEXEC)
            try:
                pid = os.fork()
            except OSError:
                os.close(exec_read)
                os.close(exec_write)
                raise
        except OSError as error:
            self.send(op="failed", job=request["job"], step="fork", errno=error.errno)
            return
        if pid == 0:
            try:
                self.become(request, fds, exec_write)
            finally:
                os._exit(127)
        os.close(exec_write)
        child = Child(request["job"], pid, exec_read)
        self.children[pid] = self.exec_pipes[exec_read] = child
        self.epoll.register(exec_read, select.EPOLLIN)

    def become(self, request: dict, fds: list[int], exec_write: int) -> None:  # type: ignore[type-arg]
        """In the child: join the cgroups, take clean descriptors and signals, exec. Never returns well."""
        step = "cgroup"
        try:
            outputs = 1 if request["merge"] else 2
            for procs in fds[outputs:]:
                os.write(procs, b"0")
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
            step = "cwd"
            os.chdir(encode(request["cwd"]))
            step = "exec"
            env = {encode(key): encode(value) for key, value in request["env"].items()}
            argv = [encode(argument) for argument in request["argv"]]
            execute(argv, env)
        except OSError as error:
            os.write(exec_write, json.dumps({"step": step, "errno": error.errno}).encode())
        except BaseException as error:  # noqa: BLE001, ASYNC103  # the server must hear of it; nobody else is here
            os.write(exec_write, json.dumps({"step": step, "errno": 0, "error": repr(error)}).encode())

    def finish_exec(self, child: Child) -> None:
        """The close-on-exec pipe spoke: report success, or the failure that it carries."""
        report = os.read(child.exec_pipe, 4096)
        self.epoll.unregister(child.exec_pipe)
        os.close(child.exec_pipe)
        del self.exec_pipes[child.exec_pipe]
        child.exec_pipe = -1
        if report:
            child.failed = True
            self.send(op="failed", job=child.job, **json.loads(report))
        else:
            self.send(op="started", job=child.job, pid=child.pid)

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
            if child.exec_pipe >= 0:  # it ran and ended before we saw the exec succeed
                self.finish_exec(child)
            if not child.failed:
                self.send(
                    op="exited",
                    job=child.job,
                    status=status,
                    usage=[usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024],
                )


def execute(argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Exec, looking the program up on the job's own PATH as execvp(3) does; raise the best OSError."""
    program = argv[0]
    if b"/" in program:
        os.execve(program, argv, env)  # noqa: S606  # no shell, by design
    best: OSError | None = None
    for folder in env.get(b"PATH", b"/usr/bin:/bin").split(b":"):
        try:
            os.execve((folder or b".") + b"/" + program, argv, env)  # noqa: S606  # likewise
        except (FileNotFoundError, NotADirectoryError) as error:
            best = best or error
        except PermissionError as error:
            best = error
    raise best or FileNotFoundError(errno.ENOENT, "not on PATH")


def children(path: str) -> list[str]:
    """The cgroups directly below one; none if it is gone."""
    try:
        return [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def remove_tree(path: str) -> bool:
    """Remove a cgroup and those below it; False while that cannot be done, as something in it is dying."""
    try:
        below = [remove_tree(child) for child in children(path)]
        os.rmdir(path)  # noqa: PTH106  # pathlib costs the spawner its start-up
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return all(below)


def is_gone(parent: int) -> bool:
    """Whether the server has died; its socket closes a moment before."""
    deadline = time.monotonic() + DYING
    while os.getppid() == parent:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def sweep(kill_file: str, cgroups: list[str]) -> None:
    """Kill all that is left of every job and remove the cgroups, within LAST_SWEEP seconds.

    Args:
        kill_file: cgroup.kill of a cgroup above every job's.
        cgroups: what to remove, with all that is below; a zombie does not keep a cgroup from going.
    """
    deadline = time.monotonic() + LAST_SWEEP
    remaining = cgroups
    while remaining and time.monotonic() < deadline:
        try:
            with open(kill_file, "w") as file:  # noqa: PTH123  # likewise
                file.write("1")
        except OSError:
            pass  # gone already
        remaining = [path for path in remaining if not remove_tree(path)]
        if remaining:
            time.sleep(0.005)


def main() -> None:
    """Serve the server at the other end of the socket, then sweep up after it."""
    fd, descriptors, kill_file, *cgroups = sys.argv[1:]
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
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    number = RT_SIGACTION.get(os.uname().machine)
    if number is not None:
        for libc_signal in LIBC_SIGNALS:
            libc.syscall(number, libc_signal, bytes(32), None, 8)  # an all-zero sigaction is the default
    # The terminal's Ctrl-C and systemd's SIGTERM go to the whole group; only the server acts on
    # them, and this process ends when the server has.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(fd))
    sock.setblocking(True)
    spawner = Spawner(sock)
    try:
        spawner.run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server went while we spoke to it
    finally:
        sock.close()  # a server that lives learns at once that we failed
        bases_too = not spawner.dismissed and is_gone(parent)
        sweep(kill_file, cgroups if bases_too else [child for path in cgroups for child in children(path)])


if __name__ == "__main__":
    main()
