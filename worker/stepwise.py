"""Owns how the server does what a job may have made thousands of steps long: a few at a time, in turns."""

import contextlib

import trio

from .walk import Steps

#: So many cgroups or processes of a job are looked at before others have their turn: 2 ms of work.
STEPS = 32


async def in_turns(steps: Steps) -> bool:
    """Take all steps, and return the result; what a cancel leaves undone is left in order."""
    with contextlib.closing(steps):
        while True:
            await trio.lowlevel.checkpoint()
            for _ in range(STEPS):
                try:
                    next(steps)
                except StopIteration as end:
                    return bool(end.value)
