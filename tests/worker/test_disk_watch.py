"""A disk that hangs is told while it does."""

import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.harness import PATIENCE
from tests.worker.common import KeptLog
from wire.messages import STDOUT
from worker import disk_watch
from worker.blocks import BLOCK_BYTES, Chunk
from worker.output import OutputLog
from worker.reader import Reader
from worker.spill_file import SpillFile
from worker.store import Budget, OutputStore

DATA = b"x" * BLOCK_BYTES
TOLD = "the disk that takes output hangs"


async def until_told(log: KeptLog, name: str) -> None:
    """Until it is told a second time: once more for as long as it hangs."""
    await trio.lowlevel.checkpoint()
    with trio.fail_after(PATIENCE):
        while (  # noqa: ASYNC110  # nobody tells
            len(told := [line for line in log.lines if line["operation"] == name]) < 2
        ):
            await trio.sleep(0.001)
    assert {line["message"] for line in told} == {TOLD}
    assert 0.05 <= told[0]["seconds"] <= told[1]["seconds"]


@pytest.mark.parametrize("name", ["write", "read", "punch"])
async def test_a_disk_that_hangs_is_told_while_it_does(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    goes_on, really = threading.Event(), getattr(SpillFile, name)

    def hang(*args: Any) -> Any:
        assert goes_on.wait(PATIENCE)
        return really(*args)

    monkeypatch.setattr(disk_watch, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr("worker.tally.PERIOD", 0)
    monkeypatch.setattr(SpillFile, "read_cached", lambda *_: None)
    monkeypatch.setattr(SpillFile, name, hang)
    pieces: list[Chunk] = []

    async def read(one: OutputLog) -> None:
        reader = Reader(one, 0)
        while isinstance(piece := await reader.next(), Chunk):
            pieces.append(piece)

    async with trio.open_nursery() as nursery:
        store = OutputStore(Budget(8 * BLOCK_BYTES, 2 * BLOCK_BYTES, None, tmp_path), log, nursery)
        one = OutputLog(store)
        for _ in range(4):
            one.append(STDOUT, DATA)
        async with trio.open_nursery() as printing:
            printing.start_soon(one.make_room)
            if name == "write":
                await until_told(log, name)
                goes_on.set()
        async with trio.open_nursery() as reading:
            reading.start_soon(read, one)
            if name == "read":
                await until_told(log, name)
                goes_on.set()
        one.remove()
        if name == "punch":
            await until_told(log, name)
            goes_on.set()
        assert b"".join(piece.data for piece in pieces) == DATA * 4
    store.close()
