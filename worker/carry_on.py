"""Owns that what a server needs as long as it lives goes on after a failure: it is told, and begun again."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from .lacks import lack_of, only, place_of
from .log import Log
from .tally import Tally

#: Pause before it begins again, in seconds.
PAUSE = 1.0


def keep(nursery: trio.Nursery, log: Log, part: str, work: Callable[[], Awaitable[object]]) -> None:
    """Run a part of the server in a nursery, which none of its failures ends; see `carry_on`."""
    nursery.start_soon(carry_on, part, work, log)


async def carry_on(part: str, work: Callable[[], Awaitable[object]], log: Log) -> None:
    """Do some work to its end; when it fails, for want of memory or by a bug, say so and begin again.

    Args:
        part: which part of the server it is, for the log.
        work: called for each try.
        log: the server's log; it has the traceback of each bug once.
    """
    await trio.lowlevel.checkpoint()
    failed = Tally(log, "a part of the server failed and begins again")
    bugs: set[str] = set()
    while True:
        try:
            await work()
        except Exception as error:
            with suppress(Exception):  # to tell of it takes memory, too
                cause = only(error)
                lack, place = lack_of(cause), place_of(cause)
                if lack is None and place not in bugs:
                    bugs.add(place)
                    log.exception("a part of the server failed and begins again", part=part)
                else:
                    failed.add(part=part, reason=lack or repr(cause), at=place)
        else:
            return
        await trio.sleep(PAUSE)
