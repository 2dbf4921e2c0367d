"""Owns the command line's threads beside the one that follows a job: no signal is theirs.

Python runs a signal's handler in the main thread alone. The kernel may give a signal to another thread: it
does where the process was stopped when the signal came, as by Ctrl-Z. Then nothing wakes the main thread
from its wait for the server, and the signal is heard only when something comes.
"""

import signal
import threading
from collections.abc import Callable


def start(work: Callable[[], object]) -> None:
    """Do something beside the main thread; at the program's end, it is not waited for.

    Raises:
        RuntimeError: there is no thread to be had.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        threading.Thread(target=work, daemon=True).start()  # it inherits what is blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
