"""Owns turns in the event loop: of many clients' costly steps, one is done each time it comes round.

A page of `list` costs a millisecond of computing. A thousand that become due at once would hold everybody
else up for seconds; in turns, they hold nobody up for longer than one of them takes. A request needs several
rounds of the loop. So after a turn that took long, some rounds pass without one, and other clients' requests
wait for one or two such turns, and not for one in each of their rounds.
"""

import time

import trio

from .line import Line

#: A turn that takes longer than this is long, in seconds.
LONG_SECONDS = 0.002
#: Rounds of the loop without a turn after a long one: a `query` takes about as many.
ROUNDS = 8


class Turns:
    """Who waits for a turn; `run` gives them."""

    def __init__(self) -> None:
        self._line: Line[trio.Event] = Line()
        self._some = trio.Event()

    async def take(self, source: str) -> None:
        """Wait for a turn. What is done before the next checkpoint is done in it.

        Args:
            source: whose turn: sources get theirs in rotation, however many each of them waits for.
        """
        turn = trio.Event()
        self._line.join(source, turn)
        self._some.set()
        try:
            await turn.wait()
        finally:
            self._line.leave(source, turn)

    async def run(self) -> None:
        """Give one turn each time the event loop comes round, for as long as it runs."""
        while True:
            if (turn := self._line.next()) is not None:
                began = time.perf_counter()
                turn.set()
                await trio.lowlevel.checkpoint()
                if time.perf_counter() - began > LONG_SECONDS:
                    for _ in range(ROUNDS):
                        await trio.lowlevel.checkpoint()
            else:
                self._some = trio.Event()
                await self._some.wait()
