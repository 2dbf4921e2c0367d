"""Owns the server's link to the spawner: starts it, asks it for processes, and replaces it if it dies."""

import array
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from wire.jobs import Usage

from . import cgroupfs, keeper, spawner_main
from .hierarchy import Hierarchies
from .log import Log
from .state import Exit
from .threads import may_need_threads
from .users import User

#: Longest wait for the spawner to take a request or to end, in seconds.
LINK_DEADLINE = 10.0
#: Longest wait for a program to run once it was asked for, in seconds: a dead network mount can hang it.
START_DEADLINE = 30.0
#: Pause before a spawner that died at once is started again, in seconds.
RESTART_PAUSE = 1.0


class SpawnError(Exception):
    """A process could not be started.

    Args:
        step: what failed: ``request``, ``fork``, ``cgroup``, ``setup``, ``user``, ``cwd``, ``exec``,
            ``timeout`` or ``lost``.
        errno: the kernel's reason, 0 if there is none.
    """

    def __init__(self, step: str, errno: int) -> None:
        super().__init__(f"{step}: {os.strerror(errno) if errno else 'the spawner was lost'}")
        self.step = step
        self.errno = errno


@dataclass(slots=True)
class Child:
    """One process that was asked for, and its keeper if it has one. ``end`` is there once it has ended."""

    pid: int = 0
    keeper: int = 0
    failure: SpawnError | None = None
    started: trio.Event = field(default_factory=trio.Event)
    end: Exit | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    async def wait(self) -> Exit:
        """Wait for the process's end and return it."""
        await self.ended.wait()
        assert self.end is not None  # noqa: S101  # set before the event
        return self.end


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run: all bytes, as the kernel takes them; as which user, None for the server's own."""

    argv: tuple[bytes, ...]
    env: dict[bytes, bytes]
    cwd: bytes
    merge: bool
    user: User | None = None


class Spawner:
    """The link. `run` keeps a spawner alive; `spawn` asks it for a process, `ping` whether it answers.

    Args:
        hierarchies: the server's cgroups, which the spawner clears if the server dies.
        log: where its deaths are told.
        descriptors: the soft limit on open files that jobs get.
        permits: what `privileges` leaves to jobs.
    """

    def __init__(
        self,
        hierarchies: Hierarchies,
        log: Log,
        descriptors: int | None = None,
        permits: Iterable[str] = (),
    ) -> None:
        self._permits = ",".join(permits)
        self._descriptors = (
            resource.getrlimit(resource.RLIMIT_NOFILE)[0] if descriptors is None else descriptors
        )
        self._hierarchies = hierarchies
        self._log = log
        self._children: dict[str, Child] = {}
        self._sock: trio.socket.SocketType | None = None
        self._sending = trio.Lock()
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
                        ours.send(bytes(spawner_main.LENGTH_BYTES))
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
        buffer = bytearray()
        while True:  # noqa: ASYNC913  # recv is a cancel point; where it raises, the loop ends
            try:
                data = await sock.recv(65536)
            except (OSError, trio.ClosedResourceError):
                return
            if not data:
                return
            buffer += data
            while len(buffer) >= spawner_main.LENGTH_BYTES:
                end = spawner_main.LENGTH_BYTES + int.from_bytes(buffer[: spawner_main.LENGTH_BYTES], "big")
                if len(buffer) < end:
                    break
                self._dispatch(json.loads(buffer[spawner_main.LENGTH_BYTES : end]))
                del buffer[:end]

    def _dispatch(self, message: dict[str, Any]) -> None:
        if message["op"] == "pong":
            self._answered.set()
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

    async def spawn(self, job_id: str, spec: ProcessSpec, fds: Sequence[int], *, keep: bool = False) -> Child:
        """Start a process and return once its program runs.

        Args:
            job_id: a name for it, unique among those running.
            spec: what to run.
            fds: stdout, stderr unless merged, and the directory of its cgroup in each hierarchy, the
                tracking one first; the caller keeps them and closes them.
            keep: whether a keeper must hold the job together, as there is no cgroup.

        Raises:
            SpawnError: it could not be started, and there is no process.
            trio.Cancelled: there may be a process, or soon be one; killing the cgroup ends it. With
                ``keep``, there is none.
        """
        body = json.dumps(
            {
                "job": job_id,
                # None holds a NUL, so that thousands of words are one text.
                "argv": _text(b"\0".join(spec.argv)),
                "env": _text(b"\0".join(name + b"=" + value for name, value in spec.env.items())),
                "cwd": _text(spec.cwd),
                "user": spec.user and spec.user.credentials(),
                "merge": spec.merge,
                "keep": keep,
                "fds": len(fds),
            }
        ).encode()
        frame = len(body).to_bytes(spawner_main.LENGTH_BYTES, "big") + body
        child = Child()
        try:
            with trio.move_on_after(START_DEADLINE) as scope:
                while (sock := self._sock) is None:
                    await self._ready.wait()
                self._children[job_id] = child
                scope.shield = keep  # only its keeper can end it then, and we must learn which that is
                async with self._sending:
                    # Meanwhile the spawner may have died, and a new one have come that knows nothing of us.
                    if self._sock is sock and not child.started.is_set():
                        await self._send(sock, frame, fds)
                await child.started.wait()
        finally:
            # Who gave up waits for no end: what the spawner may yet say of this process is not for them.
            if not child.started.is_set():
                self._children.pop(job_id, None)
        if not child.started.is_set():
            raise SpawnError("timeout", errno.ETIMEDOUT)
        if child.failure is not None:
            raise child.failure
        return child

    async def ping(self) -> None:
        """Return once a spawner has answered: this one, or the next one if it dies meanwhile."""
        await trio.lowlevel.checkpoint()
        body = json.dumps({"op": "ping"}).encode()
        frame = len(body).to_bytes(spawner_main.LENGTH_BYTES, "big") + body
        self._answered = answered = trio.Event()
        while not answered.is_set():
            await self._ready.wait()
            async with self._sending:
                if (sock := self._sock) is not None:
                    with contextlib.suppress(SpawnError):  # the kernel is short of memory: once more, later
                        await self._send(sock, frame, ())
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


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
