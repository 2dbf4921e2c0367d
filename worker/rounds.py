"""Owns the measure of an event loop's rounds, the server's and the spawner's: how long others must wait.

The spawner loads this, so it imports the standard library alone.
"""

import time

#: A round that takes longer is too long, in seconds.
BOUND_SECONDS = 0.05
#: How exactly processor time is measured, in seconds. To look at its clock is a system call, and there are
#: thousands of rounds a second.
EXACT_SECONDS = 0.001


class Rounds:
    """Measures each round: two looks at a clock that costs little, and a third at another if it was long."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._looked = (-1.0, 0.0)  # at both clocks, EXACT_SECONDS before a round's beginning at most
        #: How long the last round took that was news, in seconds, and the processor time that this thread
        #: used in it. What other programs and our own threads had meanwhile is not in the latter.
        self.took = self.used = 0.0
        #: The most of either so far.
        self.longest = self.longest_cpu = 0.0

    def begin(self) -> None:
        """A round begins."""
        self._began = now = time.perf_counter()
        if now - self._looked[0] > EXACT_SECONDS:
            self._looked = now, time.thread_time()

    def end(self) -> bool:
        """A round ends; return whether that is news: it was too long, or longer than any before."""
        if self._began is None:
            return False
        took = time.perf_counter() - self._began
        if took <= self.longest_cpu and took <= BOUND_SECONDS:
            return False
        self.took, self.used = took, min(took, time.thread_time() - self._looked[1])
        news = took > min(self.longest, BOUND_SECONDS) or self.used > self.longest_cpu
        self.longest, self.longest_cpu = max(self.longest, took), max(self.longest_cpu, self.used)
        return news
