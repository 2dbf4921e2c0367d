"""Owns a block: a stretch of a job's log in memory, in runs that each came from one stream at one time.

A block says of each run where it begins, which stream (1 or 2) its bytes came from, and when. These tables
are arrays, so that a job that writes single bytes to both streams in turn costs 13 bytes for each of them,
and not an object. A block that is spilled is its tables and then its data.
"""

from array import array
from bisect import bisect_right
from dataclasses import dataclass

#: A block holds at most so many bytes, in so many runs, and one frame carries at most one block.
BLOCK_BYTES, BLOCK_RUNS = 256 * 1024, 4096
#: A piece this large becomes a block as it is, without a copy; smaller ones are gathered.
WHOLE_BYTES = BLOCK_BYTES // 4
#: A run's time is that of its first byte; what comes so much later begins a new one, in seconds.
RUN_SECONDS = 1.0
#: Bytes of the tables for each run, and what the objects of a block weigh, roughly.
RUN_BYTES, OBJECT_BYTES = 13, 500


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the log for one frame: ``data`` of one stream, beginning at ``offset``."""

    stream: int
    offset: int
    data: bytes


class Block:
    """A stretch of a log from byte ``start`` on.

    Args:
        start: its offset in the log.
        data: its bytes; a bytearray may grow.
        tables: the runs' positions in ``data``, streams and Unix times.
    """

    __slots__ = ("data", "positions", "start", "streams", "whens")

    def __init__(
        self,
        start: int,
        data: bytes | bytearray,
        positions: "array[int]",
        streams: bytearray,
        whens: "array[float]",
    ) -> None:
        self.start = start
        self.data = data
        self.positions = positions
        self.streams = streams
        self.whens = whens

    @classmethod
    def begin(cls, start: int, stream: int, when: float, data: bytes | bytearray) -> "Block":
        """A block of one run. It may grow unless the run is large."""
        kept = bytes(data) if len(data) >= WHOLE_BYTES else bytearray(data)
        return cls(start, kept, array("I", (0,)), bytearray((stream,)), array("d", (when,)))

    @classmethod
    def restore(cls, start: int, tables: bytes | bytearray, data: bytes) -> "Block":
        """Read what `tables` and ``data`` of a block were."""
        runs = len(tables) // RUN_BYTES
        positions, whens = array("I"), array("d")
        positions.frombytes(tables[: 4 * runs])
        whens.frombytes(tables[4 * runs : 12 * runs])
        return cls(start, data, positions, bytearray(tables[12 * runs :]), whens)

    def tables(self) -> bytes:
        """The runs, as `restore` takes them."""
        return b"".join((self.positions, self.whens, self.streams))

    @property
    def end(self) -> int:
        """The offset in the log at which it ends."""
        return self.start + len(self.data)

    @property
    def cost(self) -> int:
        """Bytes of memory that it takes, roughly."""
        return len(self.data) + RUN_BYTES * len(self.streams) + OBJECT_BYTES

    def add(self, stream: int, when: float, data: bytes | bytearray) -> bool:
        """Take more bytes, if they fit; return whether they did."""
        if not isinstance(self.data, bytearray) or len(self.data) + len(data) > BLOCK_BYTES:
            return False
        if stream != self.streams[-1] or when - self.whens[-1] >= RUN_SECONDS:
            if len(self.streams) >= BLOCK_RUNS:
                return False
            self.positions.append(len(self.data))
            self.streams.append(stream)
            self.whens.append(when)
        self.data += data
        return True

    def chunk(self, offset: int, most: int, only: int | None) -> Chunk | None:
        """The first piece at or behind an offset in it, of one stream; None if there is none.

        Args:
            offset: in the log, within this block.
            most: the most bytes.
            only: the stream to look for; None for either.
        """
        position = offset - self.start
        run = bisect_right(self.positions, position) - 1
        if only is not None and self.streams[run] != only:
            if (run := self.streams.find(only, run)) < 0:
                return None
            position = self.positions[run]
        after = self.run_end(run)
        # Runs of one stream that only time parts go together.
        while after < min(len(self.data), position + most) and self.streams[run + 1] == self.streams[run]:
            run += 1
            after = self.run_end(run)
        after = min(after, position + most)
        if position == 0 and after == len(self.data) and isinstance(self.data, bytes):
            return Chunk(self.streams[run], self.start, self.data)
        with memoryview(self.data) as view:
            return Chunk(self.streams[run], self.start + position, bytes(view[position:after]))

    def run_end(self, run: int) -> int:
        """Where a run ends in ``data``."""
        return self.positions[run + 1] if run + 1 < len(self.positions) else len(self.data)
