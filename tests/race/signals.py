"""Owns this process's own signals while a server runs in it: none may end it."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def kept_signals() -> AsyncIterator[None]:
    """Put the handlers of SIGTERM and SIGINT back at the block's end, once no such signal is on its way.

    Trio passes a signal on in a later round of its loop, and raises it again if its receiver is closed by
    then. A server in production ignores that; here, where handlers are put back, it would end the process.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        passed = trio.Event()
        trio.lowlevel.current_trio_token().run_sync_soon(passed.set)  # behind what is on its way
        with trio.CancelScope(shield=True):
            await passed.wait()
        for number, handler in handlers.items():
            signal.signal(number, handler)
