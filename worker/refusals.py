"""Owns how many refusals of each client are told one by one, in log and audit log, before they are counted.

A client may ask for what it is denied thousands of times a second. A line for each would fill the disk and
crowd the audit log's queue, on which starts may depend. So of each client and each kind of refusal the first
of each period are told one by one, the rest by their number when the period ends. Clients are counted apart:
a flood of one leaves out no line of another. What was allowed, and what became of it, is always told.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from .log import Log

#: How many of a kind are told one by one in each period, and how long that is, in seconds.
BURST: Final = 100
PERIOD: Final = 10.0
#: Kinds that are counted apart in one period; all others are counted as one, without a name.
MOST_KINDS: Final = 4096


@dataclass(frozen=True, slots=True)
class Refusal:
    """A kind of refusal: an event and an outcome of the audit log, and whose it is, where that is known."""

    event: str
    outcome: str
    identity: str | None = None
    role: str | None = None


class Refusals:
    """Counts them; `run` it.

    Args:
        log: the server's log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._counts: dict[Refusal, int] = {}

    def may_tell(self, kind: Refusal) -> bool:
        """Count one more, and say whether it is to be told by itself."""
        if kind not in self._counts and len(self._counts) >= MOST_KINDS:
            kind = Refusal(kind.event, kind.outcome)
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        return count <= BURST

    async def run(self, tell: Callable[[Refusal, int], None]) -> None:
        """Tell the number of the others at the end of each period, and at the end.

        Args:
            tell: tells it to the audit log.
        """
        ended: dict[Refusal, int] = {}  # those of the period before
        try:
            while True:
                await trio.sleep(PERIOD)
                ended, self._counts = self._counts, {}
                while ended:
                    self._tell(*ended.popitem(), tell)
                    await trio.lowlevel.checkpoint()
        finally:
            for counts in (ended, self._counts):
                while counts:  # each is told once, also if this fails and is run again
                    self._tell(*counts.popitem(), tell)

    def _tell(self, kind: Refusal, count: int, tell: Callable[[Refusal, int], None]) -> None:
        if count > BURST:
            self._log.warning(
                "more was refused than is told one by one",
                event=kind.event,
                outcome=kind.outcome,
                identity=kind.identity,
                role=kind.role,
                times=count - BURST,
            )
            tell(kind, count - BURST)
