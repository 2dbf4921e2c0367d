"""Owns the proof that the server lives, for a service manager that restarts one that hangs."""

from collections.abc import Awaitable, Callable

import trio

from .log import Log
from .notify import Notifier


async def keep_alive(notifier: Notifier, answer: Callable[[], Awaitable[None]], log: Log) -> None:
    """Say that we live, twice as often as is asked; run this while the server serves.

    It is said from Trio's loop, so a loop that no longer turns says nothing; and only once the spawner has
    answered, as a server that can start no job and learns of no end is no server.

    Args:
        notifier: tells the manager.
        answer: returns once the spawner has answered.
        log: where a silent spawner is told.
    """
    if notifier.watchdog is None:
        await trio.sleep_forever()
    period = notifier.watchdog / 2
    while True:
        next_time = trio.current_time() + period
        with trio.move_on_at(next_time) as scope:
            await answer()
            notifier.alive()
        if scope.cancelled_caught:
            log.error("the spawner does not answer; the service manager is not told that we live")
        await trio.sleep_until(next_time)
