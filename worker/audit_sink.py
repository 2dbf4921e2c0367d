"""Owns the audit log's way to its file: a bounded queue, and a thread of its own that writes whole lines.

Theory of operation. `put` appends to a queue and never waits, so that no sink can hold up the event loop. The
thread takes lines from the front, up to WRITE_BYTES at a time, and tries until the sink has taken them. It
lets lines gather for GATHER_SECONDS unless somebody waits for one: waking a thread for each of a thousand
lines a second costs several times what the lines do. Past QUEUE_BYTES, `put` gives lines up and counts them.
They are always the ones behind all that is queued; so when the thread next takes some, which makes room, it
queues a line that tells the count in the very place of those that are missing. Nothing but the server's end
ends the thread: what it has taken, it keeps until the sink has it.
"""

import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import trio

from .audit_file import RETRY_SECONDS, AuditFile
from .lacks import lack_of
from .log import Log
from .threads import NoThreadError, start_thread

#: Bytes of lines that may wait.
QUEUE_BYTES = 8 * 1024 * 1024
#: The most that one write to a file takes.
WRITE_BYTES = 64 * 1024
#: How long lines gather before they are written, in seconds; a server that is killed takes them with it.
GATHER_SECONDS = 0.02
#: A write that takes longer is reported, in seconds.
STALL_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Line:
    """One line on its way. `written` is set once the sink has it; `lost` if it was given up.

    ``count`` is how many lines it stands for: a line that tells of lost ones stands for them.
    """

    number: int
    data: bytes
    count: int = 1
    written: bool = False
    lost: bool = False


@dataclass(slots=True, eq=False)
class _Batch:
    """Lines that the thread has taken, and how many of their bytes the sink has."""

    lines: list[Line]
    data: bytes
    sent: int = 0

    @property
    def unwritten(self) -> list[Line]:
        return self.lines[self.data.count(b"\n", 0, self.sent) :]


