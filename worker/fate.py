"""Owns what is told, in log and audit log, of connections that came to no session.

A stranger makes thousands of them a second. A line for each would fill the disk, and crowd the audit log's
queue, on which starts may depend. So of each period the first are told one by one, the rest by their number.
"""

from collections.abc import Callable

import trio

from .audit import Event, Outcome, Trail
from .gate import Visit
from .log import Log

#: How many are told one by one in each period, and how long that is, in seconds.
BURST = 100
PERIOD = 10.0


class Failures:
    """Counts them; `run` it.

    Args:
        log: the server's log.
        trail: the server's audit trail.
    """

    def __init__(self, log: Log, trail: Trail) -> None:
        self.log = log
        self._trail = trail
        self._left = BURST
        self._untold = 0

    def may_tell(self) -> bool:
        """Whether one more may be told by itself; it is counted if not."""
        if self._left:
            self._left -= 1
            return True
        self._untold += 1
        return False

    async def run(self) -> None:
        """Tell their number each period, and at the end."""
        try:
            while True:
                await trio.sleep(PERIOD)
                self._tell_number()
                self._left = BURST
        finally:
            self._tell_number()

    def _tell_number(self) -> None:
        if self._untold:
            self.log.warning("more connections failed than are told one by one", connections=self._untold)
            cause = "they were too many to be told one by one"
            self._trail.record(Event.HANDSHAKE_FAILED, Outcome.FAILED, cause=cause, connections=self._untold)
            self._untold = 0


class Fate:
    """Tells what became of one connection that has got no session; who has one tells itself.

    Args:
        failures: the server's.
        visit: the gate's view of it.
        trail: its audit trail.
    """

    def __init__(self, failures: Failures, visit: Visit, trail: Trail) -> None:
        self.trail = trail
        #: Whether it is told what became of it, or a session tells.
        self.told = False
        self._failures = failures
        self._log = failures.log
        self._visit = visit

    def left(self) -> None:
        """It is on its way in no longer; tell if that was because it was dropped."""
        if self._visit.late:
            self._fail("it took too long", self._log.warning, "a peer made no usable handshake")
        elif self._visit.dropped:
            self.failed("there were too many, or the server ended")

    def cut(self, reason: str) -> None:
        """It is gone."""
        if self.told:
            self._log.info("a connection was cut", peer=self._visit.peer, reason=reason)
        self._fail(f"it was cut: {reason}", self._log.info, "a connection was cut", reason)

    def refused(self, reason: str) -> None:
        """Its TLS handshake failed."""
        self._fail(reason, self._log.warning, "a TLS handshake was refused")

    def denied(self, trail: Trail, reason: str) -> None:
        """It may not come in, though it has a certificate."""
        self.told = True
        if trail.denied(reason):
            self._log.warning("denied", peer=self._visit.peer, reason=reason)

    def failed(self, cause: str) -> None:
        """There is no session, for a cause that the server's log tells already."""
        self._fail(cause, None, "")

    def _fail(self, cause: str, log: Callable[..., None] | None, message: str, reason: str = "") -> None:
        if self.told:
            return
        self.told = True
        if self._failures.may_tell():
            if log is not None:
                log(message, peer=self._visit.peer, reason=reason or cause)
            self.trail.record(Event.HANDSHAKE_FAILED, Outcome.FAILED, cause=cause)
