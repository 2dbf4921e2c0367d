"""Owns what Ctrl-C and SIGTERM do to `run`: the first stops its job, the second leaves."""

import os
import threading
from typing import Any

from . import streams
from .exits import EXPECTED, Exit
from .flags import Where


class Stopper:
    """Stops a job on a signal, over a connection of its own, while its output is still being followed."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._job_id: str | None = None
        self._asked = False

    def begin(self, job_id: str) -> None:
        """The job is there; a signal that came before this counts now."""
        self._job_id = job_id
        if self._asked:
            self._stop()

    def handle(self, number: int, frame: Any) -> None:
        """Take a signal: the first stops the job, the second leaves at once."""
        del frame
        if self._asked:
            os._exit(Exit.SIGNAL + number)
        self._asked = True
        if self._job_id is not None:
            self._stop()

    def _stop(self) -> None:
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        assert self._job_id is not None  # noqa: S101  # set before any thread is started
        try:
            with self._where.connect() as client:
                client.stop(self._job_id)
        except EXPECTED as error:
            streams.complain(f"the job could not be stopped: {error}")
