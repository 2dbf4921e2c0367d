"""Output stays within its budgets: in memory, on the disk, and past it as the operator wants."""

import errno
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.harness import PATIENCE
from tests.worker.common import KeptLog, Woken, descriptors, without_threads
from wire.messages import STDOUT, GapReason
from worker import mover, output
from worker.blocks import Chunk
from worker.output import Missing, OutputLog
from worker.reader import Reader
from worker.spill import SpillFiles
from worker.spill_file import SpillFile
from worker.store import Budget, OutputStore, Overflow
from worker.windows import MIB

PIECE = 64 * 1024
MEMORY, JOB_MEMORY = 8 * PIECE + PIECE // 2, 4 * PIECE + PIECE // 2
FULL = "the room for output on the disk is used up"
FAILS = "output cannot be moved to the disk, and is tried again"


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "BATCH_BYTES", 2 * PIECE)
    monkeypatch.setattr(mover, "RETRY_SECONDS", 0.01)


def make(folder: Path, log: KeptLog, *, disk: int | None = 100 * MIB, drop: bool = False) -> OutputStore:
    overflow = Overflow.DROP if drop else Overflow.BLOCK
    return OutputStore(Budget(MEMORY, JOB_MEMORY, disk, folder, overflow), log)


def piece(number: int) -> bytes:
    return bytes([number % 251]) * PIECE


async def fill(log: OutputLog, count: int, first: int = 0) -> None:
    """Append as a pump does: no more before there is room."""
    await trio.lowlevel.checkpoint()
    for number in range(first, first + count):
        log.append(STDOUT, piece(number))
        await log.make_room()


async def read_all(log: OutputLog) -> tuple[bytes, list[Missing]]:
    reader, data, gaps = Reader(log, 0), b"", []
    while found := await reader.next():
        if isinstance(found, Chunk):
            data += found.data
        else:
            gaps.append(found)
    return data, gaps


async def test_memory_stays_within_both_budgets(tmp_path: Path, log: KeptLog) -> None:
    await trio.lowlevel.checkpoint()
    room = make(tmp_path, log)
    logs = [OutputLog(room) for _ in range(5)]
    for number in range(12):
        for one in logs:
            await fill(one, 1, number)
            assert one.resident <= JOB_MEMORY
            assert room.resident <= MEMORY
    for one in logs:
        assert await read_all(one) == (b"".join(piece(number) for number in range(12)), [])
    assert room.resident == sum(one.resident for one in logs)
    assert room.spilled == sum(one.spilled for one in logs)
    for one in logs:
        one.remove()
    assert (room.resident, room.spilled) == (0, 0)
    assert not os.listdir(tmp_path)  # noqa: PTH208  # a blocking call, and no path is wanted
    assert log.messages == []


async def test_a_job_within_its_budget_is_left_alone_by_a_loud_one(tmp_path: Path, log: KeptLog) -> None:
    room = make(tmp_path, log)
    quiet, loud = OutputLog(room), OutputLog(room)
    await fill(quiet, 2)
    await fill(loud, 30)
    assert (quiet.spilled, quiet.size) == (0, 2 * PIECE)
    assert loud.spilled > 0
    quiet.remove()
    loud.remove()


async def test_the_longest_silent_makes_room(tmp_path: Path, log: KeptLog) -> None:
    room = make(tmp_path, log)
    silent, others = OutputLog(room), [OutputLog(room) for _ in range(4)]
    await fill(silent, 2)
    for one in others:
        await fill(one, 2)
    assert silent.spilled > 0
    assert [one.spilled for one in others[1:]] == [0, 0, 0]
    for one in (silent, *others):
        one.remove()


async def test_block_lets_the_job_wait_until_there_is_room(tmp_path: Path, log: KeptLog) -> None:
    room = make(tmp_path, log, disk=3 * PIECE)
    done, running = OutputLog(room), OutputLog(room)
    await fill(done, 6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill, running, 6)
        with trio.fail_after(PATIENCE):
            while not running.waiting:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.001)
        waits = running.size
        await trio.sleep(0.05)  # it looks again, and finds none
        assert running.size == waits < 6 * PIECE
        assert log.messages == [FULL]
        done.remove()
    assert not running.waiting
    assert await read_all(running) == (b"".join(map(piece, range(6))), [])
    assert log.messages == [FULL, "there is room for output on the disk again"]
    running.remove()


