"""Owns where a stream begins: at an offset, at the last bytes or lines, or at a time."""

import trio

from wire.jobs import StreamParams

from .blocks import RUN_SECONDS, Block
from .output import Missing, OutputLog


async def find_start(log: OutputLog, params: StreamParams) -> int:
    """Return the offset at which a stream begins.

    Args:
        log: the job's output.
        params: what was asked for; checked before.
    """
    await trio.lowlevel.checkpoint()
    if params.tail_lines is not None:
        return await _before(log, _Lines(params.tail_lines), params.stream)
    if params.tail_bytes is not None:
        return await _before(log, _Bytes(params.tail_bytes), params.stream)
    if params.since is not None:
        return await _since(log, params.since)
    return params.offset


class _Bytes:
    """Counts back so many bytes."""

    def __init__(self, count: int) -> None:
        self._left = count

    def position(self, data: bytes | bytearray, begin: int, end: int) -> int | None:
        """Where in ``data[begin:end]`` the count is full; None if it is not, and then it goes on."""
        if end - begin >= self._left:
            return end - self._left
        self._left -= end - begin
        return None


class _Lines:
    """Counts back so many lines: to behind the newline before them. The last line may lack its own."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._last = True  # the very last byte has not been looked at

    def position(self, data: bytes | bytearray, begin: int, end: int) -> int | None:
        """As in `_Bytes`."""
        if not self._left:
            return end
        after = end
        if self._last and end > begin:
            self._last = False
            if data[end - 1] == 0x0A:
                after -= 1  # it ends the last line, and parts no two
        count = data.count(b"\n", begin, after)
        if count < self._left:
            self._left -= count
            return None
        found = after
        for _ in range(self._left):
            found = data.rfind(b"\n", begin, found)
        return found + 1


async def _before(log: OutputLog, count: _Bytes | _Lines, only: int | None) -> int:
    """Go back from the log's end, over one stream or both, until a count is full."""
    await trio.lowlevel.checkpoint()
    offset = log.size
    while offset > log.dropped:
        block = await log.block_at(offset - 1)
        if isinstance(block, Missing):
            return offset
        for run in range(len(block.streams) - 1, -1, -1):
            begin, end = block.positions[run], min(block.run_end(run), offset - block.start)
            if begin < end and only in (None, block.streams[run]):
                position = count.position(block.data, begin, end)
                if position is not None:
                    return block.start + position
        offset = block.start
    return log.dropped


async def _since(log: OutputLog, when: float) -> int:
    """The offset of the first run that may hold bytes from a Unix time or later."""
    await trio.lowlevel.checkpoint()
    offset = log.start_of(when)
    if offset >= log.size:
        return log.size
    block = await log.block_at(offset)
    if not isinstance(block, Block):
        return offset
    for run, began in enumerate(block.whens):
        if began + RUN_SECONDS > when:
            return block.start + block.positions[run]
    return block.end
