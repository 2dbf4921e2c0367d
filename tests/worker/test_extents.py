"""What is free of a file is given once, found again as a whole, and forgotten at the file's end."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.extents import Extents


@given(st.lists(st.one_of(st.integers(1, 9), st.floats(0, 0.999)), max_size=60))
def test_ranges_are_given_once_and_come_back(steps: list[int | float]) -> None:
    """A number takes a range of that size; a share gives back the one at that place among those in use."""
    extents = Extents()
    used: list[tuple[int, int]] = []
    for step in steps:
        if isinstance(step, float):
            if used:
                extents.give(*used.pop(int(step * len(used))))
        else:
            holes = gaps(used, extents.end)
            begin = extents.take(step)
            fits = [end - start for start, end in holes if end - start >= step]
            if begin is None:
                assert not fits
                begin = extents.grow(step)
            else:
                assert min(fits) == next(end - start for start, end in holes if start == begin)
            used.append((begin, begin + step))
            used.sort()
        assert all(one[1] <= other[0] for one, other in pairwise(used))
        assert extents.end == max((end for _, end in used), default=0)


def gaps(used: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """The free ranges between those that are in use."""
    edges = [0, *(edge for pair in used for edge in pair), end]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]
