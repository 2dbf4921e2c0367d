"""Owns a set of connections by where they come from, and which of them goes when there are too many.

The source that has most of them loses its oldest. To find it costs the same however many sources there are:
sources are kept by how many connections they have.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Pool(Generic[T]):
    """Connections, each of a source."""

    def __init__(self) -> None:
        # Each dict is an ordered set, the oldest first.
        self._members: dict[str, dict[T, None]] = {}
        self._by_count: dict[int, dict[str, None]] = {}
        self._most = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, source: str, member: T) -> None:
        """Take one in; it is not there yet."""
        members = self._members.setdefault(source, {})
        members[member] = None
        self._size += 1
        self._move(source, len(members) - 1, len(members))

    def discard(self, source: str, member: T) -> None:
        """Let one go, if it is there."""
        members = self._members.get(source, {})
        if member in members:
            del members[member]
            self._size -= 1
            self._move(source, len(members) + 1, len(members))
            if not members:
                del self._members[source]

    def victim(self) -> T | None:
        """Which one goes if there are too many: the oldest of the source that has most."""
        if not self._most:
            return None
        source = next(iter(self._by_count[self._most]))
        return next(iter(self._members[source]))

    def _move(self, source: str, before: int, now: int) -> None:
        if before:
            sources = self._by_count[before]
            del sources[source]
            if not sources:
                del self._by_count[before]
        if now:
            self._by_count.setdefault(now, {})[source] = None
        # A count changes by one at a time, so the next most is never further away.
        if now > self._most or (before == self._most and before not in self._by_count):
            self._most = now
