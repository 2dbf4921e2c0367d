"""Owns what libraries log, by way of the standard library's logging: it becomes lines of the server's log.

Without it, logging would print them to stderr, with tracebacks. What is said again and again is told once a
minute.
"""

import logging
import time

from .log import Log

#: The same words are told once in so many seconds.
QUIET = 60.0


class LibraryLog(logging.Handler):
    """A handler for the root logger.

    Args:
        log: the server's log.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._told: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, in any thread."""
        now = time.monotonic()
        self._told = {words: when for words, when in self._told.items() if now - when < QUIET}
        words = record.getMessage()
        if self._told.setdefault(words, now) == now:
            self._log.warning("a library had something to say", library=record.name, words=words)
