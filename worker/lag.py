"""Owns the loop-lag instrument: how long the server's event loop leaves everybody unserved at a time.

A round of the loop runs every task that is due; until the next, no byte is read and no deadline is met. So
the longest round is what any client may have to wait because of all the others. Rounds over the bound are
told in the log, one line in ten seconds, and the longest at the server's end. The spawner measures the rounds
of its own loop, and tells of them.
"""

import trio

from .log import Log
from .rounds import BOUND_SECONDS, Rounds
from .tally import Tally


class Lag:
    """What is told of one loop's rounds.

    Args:
        log: where those are told that are over the bound.
        message: what is told of them.
        name: of a round, among the figures.
    """

    def __init__(self, log: Log, message: str, name: str) -> None:
        self._late = Tally(log, message)
        self._name = name
        self._longest = self._longest_cpu = 0.0

    def add(self, took: float, used: float) -> None:
        """There was a round that is over the bound, or longer than any before.

        Args:
            took: how long it took, in seconds.
            used: the processor time that its thread used, in seconds.
        """
        self._longest, self._longest_cpu = max(self._longest, took), max(self._longest_cpu, used)
        if took > BOUND_SECONDS:
            self._late.add(milliseconds=round(took * 1e3), cpu_milliseconds=round(used * 1e3))

    def figures(self) -> dict[str, float]:
        """The longest rounds so far, for the log."""
        return {
            f"longest_{self._name}_ms": round(self._longest * 1e3, 1),
            f"longest_{self._name}_cpu_ms": round(self._longest_cpu * 1e3, 1),
        }


class LagWatch(trio.abc.Instrument):
    """Measures each round of the server's loop.

    Args:
        log: where rounds are told that are over the bound.
    """

    def __init__(self, log: Log) -> None:
        self._rounds = Rounds()
        self._lag = Lag(log, "the event loop served nobody for longer than it should", "round")

    def after_io_wait(self, timeout: float) -> None:
        """A round begins."""
        self._rounds.begin()

    def before_io_wait(self, timeout: float) -> None:
        """A round ends."""
        if self._rounds.end():
            self._lag.add(self._rounds.took, self._rounds.used)

    def figures(self) -> dict[str, float]:
        """The longest rounds so far, for the log."""
        return self._lag.figures()
