"""To look back through a log is done in steps, each at a turn, and no step is long."""

import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from wire.jobs import StreamParams
from wire.messages import STDERR, STDOUT, GapReason
from worker import tail
from worker.blocks import BLOCK_BYTES, BLOCK_RUNS, Block, Chunk
from worker.output import Missing, OutputLog
from worker.reader import TAKE_BLOCKS, Reader
from worker.spill import SpillFiles
from worker.tail import STEP, find_start

PLENTY = 2**40
FAR = 10**9


def lines() -> OutputLog:
    """4 MiB of lines of one byte."""
    log = OutputLog()
    for _ in range(16):
        log.append(STDOUT, b"x\n" * (BLOCK_BYTES // 2))
    return log


def pieces() -> OutputLog:
    """Blocks of one byte each, between large ones."""
    log = OutputLog()
    for _ in range(500):
        log.append(STDOUT, bytes(BLOCK_BYTES // 4))
        log.append(STDOUT, b"x")
    return log


def runs() -> OutputLog:
    """Blocks of as many runs as there can be, of one byte each."""
    log = OutputLog()
    for _ in range(4 * BLOCK_RUNS):
        log.append(STDOUT, b"x")
        log.append(STDERR, b"y")
    return log


@pytest.mark.parametrize("make", [lines, pieces, runs])
@pytest.mark.parametrize("only", [None, STDOUT])
@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("spilled", [True, False])
async def test_a_turn_is_taken_for_each_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], OutputLog],
    only: int | None,
    *,
    lines: bool,
    spilled: bool,
) -> None:
    """Between two turns there is one block more than STEP bytes, at most; likewise for what else weighs."""
    log, turns = make(), 0
    seen: list[list[Block]] = []
    really = tail._position

    def watched(block: Block, *rest: object) -> int | None:
        seen[-1].append(block)
        return really(block, *rest)  # type: ignore[arg-type]

    async def turn() -> None:
        nonlocal turns
        turns += 1
        seen.append([])
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(tail, "_position", watched)
    params = (
        StreamParams("", tail_lines=FAR, stream=only)
        if lines
        else StreamParams("", tail_bytes=FAR, stream=only)
    )
    with closing(SpillFiles(tmp_path)) as files:
        while spilled and log.spilled_end < log.size:
            await log.spill(files, PLENTY)
        assert await find_start(log, params, turn) == 0
    assert sum(len(block.data) for step in seen for block in step) == log.size
    for step in seen:
        assert sum(len(block.data) for block in step[:-1]) < STEP
        assert len(step) <= STEP // tail.BLOCK_WEIGHT
        if only is not None:
            assert sum(len(block.streams) for block in step[:-1]) < STEP // tail.RUN_WEIGHT


def test_newlines_are_not_looked_for_one_by_one() -> None:
    looks = 0

    class Watched(bytes):
        def rfind(self, *args: object) -> int:
            nonlocal looks
            looks += 1
            return super().rfind(*args)  # type: ignore[arg-type]

    data = Watched(b"\n" * BLOCK_BYTES)
    for n in (1, 2, 100, BLOCK_BYTES // 3, BLOCK_BYTES - 1, BLOCK_BYTES):
        assert tail._nth_last_newline(data, 0, len(data), n) == BLOCK_BYTES - n
    assert looks <= 6 * tail.FEW_BYTES


async def test_a_reader_of_one_stream_lets_others_have_their_turn() -> None:
    log = OutputLog()
    for _ in range(10 * TAKE_BLOCKS):
        log.append(STDOUT, bytes(BLOCK_BYTES // 4))
    log.append(STDERR, b"here")
    turns = 0

    async def room() -> None:
        nonlocal turns
        turns += 1
        await trio.lowlevel.checkpoint()

    reader = Reader(log, 0, STDERR, room=room)
    piece = await reader.next()
    assert piece is not None
    assert getattr(piece, "data", None) == b"here"
    assert turns == 11


@pytest.mark.parametrize("params", [{"tail_bytes": 6}, {"tail_lines": 2}])
@pytest.mark.parametrize("kept", [b"", b"kept\n"])
async def test_what_a_tail_cannot_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, int], kept: bytes
) -> None:
    log = OutputLog()
    log.append(STDOUT, b"lost\n")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("worker.spill_file.SpillFile.read_cached", lambda *_: None)
    monkeypatch.setattr("worker.spill_file.SpillFile.read", fail)
    with closing(SpillFiles(tmp_path)) as files:
        assert await log.spill(files, PLENTY)
        if kept:
            log.append(STDOUT, kept)
        start = await find_start(log, StreamParams("", **params))  # type: ignore[arg-type]
        with closing(Reader(log, start)) as reader:
            assert await reader.next() == Missing(4, 1, GapReason.UNREADABLE)
            assert await reader.next() == (Chunk(STDOUT, 5, kept) if kept else None)
        log.remove()
