"""Owns a job's output: an append-only log of bytes with offsets from 0, and the doorbells of its readers.

The log has one offset space for both streams, in order of arrival; each segment remembers which stream
its bytes came from and when. Bytes stay in the log and each subscriber pulls from its own offset, so a
replay costs nothing and no subscriber can slow the job or another subscriber. What goes through a
subscriber's memory channel is only a doorbell: something new is there.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

#: A segment holds bytes of one stream that came within `SEGMENT_SECONDS`, at most this many of them.
SEGMENT_BYTES = 256 * 1024
SEGMENT_SECONDS = 1.0
#: A piece this large becomes a segment as it is; smaller ones are gathered.
WHOLE_BYTES = SEGMENT_BYTES // 4


@dataclass(slots=True)
class Segment:
    """A run of bytes of one stream; ``when`` is the Unix time of its first byte."""

    stream: int
    when: float
    data: bytes | bytearray


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the log for one frame: ``data`` of one stream, beginning at ``offset``."""

    stream: int
    offset: int
    data: bytes


Doorbell: TypeAlias = trio.MemoryReceiveChannel[None]


@dataclass(slots=True)
class OutputLog:
    """One job's log. ``size`` is the number of bytes ever appended."""

    size: int = 0
    closed: bool = False
    _segments: list[Segment] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)
    _subscribers: set[trio.MemorySendChannel[None]] = field(default_factory=set)

    def append(self, stream: int, data: bytes | bytearray) -> None:
        """Add bytes of a stream (1 or 2) and ring every subscriber."""
        now = time.time()
        last = self._segments[-1] if self._segments else None
        if (
            last is not None
            and last.stream == stream
            and isinstance(last.data, bytearray)
            and len(last.data) + len(data) <= SEGMENT_BYTES
            and now - last.when < SEGMENT_SECONDS
        ):
            last.data += data
        else:
            whole = bytes(data) if len(data) >= WHOLE_BYTES else bytearray(data)
            self._segments.append(Segment(stream, now, whole))
            self._starts.append(self.size)
        self.size += len(data)
        self._ring()

    def close(self) -> None:
        """Say that no more bytes will come."""
        self.closed = True
        self._ring()

    def read(self, offset: int, most: int = SEGMENT_BYTES) -> Chunk | None:
        """Return up to ``most`` bytes of one stream from an offset; None where the log ends."""
        if offset >= self.size:
            return None
        index = bisect_right(self._starts, offset) - 1
        segment, start = self._segments[index], self._starts[index]
        if start == offset and len(segment.data) <= most:
            return Chunk(segment.stream, offset, bytes(segment.data))
        with memoryview(segment.data) as view:
            return Chunk(segment.stream, offset, bytes(view[offset - start : offset - start + most]))

    @contextmanager
    def subscribe(self) -> Iterator[Doorbell]:
        """Lend a doorbell: it rings once for any number of appends since it was last answered."""
        bell, doorbell = trio.open_memory_channel[None](1)
        self._subscribers.add(bell)
        try:
            with bell, doorbell:
                yield doorbell
        finally:
            self._subscribers.discard(bell)

    def _ring(self) -> None:
        for bell in self._subscribers:
            with suppress(trio.WouldBlock):  # it rings already
                bell.send_nowait(None)
