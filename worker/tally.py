"""Owns log lines for what may happen thousands of times a second: told at once, then counted."""

import trio

from .log import Log

#: The least time between two lines about the same thing, in seconds.
PERIOD = 10.0


class Tally:
    """Counts one kind of event.

    Args:
        log: where it is told.
        message: what happened.
    """

    def __init__(self, log: Log, message: str) -> None:
        self._log = log
        self._message = message
        self._untold = 0
        self._next = float("-inf")

    def add(self, **fields: object) -> None:
        """It happened once more; the fields of the last time are told."""
        self._untold += 1
        if trio.current_time() >= self._next:
            self._next = trio.current_time() + PERIOD
            self._log.warning(self._message, times=self._untold, **fields)
            self._untold = 0
