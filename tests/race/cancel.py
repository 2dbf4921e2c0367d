"""Owns cancellation at every checkpoint: an operation is run again and again, cancelled at its k-th one.

An operation is a function that prepares what it needs, then does what is to be cancelled within
``with cancelling:``, and says afterwards what must hold. Checkpoints of every task of the world under test
count, in the operation and beside it (the job that it starts, the spawner's link, the other end of a
connection), so it is cancelled in every state that those pass through. What is cancelled is the block alone.
Each is cancelled twice: as the task goes to sleep there, which is what cancels that very wait, and as it
wakes, when what it waited for has come and the cancel comes with it.
"""

import enum
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

from tests.harness import PATIENCE
from tests.race.footprint import Footprint, LeftError, assert_same, is_below
from tests.race.world import World


class Moment(enum.Enum):
    """When a task is cancelled that comes to its k-th checkpoint."""

    ASLEEP = "as it goes to sleep"
    AWAKE = "as it wakes"


class Cancelling(trio.abc.Instrument):
    """A block that is cancelled at the k-th checkpoint of any task of a tree.

    Args:
        root: the task at the top of the tree, whose own steps do not count.
        k: which checkpoint, from 1 on.
        moment: when.
    """

    def __init__(self, root: trio.lowlevel.Task, k: int, moment: Moment) -> None:
        self._root = root
        self._moment = moment
        self._scope = trio.CancelScope()
        #: Counts down to the cancel; above 0 at the end if there were fewer checkpoints.
        self.left = k
        #: The task that was at its checkpoint, by name.
        self.where = "nowhere"

    def __enter__(self) -> Self:
        self._scope.__enter__()
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        trio.lowlevel.remove_instrument(self)
        return self._scope.__exit__(kind, error, where)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by Trio."""
        if self._moment is Moment.AWAKE:
            self._count(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by Trio."""
        if self._moment is Moment.ASLEEP:
            self._count(task)

    def _count(self, task: trio.lowlevel.Task) -> None:
        if task is not self._root and is_below(task, self._root):
            self.left -= 1
            if self.left == 0:
                self.where = task.name
                self._scope.cancel()


Operation = Callable[[World, Cancelling], Awaitable[None]]


@dataclass(frozen=True)
class Swept:
    """What a sweep did: how many checkpoints were cancelled, and in all how many runs that took."""

    checkpoints: int
    runs: int


async def sweep(
    world: World, operation: Operation, moment: Moment, *, stride: int = 1, first: int = 1
) -> Swept:
    """Cancel an operation at its k-th checkpoint for every k, until it completes uncancelled.

    Args:
        world: where it runs.
        operation: the operation.
        moment: when it is cancelled.
        stride: 1 for every checkpoint, n for every n-th.
        first: the checkpoint to begin with.

    Raises:
        LeftError: something was left after one of them, or a job did no longer start, stop and stream.
    """
    root = trio.lowlevel.current_task()
    runs = 0
    for k in itertools.count(first, stride):
        await trio.lowlevel.checkpoint()
        before = Footprint.take(world.hierarchies, root)
        cancelling = Cancelling(root, k, moment)
        try:
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(operation, world, cancelling, name=operation.__name__)
            runs += 1
            await world.settle()
            await assert_same(before, world.hierarchies, root)
            await world.assert_works()
        except (AssertionError, trio.TooSlowError, BaseExceptionGroup) as error:
            raise LeftError(
                f"{operation.__name__}, cancelled at checkpoint {k} {moment.value} (in {cancelling.where}): "
                f"{_words(error)}"
            ) from error
        if cancelling.left > 0:
            return Swept(runs - 1, runs)
    raise AssertionError("there is no end of numbers")


def _words(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_words, error.exceptions))
    return str(error) or type(error).__name__
