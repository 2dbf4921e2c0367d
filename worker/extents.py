"""Owns which ranges of a file are free, so that they are used again and the file does not grow for ever.

The smallest free range that is large enough is taken; only where there is none does the file grow. Ranges
that touch become one, and one that reaches the file's end shortens it.
"""

from bisect import bisect_left, insort


class Extents:
    """The free ranges of one file."""

    __slots__ = ("_begins", "_ends", "_sizes", "end")

    def __init__(self) -> None:
        #: Behind it, all is free.
        self.end = 0
        self._begins: list[int] = []  # sorted
        self._ends: dict[int, int] = {}  # by their begin
        self._sizes: list[tuple[int, int]] = []  # size and begin, sorted

    def take(self, size: int) -> int | None:
        """The begin of a range of ``size`` bytes, which is used from now on; None if the file has to grow."""
        at = bisect_left(self._sizes, (size, 0))
        if at == len(self._sizes):
            return None
        begin = self._sizes[at][1]
        end = self._forget(begin)
        if begin + size < end:
            self._note(begin + size, end)
        return begin

    def grow(self, size: int) -> int:
        """The same, at the file's end."""
        begin, self.end = self.end, self.end + size
        return begin

    def give(self, begin: int, end: int) -> None:
        """Take note that a range is free again."""
        at = bisect_left(self._begins, begin)
        if at < len(self._begins) and self._begins[at] == end:
            end = self._forget(end)
        if at and self._ends[self._begins[at - 1]] == begin:
            begin = self._begins[at - 1]
            self._forget(begin)
        if end == self.end:
            self.end = begin
        else:
            self._note(begin, end)

    def _note(self, begin: int, end: int) -> None:
        insort(self._begins, begin)
        insort(self._sizes, (end - begin, begin))
        self._ends[begin] = end

    def _forget(self, begin: int) -> int:
        end = self._ends.pop(begin)
        del self._begins[bisect_left(self._begins, begin)]
        del self._sizes[bisect_left(self._sizes, (end - begin, begin))]
        return end
