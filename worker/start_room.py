"""Owns how much of what clients sent the starts under way may hold, for each identity.

A start may come with 3 MiB and 65,000 words, which take four times as much here until its job runs. Frames
come in faster than jobs can be started; a thousand starts that wait for their turn would hold ten gigabytes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from wire.errors import ErrorCode, RequestError

#: The most that the starts of one identity may hold at a time, in bytes; one alone may always be begun.
MOST: Final = 128 * 1024 * 1024
#: What a word takes besides its bytes.
_WORD_BYTES: Final = 100


def weight_of(argv: Sequence[bytes], env: Mapping[bytes, bytes]) -> int:
    """About how much memory a start takes, in bytes."""
    words = (*argv, *env, *env.values())
    return sum(map(len, words)) + _WORD_BYTES * len(words)


class StartRoom:
    """What the starts under way hold."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def check(self, owner: str, weight: int) -> None:
        """Say whether there is room for one more.

        Raises:
            RequestError: there is none.
        """
        held = self._held.get(owner, 0)
        if held and held + weight > MOST:
            raise RequestError(
                ErrorCode.BUSY,
                f"{owner} has starts under way whose arguments and environment take {held >> 20} MiB, and "
                f"may have {MOST >> 20} MiB at once: try again once their jobs run.",
            )

    def take(self, owner: str, weight: int) -> None:
        """Count one more."""
        self._held[owner] += weight

    def give_back(self, owner: str, weight: int) -> None:
        """Count one no longer."""
        self._held[owner] -= weight
        if not self._held[owner]:
            del self._held[owner]

    @contextmanager
    def hold(self, owner: str, weight: int) -> Iterator[None]:
        """Count one more within the block.

        Raises:
            RequestError: there is no room for it.
        """
        self.check(owner, weight)
        self.take(owner, weight)
        try:
            yield
        finally:
            self.give_back(owner, weight)
