"""Owns the lookup of jobs by the beginning of an id: two steps of a binary search, however many there are."""

from bisect import bisect_left, insort


class Ids:
    """A sorted set of ids."""

    def __init__(self) -> None:
        self._sorted: list[str] = []

    def add(self, id_: str) -> None:
        """Add one that is not there yet."""
        insort(self._sorted, id_)

    def discard(self, id_: str) -> None:
        """Remove one, if it is there."""
        index = bisect_left(self._sorted, id_)
        if self._sorted[index : index + 1] == [id_]:
            del self._sorted[index]

    def beginning_with(self, prefix: str) -> range:
        """The places, for `__getitem__`, of those that begin so."""
        # No id holds the largest code point, so this is past the last that begins so and before any other.
        return range(bisect_left(self._sorted, prefix), bisect_left(self._sorted, prefix + "\U0010ffff"))

    def __getitem__(self, place: int) -> str:
        return self._sorted[place]
