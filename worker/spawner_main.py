"""The spawner: a single-threaded, stdlib-only process that forks, joins cgroups, execs and reaps.

Run as ``python -I -S spawner_main.py SOCKET_FD DESCRIPTORS PERMITS CGROUP...`` by worker.spawner, and by
nobody else. DESCRIPTORS is the soft RLIMIT_NOFILE that jobs get, PERMITS what worker.privileges leaves to
them, with commas between; the first CGROUP is above every job, the others are the bases of v1 controllers,
and there is none where the server may make no cgroup.

Theory of operation. The server is large and has threads; forking it would stall its event loop.
This process is small, so a fork here is cheap whatever the server holds. It is the parent of every job and
the child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) of every orphan that a job leaves.

The server's messages (worker.link) come over a Unix stream socket, with file descriptors as SCM_RIGHTS on
their first byte. Each asks for one process: ``{"job", "argv", "user", "fds", "merge", "keep"}``, where the
user is null for our own, or a list of uid, gid and groups, and ``argv`` is a number of words; then the
directory, so many arguments and the environment, with NULs between; with descriptors stdout, stderr (unless
merged) and the job's directory in each cgroup hierarchy. The answers: ``started`` with a pid
(sent only after exec succeeded: the close-on-exec pipe closed without a word), ``failed`` with the
step and its errno, and later ``exited`` with the wait status and what the process used. ``{"op": "ping"}``
is answered with ``pong``. With ``keep``, a keeper (worker.keeper) stands between
this process and the job's, and ``started`` names it too.

One process serves all clients, so no round of its loop is long: it takes one request, some of the
processes that have ended, and some pipes that speak. What is left over is done in the next rounds, which do
not wait for anything new. A round that was long all the same, or longer than any before, is told: ``round``.

End-of-file on the socket means that the server is gone, however it went. Then every job is killed, the
cgroups are removed, and this process ends. A live server that merely gives up on us keeps its base
cgroups, which the next spawner needs; one that ends in order says so with an empty message, and removes
them itself.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":  # -I keeps our own folder off the path
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120

from worker import cgroupfs, keeper, privileges
from worker.launch import ABOUT_TO_EXEC, Launcher, own_peak, settle
from worker.link import Inbox, frame
from worker.rounds import Rounds

#: In one round of the loop: the most pipes that are heard, and the most processes that are reaped.
EVENTS, REAPED = 32, 32
#: How long a server whose end of the socket has closed may take to be gone, in seconds.
DYING = 1.0


class Child:
    """One process between fork and reaping."""

    def __init__(self, job: str, pid: int, inside: int, exec_pipe: int, report: int) -> None:
        self.job = job
        self.pid = pid  # of our own child: the job's main process, or its keeper
        self.inside = inside  # in how many of its cgroups it was born
        self.exec_pipe = exec_pipe  # -1 once exec has succeeded or failed
        self.report = report  # where the keeper reports; -1 without one, or once it has
        self.kept = report >= 0
        self.named = False  # whether its keeper has told the main process's pid
        self.failed = False
        self.peak = 0  # what it had resident before its exec, in KiB


class Spawner:
    """The loop: requests in, processes out, exit statuses back."""

    def __init__(self, sock: socket.socket, launcher: Launcher) -> None:
        self.sock = sock
        self.launcher = launcher
        self.dismissed = False
        self.inbox = Inbox(sock)
        self.children: dict[int, Child] = {}
        self.exec_pipes: dict[int, Child] = {}
        self.reports: dict[int, Child] = {}
        self.ended = False  # whether there may be processes to reap
        self.rounds = Rounds()
        self.epoll = select.epoll()
        self.wakeup, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.epoll.register(self.wakeup, select.EPOLLIN)

    def run(self) -> None:
        """Serve until the server closes its end."""
        serving = True
        while serving:
            left_over = self.ended or self.inbox.has_message()
            events = self.epoll.poll(0 if left_over else None, EVENTS)
            self.rounds.begin()
            readable = False
            for fd, _ in events:
                if fd == self.wakeup:
                    os.read(self.wakeup, 4096)
                    self.ended = True
                elif fd in self.exec_pipes:
                    self.finish_exec(self.exec_pipes[fd])
                elif fd in self.reports:
                    self.finish_kept(self.reports[fd])
                elif fd == self.sock.fileno():
                    readable = True
            self.ended = self.ended and self.reap()
            serving = self.receive(readable=readable)
            if self.rounds.end():
                self.send(op="round", took=self.rounds.took, used=self.rounds.used)

    def receive(self, *, readable: bool) -> bool:
        """Read from the server and serve its next request, as far as they are there; False at its end."""
        if not self.inbox.has_message() and readable and not self.inbox.read():
            return False
        if not self.inbox.has_message():
            return True
        request, words, fds = self.inbox.take()
        if not request:
            self.dismissed = True
            return False
        if request.get("op") == "ping":
            self.send(op="pong")
            return True
        try:
            if len(fds) == request["fds"]:
                self.spawn(request, words, fds)
            else:  # there was no room for all of them, and without its cgroups a job would have no limits
                self.send(op="failed", job=request["job"], step="fork", errno=errno.EMFILE)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def send(self, **message: object) -> None:
        self.sock.sendall(frame(message))

    def spawn(self, request: dict, words: bytes, fds: list[int]) -> None:  # type: ignore[type-arg]
        """Fork and, in the child, become the job, or the keeper of it."""
        pipes: list[int] = []
        first = 1 if request["merge"] else 2
        outputs, cgroups = fds[:first], fds[first:]
        try:
            for _ in range(2 if request["keep"] else 1):
                pipes += os.pipe2(os.O_CLOEXEC)
            pid, inside = self.launcher.fork(cgroups)
        except OSError as error:
            for fd in pipes:
                os.close(fd)
            self.send(op="failed", job=request["job"], step="fork", errno=error.errno)
            return
        exec_read, exec_write, *report = pipes
        if pid == 0:

            def become() -> int:
                return self.launcher.become(request, words, outputs, cgroups[inside:], exec_write)

            try:
                if request["keep"]:
                    keeper.keep(report[1], become)
                else:
                    become()
            finally:
                os._exit(127)
        for fd in (exec_write, *report[1:]):
            os.close(fd)
        child = Child(request["job"], pid, inside, exec_read, report[0] if report else -1)
        self.children[pid] = self.exec_pipes[exec_read] = child
        self.epoll.register(exec_read, select.EPOLLHUP)  # what it carries is of no use before its end

    def finish_exec(self, child: Child) -> None:
        """The close-on-exec pipe has ended: report success, or the failure that it carried."""
        told = b""
        while part := os.read(child.exec_pipe, 4096):
            told += part
        peak, about, report = told.rpartition(ABOUT_TO_EXEC)
        child.peak = int(peak or 0)
        self.epoll.unregister(child.exec_pipe)
        os.close(child.exec_pipe)
        del self.exec_pipes[child.exec_pipe]
        child.exec_pipe = -1
        if report:
            child.failed = True
            self.drop_report(child)
            self.send(op="failed", job=child.job, **json.loads(report))
        elif not about:  # it was killed before, as by a cgroup that is being killed
            child.failed, self.launcher.born_inside = True, False
            self.drop_report(child)
            # It is worth another try, in which it joins its cgroups.
            again = bool(child.inside)
            self.send(op="failed", job=child.job, step="setup", errno=errno.ESRCH, again=again)
        elif child.report < 0:
            self.send(op="started", job=child.job, pid=child.pid, keeper=0)
        else:  # its keeper tells the rest
            self.reports[child.report] = child
            self.epoll.register(child.report, select.EPOLLIN)

    def finish_kept(self, child: Child) -> None:
        """A keeper has told its main process's pid, then its end; or it has ended without a word: killed."""
        if not child.named and (pid := os.read(child.report, keeper.PID_DIGITS)):
            child.named = True
            self.send(op="started", job=child.job, pid=int(pid), keeper=child.pid)
            return
        report = os.read(child.report, 4096) if child.named else b""
        self.drop_report(child)
        if child.named:
            ended = json.loads(report or '{"status": 9, "usage": [0, 0, 0]}')
            self.send_end(child, ended["status"], *ended["usage"])
        else:
            self.send(op="failed", job=child.job, step="setup", errno=errno.ESRCH)

    def drop_report(self, child: Child) -> None:
        """Close what a keeper reports to."""
        if child.report >= 0:
            if self.reports.pop(child.report, None) is not None:
                self.epoll.unregister(child.report)
            os.close(child.report)
            child.report = -1

    def reap(self) -> bool:
        """Reap processes that have ended: jobs, and the orphans that they left; whether there may be more."""
        for _ in range(REAPED):
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return False
            child = self.children.pop(pid, None)
            if child is None:
                continue  # an orphan of some job
            if child.kept:
                continue  # what it wrote into its pipes comes from there
            if child.exec_pipe >= 0:  # it ran and ended before we saw the exec succeed
                self.finish_exec(child)
            if not child.failed:
                self.send_end(child, status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss)
        return True

    def send_end(self, child: Child, status: int, user: float, system: float, peak: int) -> None:
        """Report a main process's end: its wait status, and what it used, ``peak`` in KiB."""
        self.send(op="exited", job=child.job, status=status, usage=[user, system, own_peak(peak, child.peak)])


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
    privileges.prctl(keeper.PR_SET_CHILD_SUBREAPER, 1)
    settle(int(descriptors))
    # The terminal's Ctrl-C and systemd's SIGTERM go to the whole group; only the server acts on
    # them, and this process ends when the server has.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    rights = privileges.Privileges(frozenset(permits.split(",")))
    rights.settle()
    sock = socket.socket(fileno=int(fd))
    sock.setblocking(True)
    spawner = Spawner(sock, Launcher(rights, cgroups[0] if cgroups else ""))
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
