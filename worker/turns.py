"""Owns turns: of many clients' costly steps, one is done each time the event loop comes round.

A TLS handshake costs milliseconds of computing. A thousand that become due at once would hold everybody
else up for seconds; in turns, they hold nobody up for longer than one of them takes.
"""

import trio


class Turns:
    """Who waits for a turn; `run` gives them."""

    def __init__(self) -> None:
        #: By source, the one whose turn is next first; a dict is an ordered set.
        self._waiting: dict[str, dict[trio.Event, None]] = {}
        self._some = trio.Event()

    async def take(self, source: str) -> None:
        """Wait for a turn. What is done before the next checkpoint is done in it.

        Args:
            source: whose turn: sources get theirs in rotation, however many each of them waits for.
        """
        turn = trio.Event()
        self._waiting.setdefault(source, {})[turn] = None
        self._some.set()
        try:
            await turn.wait()
        finally:
            if not turn.is_set():
                queue = self._waiting[source]
                del queue[turn]
                if not queue:
                    del self._waiting[source]

    async def run(self) -> None:
        """Give one turn each time the event loop comes round, for as long as it runs."""
        while True:
            if self._waiting:
                source = next(iter(self._waiting))
                queue = self._waiting.pop(source)
                turn = next(iter(queue))
                del queue[turn]
                if queue:
                    self._waiting[source] = queue  # behind the others
                turn.set()
                await trio.lowlevel.checkpoint()
            else:
                self._some = trio.Event()
                await self._some.wait()