async def test_drop_gives_up_the_oldest_and_says_so(tmp_path: Path, log: KeptLog) -> None:
    room = make(tmp_path, log, disk=3 * PIECE, drop=True)
    one = OutputLog(room)
    await fill(one, 40)
    data, gaps = await read_all(one)
    assert gaps == [Missing(0, one.dropped, GapReason.DROPPED)]
    assert 0 < one.dropped < one.size
    assert data == b"".join(map(piece, range(40)))[one.dropped :]
    assert room.spilled <= 3 * PIECE
    assert log.messages == [FULL]
    one.remove()


@pytest.mark.parametrize("drop", [True, False])
async def test_a_full_disk_is_survived(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch, *, drop: bool
) -> None:
    room = make(tmp_path, log, drop=drop)
    one = OutputLog(room)
    really, full = os.pwritev, True

    def fail(fd: int, buffers: list[memoryview], position: int) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(fd, buffers, position)

    monkeypatch.setattr(os, "pwritev", fail)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill, one, 20)
        with trio.fail_after(PATIENCE):
            while not (one.dropped if drop else one.waiting):  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.001)
        full = False
    data, gaps = await read_all(one)
    assert data == b"".join(map(piece, range(20)))[one.dropped :]
    assert bool(gaps) == drop
    assert log.lines[0]["message"] == FULL
    assert log.lines[0]["reason"] == "No space left on device"
    one.remove()


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, None])
async def test_a_disk_that_fails_for_a_while_has_nothing_dropped(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    def fail(*_: object) -> bool:
        assert error is not None
        raise OSError(error, os.strerror(error))

    async with trio.open_nursery() as nursery:
        room = OutputStore(Budget(MEMORY, JOB_MEMORY, 100 * MIB, tmp_path, Overflow.DROP), log, nursery)
        old, one = OutputLog(room), OutputLog(room)
        await fill(old, 20)
        async with trio.open_nursery() as filling:
            with without_threads() if error is None else monkeypatch.context() as patch:
                if patch is not None:
                    patch.setattr(SpillFile, "write", fail)
                filling.start_soon(fill, one, 20)
                with trio.fail_after(PATIENCE):
                    while not log.messages:  # noqa: ASYNC110  # nobody tells
                        await trio.sleep(0.001)
                await trio.sleep(0.05)  # it is tried again, and fails again
                assert log.messages == [FAILS]
                assert one.waiting
        assert log.messages == [FAILS, "there is room for output on the disk again"]
        for each in (old, one):
            assert await read_all(each) == (b"".join(map(piece, range(20))), [])
            each.remove()


async def test_a_cancelled_wait_loses_nothing(tmp_path: Path, log: KeptLog) -> None:
    room = make(tmp_path, log, disk=0)
    one = OutputLog(room)
    with trio.move_on_after(0.05) as scope:
        await fill(one, 10)
    assert scope.cancelled_caught
    assert not one.waiting
    data, gaps = await read_all(one)
    assert (data, gaps) == (b"".join(map(piece, range(one.size // PIECE))), [])
    one.remove()


def test_half_of_the_free_disk_is_the_default(tmp_path: Path, log: KeptLog) -> None:
    room = make(tmp_path, log, disk=None)
    free = os.statvfs(tmp_path)
    assert room._disk is not None
    assert abs(room._disk - free.f_bavail * free.f_frsize // 2) < 2**30


async def test_a_log_that_is_removed_as_it_is_to_spill_leaves_nothing(tmp_path: Path, log: KeptLog) -> None:
    await trio.lowlevel.checkpoint()
    room = make(tmp_path, log)
    files = room._files
    one = OutputLog(room)
    one.append(STDOUT, piece(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.spill, files, MIB)
        await trio.testing.wait_all_tasks_blocked()
        one.remove()
    async with trio.open_nursery() as nursery:
        other = OutputLog(room)
        other.append(STDOUT, piece(1))
        nursery.start_soon(other.spill, files, MIB)
        other.remove()  # before it begins
    assert (room.resident, room.spilled) == (0, 0)
    while files.has_released:
        await files.reclaim()
    assert files.used == 0


async def test_the_end_of_a_store_closes_its_files(tmp_path: Path, log: KeptLog) -> None:
    before = descriptors()
    async with trio.open_nursery() as nursery:
        room = OutputStore(Budget(MEMORY, JOB_MEMORY, 100 * MIB, tmp_path), log, nursery)
        one, two = OutputLog(room), OutputLog(room)
        await fill(one, 12)
        await fill(two, 1)
    room.close()
    assert (room.resident, room.spilled) == (0, 0)
    assert descriptors() == before


async def test_what_is_removed_is_not_told_as_dropped(tmp_path: Path, log: KeptLog) -> None:
    for drop in (False, True):
        room = make(tmp_path, log, disk=6 * PIECE if drop else None, drop=drop)
        one = OutputLog(room)
        await fill(one, 20)
        dropped = one.overflowed
        assert bool(dropped) == drop
        one.remove()
        assert (one.dropped, one.overflowed) == (one.size, dropped)


async def test_a_full_disk_is_tried_seldom_and_told_once(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mover, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(SpillFile, "write", fail)
    async with trio.open_nursery() as nursery:
        room = OutputStore(Budget(MEMORY, JOB_MEMORY, 100 * MIB, tmp_path), log, nursery)
        one = OutputLog(room)
        for number in range(6):
            one.append(STDOUT, piece(number))
        with trio.move_on_after(0.55):
            async with trio.open_nursery() as pumps:  # those of stdout and stderr
                pumps.start_soon(one.make_room)
                pumps.start_soon(one.make_room)
        assert 2 <= tries < 30
        assert log.messages == [FULL]
        one.remove()


async def test_a_disk_that_is_full_once_more_is_told_once_more(tmp_path: Path, log: KeptLog) -> None:
    async with trio.open_nursery() as nursery:
        budget = Budget(MEMORY, JOB_MEMORY, 3 * PIECE, tmp_path, Overflow.BLOCK)
        room = OutputStore(budget, log, nursery)
        for _ in range(2):
            gone, after = OutputLog(room), OutputLog(room)
            with trio.move_on_after(PATIENCE) as scope:
                async with trio.open_nursery() as filling:
                    filling.start_soon(fill, gone, 20)
                    while not gone.waiting:  # noqa: ASYNC110  # nobody tells
                        await trio.sleep(0.001)
                    filling.cancel_scope.cancel()  # its job has ended
            assert not scope.cancelled_caught
            gone.remove()
            await trio.sleep(0.02)  # it is tried again only after a pause
            await fill(after, 4)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert after.spilled
            after.remove()
    assert log.messages == [FULL, "there is room for output on the disk again"] * 2


async def test_no_reader_holds_up_a_spill(tmp_path: Path, log: KeptLog) -> None:
    room = make(tmp_path, log)
    one = OutputLog(room)
    await fill(one, 6)
    for number in range(int(room.reads.total_tokens)):
        room.reads.acquire_on_behalf_of_nowait(number)  # as slow reads do
    with trio.fail_after(PATIENCE):
        await fill(one, 20, 6)
    for number in range(int(room.reads.total_tokens)):
        room.reads.release_on_behalf_of(number)
    assert await read_all(one) == (b"".join(map(piece, range(26))), [])
    one.remove()


async def test_without_threads_output_stays_in_memory(tmp_path: Path, log: KeptLog) -> None:
    async with trio.open_nursery() as nursery:
        room = OutputStore(Budget(MEMORY, JOB_MEMORY, 100 * MIB, tmp_path), log, nursery)
        one = OutputLog(room)
        with without_threads():
            await fill(one, 4)
            await trio.testing.wait_all_tasks_blocked()
        assert one.spilled == 0
        assert await read_all(one) == (b"".join(map(piece, range(4))), [])
        one.remove()


@pytest.mark.parametrize("memory", [PIECE, 16 * PIECE, 64 * PIECE])
@pytest.mark.parametrize("ahead", [True, False])
async def test_dozens_that_print_at_once_all_end_and_then_it_is_quiet(
    tmp_path: Path, log: KeptLog, memory: int, *, ahead: bool
) -> None:
    """BEHAVIOURS 21; those that print at once are more than the budget holds."""
    async with trio.open_nursery() as nursery:
        budget = Budget(memory, memory // 2, 100 * MIB, tmp_path)
        room = OutputStore(budget, log, nursery if ahead else None)
        ended, printing = [OutputLog(room) for _ in range(30)], [OutputLog(room) for _ in range(20)]
        with trio.fail_after(PATIENCE):
            for number, one in enumerate(ended):
                await fill(one, 3, number)
            async with trio.open_nursery() as pumps:
                for number, one in enumerate(printing):
                    pumps.start_soon(fill, one, 10, number)
            await trio.testing.wait_all_tasks_blocked(0.01)
        woken = Woken()
        trio.lowlevel.add_instrument(woken)
        await trio.sleep(0.1)
        trio.lowlevel.remove_instrument(woken)
        assert not woken.tasks
        for logs, count in ((ended, 3), (printing, 10)):
            for number, one in enumerate(logs):
                assert await read_all(one) == (b"".join(map(piece, range(number, number + count))), [])
                one.remove()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert room._files.used == 0 or not ahead
    room.close()
    assert log.messages == []


async def test_ended_logs_on_the_disk_hold_no_descriptor(tmp_path: Path, log: KeptLog) -> None:
    """BEHAVIOURS 22."""
    async with trio.open_nursery() as nursery:
        room = OutputStore(Budget(MEMORY, JOB_MEMORY, 100 * MIB, tmp_path), log, nursery)
        before, logs = descriptors(), []
        for number in range(600):
            logs.append(OutputLog(room))
            await fill(logs[-1], 1, number)
        assert sum(bool(one.spilled) for one in logs) > 590
        assert len(descriptors()) <= len(before) + 1  # a thread's, at most
        for number, one in enumerate(logs):
            assert await read_all(one) == (piece(number), [])
    room.close()


async def test_a_full_disk_costs_an_idle_store_nothing(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mover, "RETRY_SECONDS", 1000)
    async with trio.open_nursery() as nursery:
        room = OutputStore(Budget(MEMORY, JOB_MEMORY, 0, tmp_path), log, nursery)
        near, full = OutputLog(room), OutputLog(room)
        await fill(near, 4)  # nobody waits yet
        with trio.fail_after(PATIENCE):
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert log.messages == []
        async with trio.open_nursery() as pumps:
            pumps.start_soon(fill, full, 5)
            with trio.fail_after(PATIENCE):
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert full.waiting
            woken = Woken()
            trio.lowlevel.add_instrument(woken)
            await trio.sleep(0.1)
            trio.lowlevel.remove_instrument(woken)
            assert not woken.tasks
            near.remove()  # and that is heard at once
            with trio.fail_after(PATIENCE):
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert full.waiting  # it has a budget of its own
            pumps.cancel_scope.cancel()
        assert not full.waiting
        nursery.cancel_scope.cancel()
    room.close()


async def test_a_failure_of_ours_is_told_and_tried_again(
    tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, fails = OutputLog.spill, 2

    async def fail(self: OutputLog, files: SpillFiles, room: int) -> bool:
        nonlocal fails
        fails -= 1
        if fails >= 0:
            raise ZeroDivisionError("a bug")
        return await really(self, files, room)

    monkeypatch.setattr(OutputLog, "spill", fail)
    async with trio.open_nursery() as nursery:
        room = OutputStore(Budget(MEMORY, JOB_MEMORY, 100 * MIB, tmp_path), log, nursery)
        one = OutputLog(room)
        with trio.fail_after(PATIENCE):
            await fill(one, 20)
    assert log.messages == ["output could not be moved"] * 2
    assert await read_all(one) == (b"".join(map(piece, range(20))), [])
    room.close()
