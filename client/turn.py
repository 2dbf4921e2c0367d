"""Owns that one thread at a time uses a blocking client."""

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from .errors import InUseError

P = ParamSpec("P")
T = TypeVar("T")


class Turn:
    """Whose turn it is: ``with turn`` raises InUseError while another thread is inside, and never waits."""

    def __init__(self) -> None:
        # A thread's own: if a signal handler raises right after it was taken, the thread may take it again.
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise InUseError(
                "Another thread is using this client: make one for each thread, or take a lock around calls."
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._lock.release()


class Exclusive(Protocol):
    """What has a turn."""

    turn: Turn


S = TypeVar("S", bound=Exclusive)


def in_turn(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that is called by one thread at a time."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.turn:
            return method(self, *args, **kwargs)

    return call
