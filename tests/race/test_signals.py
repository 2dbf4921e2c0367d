"""A signal that comes as its receiver is closed ends nothing."""

import os
import signal

import trio
import trio.testing

from tests.race.signals import kept_signals


async def test_a_signal_that_is_passed_on_late_ends_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with kept_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the server does
        with trio.open_signal_receiver(signal.SIGTERM):
            os.kill(os.getpid(), signal.SIGTERM)
    await trio.testing.wait_all_tasks_blocked()
    assert signal.getsignal(signal.SIGTERM) is before
