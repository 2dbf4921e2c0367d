"""Owns the order in which sources get turns: who asks for few never waits behind those who ask for many.

Theory of operation. Four ranks take turns, so that none of them can starve another: who goes on with what
it has begun; sources that are known; sources that had nothing waiting, for their first; and all the rest,
in rotation. A source that has had its first stays among the rest until the rotation finds it with nothing
waiting, or it would be new again each time (RFC 8290, section 4.2, does this to packets).
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

#: How many known sources are remembered; the one that came least lately is forgotten.
KNOWN = 4096

T = TypeVar("T", bound=Hashable)
_AHEAD, _KNOWN, _NEW, _REST = range(4)


class Line(Generic[T]):
    """Who waits.

    Args:
        newest_first: whether of one source the newest goes first. In a flood the oldest has given up before
            its turn comes, or will have soon.
    """

    def __init__(self, *, newest_first: bool = False) -> None:
        self._newest_first = newest_first
        # By whether they go on, and by source. Each dict is an ordered set, the next one first.
        self._waiting: dict[tuple[bool, str], dict[T, None]] = {}
        self._ranks: tuple[dict[str, None], ...] = ({}, {}, {}, {})
        self._rank = _AHEAD  # to be asked first
        self._known: dict[str, None] = {}

    def know(self, source: str) -> None:
        """Rank a source before strangers from now on."""
        self._known.pop(source, None)
        self._known[source] = None
        if len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]

    def join(self, source: str, item: T, *, ahead: bool = False) -> None:
        """Wait for a turn; ahead, to go on with what was begun."""
        self._waiting.setdefault((ahead, source), {})[item] = None
        if ahead:
            self._ranks[_AHEAD][source] = None
        elif source in self._known:
            self._ranks[_KNOWN][source] = None
        elif source not in self._ranks[_REST]:
            self._ranks[_NEW][source] = None

    def leave(self, source: str, item: T) -> None:
        """Give up waiting; nothing happens if it does not wait."""
        for ahead in (False, True):
            queue = self._waiting.get((ahead, source), {})
            if item in queue:
                del queue[item]
                self._forget_if_empty(ahead, source)

    def next(self) -> T | None:
        """Take out whose turn it is; None if nobody waits."""
        for _ in self._ranks:
            rank, self._rank = self._rank, (self._rank + 1) % len(self._ranks)
            item = self._next_of(rank)
            if item is not None:
                return item
        return None

    def _next_of(self, rank: int) -> T | None:
        sources, ahead = self._ranks[rank], rank == _AHEAD
        while sources:
            source = next(iter(sources))
            del sources[source]
            if (queue := self._waiting.get((ahead, source))) is None:
                continue
            item = next(reversed(queue) if self._newest_first else iter(queue))
            del queue[item]
            self._ranks[_REST if rank == _NEW else rank][source] = None  # behind the others
            self._forget_if_empty(ahead, source)
            return item
        return None

    def _forget_if_empty(self, ahead: bool, source: str) -> None:
        if not self._waiting[ahead, source]:
            del self._waiting[ahead, source]
            for rank in (_AHEAD,) if ahead else (_KNOWN, _NEW):
                self._ranks[rank].pop(source, None)
