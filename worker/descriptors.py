"""Owns how the files that a server may open are shared out: to itself, to connections, and to jobs.

Each has its part and no more, so that a connection which was promised is there however many jobs run, and
the reverse. What is past a part is refused in words. A start takes several files more than the job that comes
of it, for some milliseconds; so only a few are under way at once, and the others wait for them.
"""

from dataclasses import dataclass, replace
from typing import Final

from wire.errors import ErrorCode, RequestError
from wire.limits import Limits

from .bounds import Bounds
from .slots import Slots

#: What the server itself holds at most: 22 with eight hierarchies, the store's files, and what is open for a
#: moment to read a counter, a certificate or a user, or to send a signal.
OWN: Final = 40
#: What a start holds beside its job's: the other ends of two pipes, a directory in up to eight hierarchies.
START: Final = 10
#: The most starts that are under way at once.
STARTS: Final = 64
#: What a running job holds: its two pipes; and what watches its memory, if that is limited.
PIPES: Final = 2
MEMORY_WATCH: Final = 3


@dataclass(frozen=True, slots=True)
class Shares:
    """Who may open how many files.

    Args:
        bounds: what clients may cost, with fewer connections if there are not files enough.
        jobs: files for jobs that run.
        starts: how many starts may be under way at once.
    """

    bounds: Bounds
    jobs: int
    starts: int

    @property
    def max_jobs(self) -> int:
        """How many jobs can run, if none has its memory limited."""
        return min(self.bounds.max_jobs, self.jobs // PIPES)


def share_out(bounds: Bounds, most: int) -> Shares:
    """Share out ``most`` files. Jobs get what they need first, but never more than half."""
    wanted = bounds.max_jobs * (PIPES + MEMORY_WATCH) + STARTS * START
    room = max(3 + START + PIPES, most - OWN)
    jobs = min(wanted, room // 2)
    starts = max(1, min(STARTS, jobs // 3 // START))
    room -= jobs
    if bounds.max_connections + bounds.max_handshakes + bounds.max_waiting > room:
        handshakes = max(1, min(bounds.max_handshakes, room // 6))
        connections = max(1, min(bounds.max_connections, room // 2))
        waiting = max(1, min(bounds.max_waiting, room - handshakes - connections))
        bounds = replace(bounds, max_waiting=waiting, max_handshakes=handshakes, max_connections=connections)
    return Shares(bounds, max(PIPES, jobs - starts * START), starts)


class JobFiles:
    """The part of the jobs.

    Args:
        shares: how large it is; None for no bound.
    """

    def __init__(self, shares: Shares | None = None) -> None:
        self._starts = Slots(STARTS if shares is None else shares.starts)
        self._under_way: set[object] = set()
        self._room = None if shares is None else shares.jobs
        self._held = 0

    def take(self, limits: Limits | None) -> int:
        """Set aside what a job with these limits will hold, and return how much that is.

        Raises:
            RequestError: there is not enough.
        """
        count = PIPES + (MEMORY_WATCH if limits is not None and limits.memory is not None else 0)
        if self._room is not None and self._held + count > self._room:
            raise RequestError(
                ErrorCode.BUSY,
                "The jobs that run hold all files that the server may open for jobs (ulimit -n, "
                "LimitNOFILE=): wait for one to end, or have the server run with a higher limit.",
            )
        self._held += count
        return count

    async def begin_start(self, start: object, source: str) -> None:
        """Wait until one more start may be under way, and count it. Sources get their turns in rotation."""
        await self._starts.acquire(source)
        self._under_way.add(start)

    def end_start(self, start: object) -> None:
        """Count a start no longer, if it was counted."""
        if start in self._under_way:
            self._under_way.remove(start)
            self._starts.release()

    def give_back(self, count: int) -> None:
        """A job has ended that held so many."""
        self._held -= count