class AuditSink:
    """Where audit lines go.

    Args:
        name: a file's path, or ``stderr``. A file is made with mode 0600 if it is missing.
        log: the server's log, which is told when the sink takes no lines, and when it does again.
        gap: makes the line that stands for others that were given up, from the first one's number and their
            count.
        room: bytes of lines that may wait.

    Raises:
        OSError: the file cannot be opened, or there is no thread to write it.
    """

    def __init__(
        self, name: str, log: Log, gap: Callable[[int, int], bytes], *, room: int = QUEUE_BYTES
    ) -> None:
        self.name = name
        #: Whether it takes no lines now, as far as is known.
        self.stalled = False
        self._log = log
        self._gap = gap
        self._room = room
        self._queue: deque[Line] = deque()
        self._queued = 0
        self._lost, self._lost_first = 0, 0
        self._batch: _Batch | None = None  # what is being written
        self._wakers: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._reopen = False
        self._urgent = False  # somebody waits for a line
        self._closing: float | None = None  # when the thread gives up
        self._began: float | None = None  # when the write under way did
        self._file = AuditFile(name, log)
        try:
            self._thread = start_thread(self._run, "audit")
        except NoThreadError:
            self._file.shut()
            raise

    # --- the event loop's side

    def put(self, line: Line) -> None:
        """Queue a line, or give it up if there is no room. Never waits."""
        with self._changed:
            # Behind a lost line, all are lost until that is told, even those for which there is room.
            if self._lost or self._queued + len(line.data) > self._room:
                line.lost = True
                first = not self._lost
                if first:
                    self._lost_first = line.number
                self._lost += 1
            else:
                self._queue.append(line)
                self._queued += len(line.data)
                if len(self._queue) == 1 or self._queued > WRITE_BYTES:
                    self._changed.notify()
                first = False
        if first:
            self._log.error("audit lines are given up: the audit log does not take them", sink=self.name)
        began = self._began
        if began is not None and time.monotonic() - began > STALL_SECONDS:
            self._stall(f"it has taken nothing for {STALL_SECONDS:g} s")

    async def wait_written(self, line: Line, patience: float) -> bool:
        """Wait until the sink has a line; False if it does not take it within ``patience`` seconds."""
        await trio.lowlevel.checkpoint()
        wake = trio.lowlevel.current_trio_token().run_sync_soon
        with trio.move_on_after(patience):
            while True:
                event = trio.Event()
                with self._changed:
                    if line.written or line.lost or self.stalled:
                        break
                    self._wakers.append(partial(wake, event.set))
                    self._urgent = True
                    self._changed.notify()
                await event.wait()
        return line.written

    def reopen(self) -> None:
        """Open the file by its name again, as after logrotate; the old one stays if that fails."""
        with self._changed:
            self._reopen = True
            self._changed.notify()

    def close(self, patience: float = 2.0) -> None:
        """Write what is queued, for at most ``patience`` seconds, and tell the log how much was not."""
        with self._changed:
            self._closing = time.monotonic() + patience
            self._changed.notify()
        self._thread.join(patience + STALL_SECONDS)
        with self._changed:
            taken = self._batch.unwritten if self._batch is not None else ()
            left = sum(line.count for line in (*taken, *self._queue)) + self._lost
        if left:
            self._log.error("the last audit lines were lost", sink=self.name, lines=left)
        if not self._thread.is_alive():
            self._file.shut()

    # --- the thread's side

    def _run(self) -> None:
        while True:
            try:
                self._write_all()
            except Exception as error:  # noqa: BLE001  # for want of memory, say: it is tried again
                with suppress(Exception):
                    self._stall(lack_of(error) or repr(error))
                time.sleep(RETRY_SECONDS)
                if self._is_over():
                    return
            else:
                return

    def _write_all(self) -> None:
        while (batch := self._batch or self._take()) is not None:
            self._began = time.monotonic()
            if not self._deliver(batch):
                return
            self._began = None
            with self._changed:
                for line in batch.lines:
                    line.written = True
                self._batch = None
            self._flow()

    def _take(self) -> _Batch | None:
        """The next lines, once there are some; None when it is time to end."""
        while not self._wait_queued():
            if not self._reopen:
                return None
            self._open_again()  # not under the lock: a file system may hang, and `put` must not wait
        with self._changed:
            self._changed.wait_for(self._is_due, GATHER_SECONDS)
            self._urgent = False
            # Nothing changes before all is made for which there may be no memory.
            lines, size = list[Line](), 0
            for line in self._queue:
                if lines and size + len(line.data) > WRITE_BYTES:
                    break
                lines.append(line)
                size += len(line.data)
            batch = _Batch(lines, b"".join([line.data for line in lines]))
            if self._lost:
                gap = Line(self._lost_first, self._gap(self._lost_first, self._lost), self._lost)
                self._queue.append(gap)
                self._queued += len(gap.data)
            lost, self._lost = self._lost, 0
            for _ in lines:
                self._queue.popleft()
            self._queued -= size
            self._batch = batch
        if lost:
            self._log.error("audit lines were given up", sink=self.name, lines=lost)
        return batch

    def _wait_queued(self) -> bool:
        """Wait until there are lines; False if it is time to open the file again, or to end."""
        with self._changed:
            while not self._queue:
                if self._closing is not None:
                    self._reopen = False
                    return False
                if self._reopen:
                    return False
                self._changed.wait()
        return True

    def _is_due(self) -> bool:
        return self._urgent or self._closing is not None or self._queued > WRITE_BYTES

    def _is_over(self) -> bool:
        return self._closing is not None and time.monotonic() > self._closing

    def _deliver(self, batch: _Batch) -> bool:
        """Write lines, however long that takes; False if we are to end before."""
        while batch.sent < len(batch.data):
            try:
                if (self._reopen and self._open_again()) or self._file.was_deleted():
                    batch.sent = batch.data.rfind(b"\n", 0, batch.sent) + 1
                batch.sent += self._file.write(batch.data, batch.sent)
            except OSError as error:
                self._excuse(error)
                if self._is_over():
                    return False
        return True

    def _open_again(self) -> bool:
        self._reopen = False
        try:
            return self._file.open_again()
        except BaseException:
            self._reopen = True
            raise

    def _excuse(self, error: OSError) -> None:
        """Take note of a write that failed, and pause before the next."""
        if isinstance(error, BlockingIOError):
            assert self._began is not None  # noqa: S101  # a write is under way
            if time.monotonic() - self._began > STALL_SECONDS:
                self._stall(f"nobody has read it for {STALL_SECONDS:g} s")
            return
        unread = error.errno in (errno.ENXIO, errno.EPIPE)
        self._stall("nobody reads it" if unread else str(error.strerror))
        with self._changed:
            self._changed.wait_for(lambda: self._reopen, RETRY_SECONDS)

    def _stall(self, reason: str) -> None:
        with self._changed:
            told, self.stalled = self.stalled, True
        if not told:
            self._log.error("the audit log takes no lines; they wait", sink=self.name, reason=reason)
        self._wake()

    def _flow(self) -> None:
        with self._changed:
            told, self.stalled = self.stalled, False
        if told:
            self._log.warning("the audit log takes lines again", sink=self.name)
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            with suppress(trio.RunFinishedError):
                wake()
