"""Owns the server's log on stderr: readable lines on a terminal, one JSON object a line otherwise."""

import contextlib
import io
import json
import os
import queue
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from .threads import start_thread


class BackgroundStream:
    """A stream for `Log` that a stalled reader cannot make wait: a thread of its own writes.

    What does not fit any more is dropped and counted; `notice` makes the line that tells the count once
    there is room.

    Args:
        stream: where lines go.
        lines: the most that may be waiting.

    Raises:
        NoThreadError: there is no thread for it.
    """

    def __init__(self, stream: TextIO | io.TextIOBase, lines: int = 10_000) -> None:
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue(lines)
        self._dropped = 0
        self._lock = threading.Lock()  # the audit log's thread logs too
        self.notice: Callable[[int], str] = "{} lines were dropped\n".format
        self._thread = start_thread(self._run, "log")

    def isatty(self) -> bool:
        """Whether people read it."""
        return self._stream.isatty()

    def write(self, line: str) -> None:
        """Queue a line, or count it as dropped."""
        with self._lock:
            try:
                if self._dropped:
                    self._queue.put_nowait(self.notice(self._dropped))
                    self._dropped = 0
                self._queue.put_nowait(line)
            except queue.Full:
                self._dropped += 1

    def flush(self) -> None:
        """Nothing to do: the thread flushes each line."""

    def close(self, patience: float = 2.0) -> None:
        """Write what is queued, for at most ``patience`` seconds."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=patience)
        self._thread.join(patience)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError, MemoryError):  # a full disk may have room again
                with self._lock:
                    self._dropped += 1


class Stderr(io.TextIOBase):
    """Our stderr without Python's buffer, which would try again, at our end, what could not be written."""

    def isatty(self) -> bool:
        """Whether people read it."""
        return os.isatty(2)

    def write(self, text: str, /) -> int:
        """Write all of a text; OSError if that cannot be done."""
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(2, rest) :]
            except BlockingIOError:  # another process has made the pipe non-blocking
                select.select([], [2], [])
        return len(text)


class Log:
    """A structured log. A message says what happened; fields say to what.

    Args:
        stream: where lines go; stderr if None.
        readable: lines for people instead of JSON; by default, if ``stream`` is a terminal.
    """

    def __init__(
        self, stream: TextIO | BackgroundStream | None = None, *, readable: bool | None = None
    ) -> None:
        self._stream: TextIO | BackgroundStream | None = (
            stream or sys.stderr
        )  # None in a process that began with 2 closed
        if readable is None:
            readable = self._stream is not None and self._stream.isatty()
        self._readable = readable
        if isinstance(self._stream, BackgroundStream):
            self._stream.notice = lambda lines: self._line(
                "error", "the log was not read, and lines were dropped", {"lines": lines}
            )

    def info(self, message: str, **fields: object) -> None:
        """Log what happened in the ordinary course."""
        self._write("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Log what somebody may want to look into."""
        self._write("warning", message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Log what somebody must look into."""
        self._write("error", message, fields)

    def exception(self, message: str, **fields: object) -> None:
        """Log a failure of our own, with the traceback of the exception being handled."""
        self._write("error", message, {**fields, "traceback": traceback.format_exc()})

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(self._line(level, message, fields))
            self._stream.flush()
        except (OSError, ValueError):
            pass  # a closed or full stderr must not end the server

    def _line(self, level: str, message: str, fields: dict[str, object]) -> str:
        now = datetime.fromtimestamp(time.time(), UTC)
        if self._readable:
            words = "".join(f" {name}={_word(value)}" for name, value in fields.items())
            return f"{now.astimezone():%H:%M:%S} {level:7} {message}{words}\n"
        stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json.dumps({"time": stamp, "level": level, "message": message, **fields}, default=str) + "\n"


def _word(value: object) -> str:
    text = str(value)
    # Escape what a terminal could take for more than text: names come from certificates and clients.
    plain = text.isprintable() and text and " " not in text and not text.startswith('"')
    return text if plain else json.dumps(text)
