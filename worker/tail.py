"""Owns where a stream begins: at an offset, at the last bytes or lines, or at a time.

To look back through a long log is costly, so it is done in steps of some STEP bytes, each at a turn: however
many clients look back at the same time, nobody else waits for longer than one step takes.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable

import trio

from wire.jobs import StreamParams

from .blocks import BLOCK_BYTES, RUN_SECONDS, Block
from .output import Missing, OutputLog

#: How much is looked through in one step. Besides its bytes, a block weighs so many, and so has each of its
#: runs if these have to be told apart: to look at one takes as long as to look through so many bytes.
STEP, BLOCK_WEIGHT, RUN_WEIGHT = BLOCK_BYTES, 4096, 64
#: In so few bytes newlines are looked for one by one.
FEW_BYTES = 64


async def find_start(
    log: OutputLog, params: StreamParams, turn: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
) -> int:
    """Return the offset at which a stream begins.

    Args:
        log: the job's output.
        params: what was asked for; checked before.
        turn: waits for the turn to take a step.
    """
    await trio.lowlevel.checkpoint()
    if params.tail_lines is not None:
        return await _before(log, _Lines(params.tail_lines), params.stream, turn)
    if params.tail_bytes is not None:
        return await _before(log, _Bytes(params.tail_bytes), params.stream, turn)
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
        return _nth_last_newline(data, begin, after, self._left) + 1


def _nth_last_newline(data: bytes | bytearray, begin: int, end: int, n: int) -> int:
    """Where in ``data[begin:end]`` the n-th newline from its end is; there are as many."""
    while end - begin > FEW_BYTES:
        middle = (begin + end) // 2
        count = data.count(b"\n", middle, end)
        if count >= n:
            begin = middle
        else:
            n, end = n - count, middle
    for _ in range(n):
        end = data.rfind(b"\n", begin, end)
    return end


async def _before(
    log: OutputLog, count: _Bytes | _Lines, only: int | None, turn: Callable[[], Awaitable[None]]
) -> int:
    """Go back from the log's end, over one stream or both, until a count is full."""
    await trio.lowlevel.checkpoint()
    offset = log.size
    read: Block | None = None  # from the disk
    while offset > log.dropped:
        await turn()
        left = STEP
        while left > 0 and offset > log.dropped:
            block, read = read or log.block_at_hand(offset - 1), None
            if block is None:
                break
            position = _position(block, count, only, offset - block.start)
            if position is not None:
                return block.start + position
            offset = block.start
            left -= BLOCK_WEIGHT + len(block.data) + (len(block.streams) * RUN_WEIGHT if only else 0)
        else:
            continue
        found = await log.block_at(offset - 1)
        if isinstance(found, Missing):
            # What was dropped meanwhile is not there; what cannot be read is, and the stream says so.
            return max(found.offset, log.dropped)
        read = found
    return log.dropped


def _position(block: Block, count: _Bytes | _Lines, only: int | None, end: int) -> int | None:
    """Where in a block's first ``end`` bytes a count is full, from their end on."""
    if only is None:
        return count.position(block.data, 0, end)
    stops = (*block.positions[1:], len(block.data))
    spans = [
        (begin, min(stop, end))
        for begin, stop, stream in zip(block.positions, stops, block.streams, strict=True)
        if stream == only and begin < end
    ]
    mine = b"".join([block.data[begin:stop] for begin, stop in spans])
    position = count.position(mine, 0, len(mine)) if spans else None
    if position is None:
        return None
    for begin, stop in spans:
        if position <= stop - begin:
            return begin + position
        position -= stop - begin
    return end


async def _since(log: OutputLog, when: float) -> int:
    """The offset of the first run that may hold bytes from a Unix time or later."""
    await trio.lowlevel.checkpoint()
    offset = log.start_of(when)
    if offset >= log.size:
        return log.size
    block = await log.block_at(offset)
    if not isinstance(block, Block):
        return offset
    run = bisect_right(block.whens, when, key=lambda began: began + RUN_SECONDS)
    return block.start + block.positions[run] if run < len(block.whens) else block.end
