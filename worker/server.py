"""Owns the nursery tree: the spawner, the jobs, the sessions, the listeners, and how they end.

    root -- spawner link
         |- jobs        a scope for each job
         |- sessions    a scope for each connection
         |- listeners

The later a branch, the sooner it ends: first no new connections, then the jobs are stopped, then their
subscribers get the last byte and the final status, then the sessions close, then the spawner ends.
"""

import gc
import itertools
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import trio

from certs.roles import DEFAULT_ARC, Identity
from certs.trusted import Bearer
from wire.errors import ErrorCode
from wire.jobs import Cause, CauseKind
from wire.trio_stream import ByteStream

from .accept import accept_forever, open_listeners
from .audit import NO_TRAIL, Event, Outcome, Trail
from .bounds import Bounds
from .carry_on import keep
from .descriptors import JobFiles, share_out
from .fate import Failures
from .gate import Gate, Visit
from .handshake import Turn
from .headroom import leave_room
from .hierarchy import open_hierarchies
from .inherited import FALLBACK
from .intake import LargeFrames
from .lacks import check_pidfds
from .lag import Lag, LagWatch
from .listener import Door, acknowledged_bytes
from .lobby import Lobby
from .log import Log
from .notify import Notifier
from .protect import protect
from .refusals import Refusals
from .registry import Registry
from .retain import Retention
from .session import STALL_SECONDS, Session
from .spawner import Spawner
from .store import Budget, OutputStore
from .trust import Trust
from .users import Users
from .watchdog import keep_alive

#: How long subscribers may read on once every job has ended, in seconds; then they are told that we go.
SESSIONS_DEADLINE = 5.0
#: How long each may take for that, in seconds; then it is cut.
LAST_WORD_DEADLINE = 5.0
#: Longest that a service manager is kept waiting for the end of a reload, in seconds.
RELOAD_DEADLINE = 2.0
_SHUTDOWN = Cause(CauseKind.STOPPED, by="server", detail="the server was shut down")


@dataclass(frozen=True, slots=True)
class Config:
    """How a server is run.

    Args:
        host: the address to listen on.
        port: the TCP port; 0 lets the kernel choose.
        certs: the directory with ca.crt, server.crt and server.key.
        arc: the OID below which roles are numbered.
        grace: seconds between TERM and KILL where a request names none.
        cgroup_parent: the cgroup below which to build, as `hierarchy.open_hierarchies` takes it.
        budget: how much output may take.
        retention: how long ended jobs are kept.
        stall: seconds after which a client that takes nothing is given up.
        bounds: what clients may cost.
        users: who jobs may run as.
        permits: what `privileges` leaves to jobs.
        directory: where jobs work whose request names no directory.
    """

    host: str
    port: int
    certs: Path
    arc: str = DEFAULT_ARC
    grace: float = 10.0
    cgroup_parent: str | None = None
    budget: Budget = field(default_factory=Budget)
    retention: Retention = field(default_factory=Retention)
    stall: float = STALL_SECONDS
    bounds: Bounds = field(default_factory=Bounds)
    users: Users = field(default_factory=Users)
    permits: tuple[str, ...] = ()
    directory: Path = FALLBACK


