"""Owns the loop-lag instrument: how long the server's event loop leaves everybody unserved at a time.

A round of the loop runs every task that is due; until the next, no byte is read and no deadline is met. So
the longest round is what any client may have to wait because of all the others. The instrument costs two
looks at two clocks each round. Rounds over the bound are told in the log, one line in ten seconds, and the
longest at the server's end.
"""

import time

import trio

from .log import Log
from .tally import Tally

#: A round that takes longer is told, in seconds.
BOUND_SECONDS = 0.05


class LagWatch(trio.abc.Instrument):
    """Measures each round of the loop.

    Args:
        log: where rounds are told that are over the bound.
    """

    def __init__(self, log: Log) -> None:
        self._late = Tally(log, "the event loop served nobody for longer than it should")
        self._began: tuple[float, float] | None = None
        #: The longest round, in seconds.
        self.longest = 0.0
        #: The most processor time that this thread used in a round, in seconds. What other programs and our
        #: own threads had meanwhile is not in it.
        self.longest_cpu = 0.0

    def after_io_wait(self, timeout: float) -> None:
        """A round begins."""
        self._began = time.perf_counter(), time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        """A round ends."""
        if self._began is None:
            return
        took, used = time.perf_counter() - self._began[0], time.thread_time() - self._began[1]
        self.longest = max(self.longest, took)
        self.longest_cpu = max(self.longest_cpu, used)
        if took > BOUND_SECONDS:
            self._late.add(milliseconds=round(took * 1e3), cpu_milliseconds=round(used * 1e3))

    def figures(self) -> dict[str, float]:
        """The longest rounds so far, for the log."""
        return {
            "longest_round_ms": round(self.longest * 1e3, 1),
            "longest_round_cpu_ms": round(self.longest_cpu * 1e3, 1),
        }
