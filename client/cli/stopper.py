"""Owns what signals do to `run`: Ctrl-C, SIGTERM and a terminal's end stop its job, a second one leaves."""

import os
import signal
from typing import Any

from . import streams, threads
from .exits import EXPECTED, Exit, sentence
from .flags import Where


class Stopper:
    """Stops a job on a signal, over a connection of its own, while its output is still being followed."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._job_id: str | None = None
        self._expected: str | None = None
        self._asked = False
        self._leaves_next = False

    def listen(self) -> None:
        """Take the signals over; where SIGHUP is ignored, as nohup(1) has it, it stays so."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.handle)

    def expect(self, job_id: str | None) -> None:
        """A job is about to be started, with this id if we choose it."""
        self._expected = job_id

    def begin(self, job_id: str) -> None:
        """The job is there; a signal that came before this counts now."""
        self._job_id = job_id
        if self._asked:
            self._stop()

    def handle(self, number: int, frame: Any) -> None:
        """Take a signal: the first stops the job, the second leaves at once.

        SIGHUP never makes us leave: at a terminal's end, kernel and shell send several, and often SIGTERM
        too, before the server can have been asked.
        """
        del frame
        if number != signal.SIGHUP:
            if self._leaves_next:
                self._leave(number)
            self._leaves_next = True
        if not self._asked:
            self._asked = True
            if self._job_id is not None:
                self._stop()

    def _leave(self, number: int) -> None:
        job_id = self._job_id or self._expected
        if job_id is None:
            said = "left while the job was being started; `worker-service list` shows whether it was."
        else:
            see = f"`worker-service query {job_id}` shows what becomes of it"
            said = f"left before job {job_id} had ended; {see}."
        streams.complain(said)
        os._exit(Exit.SIGNAL + number)

    def _stop(self) -> None:
        threads.start(self._ask)

    def _ask(self) -> None:
        assert self._job_id is not None  # noqa: S101  # set before any thread is started
        try:
            with self._where.connect(quiet=True) as client:
                client.stop(self._job_id)
        except EXPECTED as error:
            streams.complain(f"job {self._job_id} could not be stopped: {sentence(error)}")
