"""Owns the measure of an event loop's rounds, the server's and the spawner's: how long others must wait.

The spawner loads this, so it imports the standard library alone.
"""

import time

#: A round that takes longer is too long, in seconds.
BOUND_SECONDS = 0.05


class Rounds:
    """Measures each round: two looks at two clocks."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        #: How long the last round took, in seconds, and the processor time that this thread used in it. What
        #: other programs and our own threads had meanwhile is not in the latter.
        self.took = self.used = 0.0
        #: The most of either so far.
        self.longest = self.longest_cpu = 0.0

    def begin(self) -> None:
        """A round begins."""
        self._began = time.perf_counter(), time.thread_time()

    def end(self) -> bool:
        """A round ends; return whether that is news: it was too long, or longer than any before."""
        if self._began is None:
            return False
        self.took, self.used = time.perf_counter() - self._began[0], time.thread_time() - self._began[1]
        news = self.took > min(self.longest, BOUND_SECONDS) or self.used > self.longest_cpu
        self.longest, self.longest_cpu = max(self.longest, self.took), max(self.longest_cpu, self.used)
        return news
