"""Owns the note that a followed job waits for room: it prints nothing then, and looks like one that thinks.

Theory of operation. A server whose room for output is used up lets the job that prints more wait, and says so
in the job's notes, to whoever asks. `run`, `stream` and `wait` do not ask, they follow. So beside each stands
a thread that asks, over a short connection of its own, once nothing has come for a while, and more rarely as
long as nothing comes. A job that waits was printing until then, so that the first question finds it; and
thousands of idle followers cost little.
"""

import contextlib
import threading
from types import TracebackType
from typing import Final, Self

from wire.jobs import WAITS

from . import streams, threads
from .exits import EXPECTED
from .flags import Where

#: Silence, in seconds, after which the server is asked for the first time; each next one is twice as long.
FIRST_SECONDS: Final = 3.0


class Watch:
    """Asks, within its ``with``, whether a job waits for room, and says so once each time that it does.

    Args:
        where: the server.
        job_id: the job's id or a unique prefix of it.
    """

    def __init__(self, where: Where, job_id: str) -> None:
        self._where = where
        self._job_id = job_id
        self._moves = 0
        self._over = threading.Event()

    def moved(self) -> None:
        """Something came: the job does not wait."""
        self._moves += 1

    def __enter__(self) -> Self:
        with contextlib.suppress(RuntimeError):  # there is no thread to be had, and it is but a note
            threads.start(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()

    def _run(self) -> None:
        seen, pause, told = 0, FIRST_SECONDS, False
        while not self._over.wait(pause):
            if self._moves != seen:
                seen, pause, told = self._moves, FIRST_SECONDS, False
                continue
            pause *= 2
            if not told and (note := self._ask()) and not self._over.is_set():
                told = True
                streams.complain(f"note: {note}")

    def _ask(self) -> str | None:
        try:
            with self._where.connect(quiet=True) as client:
                notes = client.query(self._job_id).notes
        except EXPECTED:  # whoever follows the job will hear of it
            return None
        return next((note for note in notes if note.startswith(WAITS)), None)
