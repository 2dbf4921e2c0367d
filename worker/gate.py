"""Owns how many connections there are: those short of their hello, and those of each identity past it.

Theory of operation. Who has not got its hello yet may be anybody, so there the newest always gets in,
and the source address that has most of them loses its oldest: a flood pushes out itself. Those that wait
for their handshake, which cost a descriptor, are counted apart from those whose handshake is under way,
which cost 100 KB, and push out none of them. So many may wait that an ordinary flood finds room and sits
there: to drop what comes again at once costs more than to keep it. Whoever has proved who it is stays; what
is too many then is refused with the reason. Users never get the last places, so that an Admin can come in
and stop what uses up the others.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

import trio

from certs.roles import Identity, Role
from wire.errors import ErrorCode, RequestError

from .bounds import Bounds
from .handshake import HandshakeQueue
from .log import Log
from .pool import Pool
from .tally import Tally
from .turns import Turns

#: A site gets a whole IPv6 network, of this prefix length at least (RFC 6177): that is one source.
_IPV6_PREFIX = 64
#: The most late connections that are dropped each time the event loop comes round.
_LATE_AT_ONCE = 16


@dataclass(eq=False, slots=True)
class Visit:
    """One connection, from its accept to its end.

    Args:
        peer: where it comes from, as HOST:PORT.
        source: whose it is, as long as nothing else is known of it.
        until: when its hello is due, by Trio's clock.
    """

    peer: str
    source: str
    until: float
    dropped: bool = False
    late: bool = False
    #: Ends it, wherever it is on its way.
    end: Callable[[], object] = field(default=lambda: None, init=False)
    pool: "Pool[Visit] | None" = field(default=None, init=False)
    principal: str | None = field(default=None, init=False)


class Gate:
    """Every connection of a server. `handshakes` is for the costly steps up to the hello, `turns` for others.

    `run` it: it ends those that take too long, a few at a time, as a thousand at once would hold others up.

    Args:
        bounds: how many there may be.
        log: where it is told when there are too many.
    """

    def __init__(self, bounds: Bounds, log: Log) -> None:
        self._bounds = bounds
        self.turns = Turns()
        self.handshakes = HandshakeQueue()
        self._waiting: Pool[Visit] = Pool()
        self._begun: Pool[Visit] = Pool()
        #: All that are short of their hello, the oldest first; a dict is an ordered set.
        self._arrived: dict[Visit, None] = {}
        self._some = trio.Event()
        self._closed = False
        self._count = 0  # of those past their hello
        self._inside: Counter[str] = Counter()  # the same, by principal
        #: Requests under way on all connections of a principal.
        self.requests: Counter[str] = Counter()
        self._dropped = Tally(log, "handshakes were dropped: there are more than --max-handshakes")
        self._pushed_out = Tally(log, "connections were dropped: there are more than --max-waiting")
        self._refused = Tally(log, "connections were refused: there are too many")

    def arrive(self, host: str, port: int = 0) -> Visit:
        """Count a connection that was accepted; for one more than there may be, another is dropped.

        Args:
            host: the address that it comes from.
            port: its port there.
        """
        peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        visit = Visit(peer, source_of(host), trio.current_time() + self._bounds.handshake_timeout)
        self._arrived[visit] = None
        self._some.set()
        self._put(visit, self._waiting)
        if self._closed:
            self._drop(visit)
        return visit

    def begin(self, visit: Visit) -> None:
        """Count a connection among those whose handshake is under way."""
        self._put(visit, self._begun)

    @contextmanager
    def attend(self, visit: Visit) -> Iterator[None]:
        """Stand around all that is done for a connection that arrived, to its end."""
        try:
            with trio.CancelScope() as scope:
                visit.end = scope.cancel
                if visit.dropped:
                    scope.cancel()
                yield
        finally:
            self.forget(visit)
            if visit.principal is not None:
                self._count -= 1
                self._inside[visit.principal] -= 1
                if not self._inside[visit.principal]:
                    del self._inside[visit.principal]

    def admit(self, visit: Visit, identity: Identity) -> None:
        """Let in a connection that has proved who it is; it may stay now.

        Raises:
            RequestError: there are too many.
        """
        kept = self._bounds.kept_for_admins if identity.role is Role.USER else 0
        own = self._inside.get(identity.principal, 0)
        if self._count >= self._bounds.max_connections - kept:
            rest = f"keeps its last {kept} for Admins" if kept else "takes no more"
            problem = (
                f"The server has {self._count} connections, and {rest}: try again later, or have it run "
                "with a larger --max-connections."
            )
        elif own >= self._bounds.max_connections_per_identity:
            problem = (
                f"{identity.name} has {own} connections, and may have no more: close one, or have the server "
                "run with a larger --max-connections-per-identity."
            )
        else:
            self.forget(visit)
            self.handshakes.know(visit.source)
            self._count += 1
            self._inside[identity.principal] += 1
            visit.principal = identity.principal
            return
        self._refused.add(identity=identity.name)
        raise RequestError(ErrorCode.BUSY, problem)

    async def run(self) -> None:
        """Give turns, and drop connections that are late, for as long as it runs."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.turns.run)
            nursery.start_soon(self._expire)

    async def _expire(self) -> None:
        while True:
            for visit in tuple(islice(self._arrived, _LATE_AT_ONCE)):
                if visit.until <= trio.current_time():
                    visit.late = True
                    self._drop(visit)
            while not self._arrived:  # one may arrive and end in the same step
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep_until(next(iter(self._arrived)).until)

    def drop_oldest(self) -> None:
        """Drop the oldest connection of the source that has most of those short of their hello, if any."""
        victim = self._waiting.victim() or self._begun.victim()
        if victim is not None:
            self._drop(victim)

    def drop_all(self) -> None:
        """Drop every connection short of its hello, and those that come yet: the server ends."""
        self._closed = True
        for visit in tuple(self._arrived):
            self._drop(visit)

    def _drop(self, visit: Visit) -> None:
        self.forget(visit)
        visit.dropped = True
        visit.end()

    def _put(self, visit: Visit, pool: Pool[Visit]) -> None:
        most = self._bounds.max_handshakes if pool is self._begun else self._bounds.max_waiting
        if len(pool) >= most and (victim := pool.victim()) is not None:
            (self._dropped if pool is self._begun else self._pushed_out).add(source=victim.source)
            self._drop(victim)
        if visit.pool is not None:
            visit.pool.discard(visit.source, visit)
        visit.pool = pool
        pool.add(visit.source, visit)

    def forget(self, visit: Visit) -> None:
        """Count a connection no longer among those short of their hello."""
        if visit.pool is not None:
            visit.pool.discard(visit.source, visit)
            visit.pool = None
            del self._arrived[visit]


@lru_cache(maxsize=4096)
def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, or the network of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
