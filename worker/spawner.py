"""Owns the server's link to the spawner: starts it, asks it for processes, and replaces it if it dies."""

import array
import contextlib
import errno
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import trio

from wire.jobs import Usage

from . import cgroupfs, keeper, spawner_main
from .child import Child, ProcessSpec, SpawnError
from .hierarchy import Hierarchies
from .lag import Lag
from .link import GOODBYE, Incoming, frame
from .log import Log
from .slots import Slots
from .state import Exit
from .threads import may_need_threads

#: Longest wait for the spawner to take a request or to end, in seconds.
LINK_DEADLINE = 10.0
#: Longest wait for a program to run once it was asked for, in seconds: a dead network mount can hang it.
START_DEADLINE = 30.0
#: What of our requests the kernel holds until the spawner takes them, as SO_SNDBUF has it: some 30 of usual
#: size. Whatever waits there is past its turn, and what comes later waits for it.
QUEUE_BYTES = 16 * 1024
#: Pause before a spawner that died at once is started again, in seconds.
RESTART_PAUSE = 1.0


class Spawner:
    """The link. `run` keeps a spawner alive; `spawn` asks it for a process, `ping` whether it answers.

    Args:
        hierarchies: the server's cgroups, which the spawner clears if the server dies.
        log: where its deaths are told.
        descriptors: the soft limit on open files that jobs get.
        permits: what `privileges` leaves to jobs.
        lag: where the rounds of its loop are told.
    """

    def __init__(
        self,
        hierarchies: Hierarchies,
        log: Log,
        descriptors: int | None = None,
        permits: Iterable[str] = (),
        lag: Lag | None = None,
    ) -> None:
        self._lag = lag
        self._permits = ",".join(permits)
        self._descriptors = (
            resource.getrlimit(resource.RLIMIT_NOFILE)[0] if descriptors is None else descriptors
        )
        self._hierarchies = hierarchies
        self._log = log
        self._children: dict[str, Child] = {}
        self._numbers = itertools.count(1)
        self._sock: trio.socket.SocketType | None = None
        self._sending = Slots(1)
        self._ready = trio.Event()
        self._answered = trio.Event()
        self.pid = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep one spawner running until cancelled; then end it, and with it every process it started.

        Raises:
            OSError: the first one could not be started; later ones are tried again.
        """
        first = True
        while True:
            await trio.lowlevel.checkpoint()
            began = trio.current_time()
            try:
                async with self._process() as sock:
                    self._sock = sock
                    self._ready.set()
                    task_status.started()
                    task_status, first = trio.TASK_STATUS_IGNORED, False
                    try:
                        await self._receive(sock)
                    finally:
                        self._sock = None
                        self._ready = trio.Event()
                        self._lose_children()
                self._log.error("the spawner died; its jobs are lost and a new one starts", pid=self.pid)
            except (OSError, MemoryError) as error:
                if first:
                    raise
                self._log.error("no new spawner could be started; trying again", reason=str(error))
            except Exception:
                if first:
                    raise
                self._log.exception("the link to the spawner failed; a new one starts")
            if trio.current_time() - began < RESTART_PAUSE:
                await trio.sleep(RESTART_PAUSE)

    @contextlib.asynccontextmanager
    async def _process(self) -> AsyncIterator[trio.socket.SocketType]:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
        with ours, theirs:
            fd = theirs.fileno()
            locks = self._hierarchies.locks
            command = [sys.executable, "-I", "-S", spawner_main.__file__, str(fd), str(self._descriptors)]
            command += [self._permits, *map(str, self._hierarchies.bases)]
            with may_need_threads():
                process = await trio.lowlevel.open_process(
                    command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=[fd, *locks], start_new_session=True
                )
            theirs.close()
            self.pid = process.pid
            sock = trio.socket.from_stdlib_socket(ours)
            try:
                yield sock
                process.kill()  # it has died or was given up; the jobs' scopes end its jobs
            finally:
                with contextlib.suppress(OSError):  # an empty message: we end in order
                    if sock.fileno() >= 0 and sys.exc_info()[0] is trio.Cancelled:
                        ours.send(GOODBYE)
                sock.close()
                # It ends by itself at the end-of-file, after it has killed and removed all that is left.
                with trio.CancelScope(shield=True):
                    with trio.move_on_after(cgroupfs.SWEEP_DEADLINE + LINK_DEADLINE):
                        await process.wait()
                    if process.returncode is None:
                        process.kill()
                        await process.wait()

    async def _receive(self, sock: trio.socket.SocketType) -> None:
        await trio.lowlevel.checkpoint()
        incoming = Incoming()
        while True:  # noqa: ASYNC913  # recv is a cancel point; where it raises, the loop ends
            try:
                data = await sock.recv(65536)
            except (OSError, trio.ClosedResourceError):
                return
            if not data:
                return
            incoming.feed(data)
            while incoming.has_message():
                self._dispatch(incoming.take()[0])

    def _dispatch(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "pong":
                self._answered.set()
                return
            case "round":
                if self._lag is not None:
                    self._lag.add(message["took"], message["used"])
                return
        child = self._children.get(message["job"])
        if child is None:
            self._end_kept(message)
            return
        match message["op"]:
            case "started":
                child.pid, child.keeper = message["pid"], message["keeper"]
                child.started.set()
            case "failed":
                if "error" in message:
                    self._log.error("the spawner failed before exec", error=message["error"])
                child.failure = SpawnError(message["step"], message["errno"])
                child.again = message.get("again", False)
                child.started.set()
                del self._children[message["job"]]
            case "exited":
                user, system, max_rss = message["usage"]
                child.end = Exit.from_wait(message["status"], Usage(user, system, max_rss))
                child.ended.set()
                del self._children[message["job"]]

    def _end_kept(self, message: dict[str, Any]) -> None:
        """End a process that nobody waits for any more, where no cgroup ends it: its keeper does."""
        if message["op"] == "started" and message["keeper"] in keeper.descendants(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(message["keeper"], signal.SIGTERM)

    def _lose_children(self) -> None:
        for child in self._children.values():
            if not child.started.is_set():
                child.failure = SpawnError("lost", 0)
                child.started.set()
            child.end = Exit.by_loss()
            child.ended.set()
        self._children.clear()

    async def spawn(
        self,
        job_id: str,
        spec: ProcessSpec,
        fds: Sequence[int],
        *,
        keep: bool = False,
        source: str = "",
    ) -> Child:
        """Start a process and return once its program runs.

        Args:
            job_id: whose it is. A start that was given up may be asked for again with the same id, and what
                the spawner has yet to say of the first is not for the second.
            spec: what to run.
            fds: stdout, stderr unless merged, and the directory of its cgroup in each hierarchy, the
                tracking one first; the caller keeps them and closes them.
            keep: whether a keeper must hold the job together, as there is no cgroup.
            source: who asks: of many sources' requests, one of each is sent in turn.

        Raises:
            SpawnError: it could not be started, and there is no process.
            trio.Cancelled: there may be a process, or soon be one; killing the cgroup ends it. With
                ``keep``, there is none.
        """
        name = f"{job_id} {next(self._numbers)}"
        request = {
            "job": name,
            "argv": len(spec.argv),
            "user": spec.user and spec.user.credentials(),
            "merge": spec.merge,
            "keep": keep,
            "fds": len(fds),
        }
        environment = [variable + b"=" + value for variable, value in spec.env.items()]
        message = frame(request, b"\0".join((spec.cwd, *spec.argv, *environment)))
        child = await self._ask(name, message, fds, keep, source)
        if child.again:
            child = await self._ask(name, message, fds, keep, source)
        if child.failure is not None:
            raise child.failure
        return child

    async def _ask(self, name: str, message: bytes, fds: Sequence[int], keep: bool, source: str) -> Child:
        """Send a request and wait for its answer, both within a deadline."""
        child = Child()
        try:
            with trio.move_on_after(START_DEADLINE) as scope:
                while (sock := self._sock) is None:
                    await self._ready.wait()
                self._children[name] = child
                scope.shield = keep  # only its keeper can end it then, and we must learn which that is
                async with self._sending.hold(source):
                    # Meanwhile the spawner may have died, and a new one have come that knows nothing of us.
                    if self._sock is sock and not child.started.is_set():
                        await self._send(sock, message, fds)
                await child.started.wait()
        finally:
            # Who gave up waits for no end: what the spawner may yet say of this process is not for them.
            if not child.started.is_set():
                self._children.pop(name, None)
        if not child.started.is_set():
            raise SpawnError("timeout", errno.ETIMEDOUT)
        return child

    async def ping(self) -> None:
        """Return once a spawner has answered: this one, or the next one if it dies meanwhile."""
        await trio.lowlevel.checkpoint()
        self._answered = answered = trio.Event()
        while not answered.is_set():
            await self._ready.wait()
            async with self._sending.hold("ping", ahead=True):
                if (sock := self._sock) is not None:
                    with contextlib.suppress(SpawnError):  # the kernel is short of memory: once more, later
                        await self._send(sock, frame({"op": "ping"}), ())
            with trio.move_on_after(RESTART_PAUSE):
                await answered.wait()

    async def _send(self, sock: trio.socket.SocketType, data: bytes, fds: Sequence[int]) -> None:
        """Send a request, or find that the spawner has died: then `run` marks the child lost."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = 0
        # A request cut in half would leave the link out of step, so a cancel waits until it is sent.
        with trio.move_on_after(LINK_DEADLINE, shield=True) as scope:
            await trio.lowlevel.checkpoint()
            try:
                sent = await sock.sendmsg([data], rights)
                with memoryview(data) as view:
                    while sent < len(data):
                        sent += await sock.send(view[sent:])
            except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
                return
            except OSError as error:
                if sock.fileno() < 0:
                    return  # closed by `run`
                if not sent:
                    raise SpawnError("request", error.errno or 0) from error
                sock.close()
        if scope.cancelled_caught:
            sock.close()  # it has hung; `run` starts another