class Server:
    """One server's life.

    Args:
        config: how to run it.
        log: where it tells what happens.
        trail: its audit trail.
        notifier: the service manager, if there is one.

    Raises:
        CertsError: the certificates cannot be used.
    """

    def __init__(
        self, config: Config, log: Log, trail: Trail = NO_TRAIL, notifier: Notifier | None = None
    ) -> None:
        self._config = config
        self._refusals = Refusals(log)
        self._trail = trail.counting(self._refusals)
        self._notifier = notifier or Notifier()
        self._connections = itertools.count(1)
        self._log = log
        self._trust = Trust(config.certs, log)
        self._name = f"worker-service/{version('worker-service')}"
        self._sessions: set[Session] = set()
        self._lag = LagWatch(log)
        late = "the spawner served nobody for longer than it should"
        self._spawner_lag = Lag(log, late, "spawner_round")
        self._stop_asked = trio.Event()
        # A connection, a job's pipe and a start under way cost a descriptor each; jobs get the old limit.
        self._descriptors, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._shares = share_out(config.bounds, most)
        self._bounds = self._shares.bounds
        if self._bounds != config.bounds:
            log.warning(
                "fewer connections are taken: this process may not open more files (LimitNOFILE=, ulimit -n)",
                files=most,
                max_connections=self._bounds.max_connections,
                max_handshakes=self._bounds.max_handshakes,
                max_waiting=self._bounds.max_waiting,
                max_jobs=self._shares.max_jobs,
            )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then end everything in order. SIGHUP reloads certificates.

        Raises:
            CgroupError: the cgroup that the operator named cannot be used.
            ListenError: the address cannot be listened on.
            OSError: this host lacks what a server needs.
        """
        check_pidfds()
        for number in (signal.SIGTERM, signal.SIGINT):
            # What the receiver puts back at the end: a signal that comes a moment too late must not turn
            # an orderly end into a death by signal.
            signal.signal(number, signal.SIG_IGN)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            listeners = await open_listeners(self._config.host, self._config.port)
            with (
                closing(OutputStore(self._config.budget, self._log)) as store,
                open_hierarchies(self._config.cgroup_parent) as hierarchies,
            ):
                if hierarchies.tracking is None:
                    self._log.warning(
                        "jobs have no cgroup; limits are refused, and processes kept by their parent"
                    )
                for controller, reason in hierarchies.missing.items():
                    self._log.warning("limits are missing", controller=controller, reason=reason)
                leave_room(hierarchies, self._log)
                protect(self._log)
                async with trio.open_nursery() as root:
                    store.work_ahead(root)
                    spawner = Spawner(
                        hierarchies, self._log, self._descriptors, self._config.permits, self._spawner_lag
                    )
                    await root.start(spawner.run)
                    keep(root, self._log, "certificates", self._trust.run)
                    keep(root, self._log, "oom", hierarchies.oom.run)
                    async with trio.open_nursery() as jobs:
                        registry = Registry(
                            jobs,
                            hierarchies,
                            spawner,
                            self._log,
                            self._config.grace,
                            store,
                            self._config.retention,
                            self._bounds,
                            self._trail,
                            self._config.users,
                            JobFiles(self._shares),
                            os.fsencode(self._config.directory),
                        )
                        gc.freeze()  # what is there now stays; to look through it takes 50 ms each time
                        keep(root, self._log, "retention", registry.expire)
                        keep(root, self._log, "signals", partial(self._heed, signals, registry))
                        alive = partial(keep_alive, self._notifier, spawner.ping, self._log)
                        keep(root, self._log, "watchdog", alive)
                        await self._serve(listeners, registry)
                    root.cancel_scope.cancel()
        self._trail.record(Event.SERVER_ENDED, Outcome.DONE)
        self._log.info("ended", **self._lag.figures(), **self._spawner_lag.figures())

    async def _serve(self, listeners: list[trio.SocketListener], registry: Registry) -> None:
        stall = self._config.stall
        gate = Gate(self._bounds, self._log)
        failures = Failures(self._log, self._trail)
        large = LargeFrames()
        door = Door(self._trust, self._config.arc, gate, failures, self._log)

        def trail_of(visit: Visit) -> Trail:
            return self._trail.about(connection=next(self._connections), peer=visit.peer)

        def lose(visit: Visit, reason: str) -> None:
            door.lose(visit, trail_of(visit), reason)

        async def handle(tcp: trio.SocketStream, visit: Visit, turn: Turn) -> None:
            trail = trail_of(visit)

            async def serve(stream: ByteStream, identity: Identity, bearer: Bearer) -> None:
                # A client that reads nothing closes its window, which the kernel takes for a vanished host.
                tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(max(30, stall) * 1000))
                acknowledged = partial(acknowledged_bytes, tcp)
                session = Session(
                    stream,
                    identity,
                    registry,
                    self._log,
                    self._name,
                    stall=stall,
                    acknowledged=acknowledged,
                    bounds=self._bounds,
                    turns=gate.turns,
                    requests=gate.requests,
                    large=large,
                    trail=trail.client(identity),
                )
                self._sessions.add(session)
                try:
                    with self._trust.hold(bearer, session.end):
                        await session.run()
                finally:
                    self._sessions.discard(session)

            await door.let_in(tcp, visit, turn, trail, serve)

        async with trio.open_nursery() as giving:
            keep(giving, self._log, "failures", failures.run)
            keep(giving, self._log, "refusals", partial(self._refusals.run, self._trail.more))
            # Turns are for those who are in, too, until the last has left.
            keep(giving, self._log, "gate", gate.run)
            async with trio.open_nursery() as sessions:
                lobby = Lobby(gate, handle, lose, sessions, self._log)
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(lobby.run)
                    for listener in listeners:
                        accepting.start_soon(accept_forever, listener, lobby, gate, self._log)
                        host, port = listener.socket.getsockname()[:2]
                        self._log.info("listening", host=host, port=port)
                        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                        self._trail.record(Event.SERVER_STARTED, Outcome.DONE, server=self._name, listen=at)
                    self._notifier.ready("Serving.")
                    trio.lowlevel.add_instrument(self._lag)
                    await self._stop_asked.wait()
                    self._notifier.stopping("Stopping the jobs.")
                    gate.drop_all()
                    accepting.cancel_scope.cancel()
                self._log.info("ending", sessions=len(self._sessions))
                await registry.stop_all(_SHUTDOWN, self._config.grace)
                for session in tuple(self._sessions):
                    session.finish()
                giving.start_soon(self._end_sessions)
                sessions.cancel_scope.deadline = trio.current_time() + SESSIONS_DEADLINE + LAST_WORD_DEADLINE
            giving.cancel_scope.cancel()

    async def _end_sessions(self) -> None:
        """Have those go that read on: one whose stream waits for credit would stay for ever."""
        await trio.sleep(SESSIONS_DEADLINE)
        for session in tuple(self._sessions):
            session.end(ErrorCode.SHUTTING_DOWN, "The server is shutting down.")

    async def _heed(self, signals: AsyncIterator[int], registry: Registry) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._notifier.reloading()
                self._trail.reopen()
                done = self._trust.reload()
                with trio.move_on_after(RELOAD_DEADLINE):  # a dead disk must not hold up what is told next
                    await done.wait()
                self._notifier.ready("Serving.")
            elif self._stop_asked.is_set():
                await registry.stop_all(_SHUTDOWN, 0)  # asked twice: no more grace
            else:
                self._stop_asked.set()
