"""An event that wakes its waiters some at a time: all of them, and never many in one round."""

import trio
import trio.testing

from worker.gradual import SLICE, GradualEvent


class Rounds(trio.abc.Instrument):
    """Counts how many tasks with a name run in each round of the loop."""

    def __init__(self) -> None:
        self.counts = [0]

    def before_io_wait(self, timeout: float) -> None:
        self.counts.append(0)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.counts[-1] += task.name == "waiter"


async def test_all_are_woken_and_few_at_a_time() -> None:
    event, rounds = GradualEvent(), Rounds()
    assert not event.is_set()
    async with trio.open_nursery() as nursery:
        for _ in range(10 * SLICE + 1):
            nursery.start_soon(event.wait, name="waiter")
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(rounds)
        event.set()
        event.set()
    trio.lowlevel.remove_instrument(rounds)
    assert event.is_set()
    assert sum(rounds.counts) == 10 * SLICE + 1
    assert max(rounds.counts) <= 2 * SLICE
    await event.wait()


async def test_waiters_that_are_cancelled_leave_nobody_behind() -> None:
    event, woken = GradualEvent(), 0

    async def wait(scope: trio.CancelScope) -> None:
        nonlocal woken
        with scope:
            await event.wait()
            woken += 1

    scopes = [trio.CancelScope() for _ in range(5 * SLICE)]
    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(wait, scope)
        await trio.testing.wait_all_tasks_blocked()
        for scope in scopes[::2]:
            scope.cancel()
        event.set()
        for scope in scopes[1::4]:  # in the step in which some of them were woken
            scope.cancel()
    assert woken >= len(scopes) // 4
