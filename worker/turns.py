"""Owns turns in the event loop: of many clients' costly steps, one is done each time it comes round.

A page of `list` costs a millisecond of computing. A thousand that become due at once would hold everybody
else up for seconds; in turns, they hold nobody up for longer than one of them takes. A request needs several
rounds of the loop. So after a turn for something heavy, some rounds pass without one, and other clients'
requests wait for one or two such turns, and not for one in each of their rounds.
"""

from dataclasses import dataclass, field

import trio

from .line import Line

#: Rounds of the loop without a turn after a heavy one: a `query` takes about as many.
ROUNDS = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    heavy: bool
    come: trio.Event = field(default_factory=trio.Event)


class Turns:
    """Who waits for a turn; `run` gives them."""

    def __init__(self) -> None:
        self._line: Line[_Turn] = Line()
        self._some = trio.Event()
        self._free = False  # nobody waits, and the last turn is over
        self._heavy = False  # the last turn was

    async def take(self, source: str, *, heavy: bool = False) -> None:  # noqa: ASYNC910  # see below
        """Wait for a turn. What is done before the next checkpoint is done in it.

        A turn that is free is taken without letting a round of the loop pass, as each costs every request
        some 30 µs. So this is a checkpoint only in that it can be cancelled.

        Args:
            source: whose turn: sources get theirs in rotation, however many each of them waits for.
            heavy: whether it is for more than a few milliseconds of computing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._free:
            self._free, self._heavy = False, heavy
            self._some.set()
            return
        turn = _Turn(heavy)
        self._line.join(source, turn)
        self._some.set()
        try:
            await turn.come.wait()
        finally:
            self._line.leave(source, turn)

    async def run(self) -> None:
        """Give at most one turn each time the event loop comes round, for as long as it runs."""
        while True:
            if (turn := self._line.next()) is not None:
                self._heavy = turn.heavy
                turn.come.set()
                await trio.lowlevel.checkpoint()
            else:
                self._free, self._heavy, self._some = True, False, trio.Event()
                await self._some.wait()
                self._free = False
            for _ in range(ROUNDS * self._heavy):
                await trio.lowlevel.checkpoint()
