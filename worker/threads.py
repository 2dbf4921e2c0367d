"""Owns how threads are started: no other module of the server starts one.

Where the kernel gives no more threads, since a job has used up the tasks of a cgroup above it or of the host,
Python raises a bare RuntimeError, for which no caller looks. Here it becomes an error of the host, and each
caller has an answer to it: it does the work itself, tries again later, or refuses a request.
"""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

T = TypeVar("T")


class NoThreadError(OSError):
    """The kernel gives no more threads: EAGAIN."""


@contextmanager
def may_need_threads() -> Iterator[None]:
    """Stand around what starts threads of its own, such as `trio.lowlevel.open_process`.

    Raises:
        NoThreadError: there are no more threads.
    """
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise NoThreadError(errno.EAGAIN, "no thread could be started") from error


async def run_in_thread(
    work: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None, abandon_on_cancel: bool = False
) -> T:
    """As `trio.to_thread.run_sync`.

    Raises:
        NoThreadError: there are no more threads, and nothing was done.
    """
    with may_need_threads():
        return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=abandon_on_cancel)


def start_thread(work: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread of our own, that lasts; it does not hold up the end of the process.

    Raises:
        NoThreadError: there are no more threads.
    """
    thread = threading.Thread(target=work, daemon=True, name=name)
    with may_need_threads():
        thread.start()
    return thread
