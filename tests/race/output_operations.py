"""Owns the operations of the output's store that are cancelled."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import trio

from tests.harness import PATIENCE
from tests.race.cancel import Cancelling, Operation
from tests.race.footprint import expect, until
from tests.race.world import World
from wire.messages import STDOUT
from worker.blocks import Chunk
from worker.output import Missing, OutputLog
from worker.reader import Reader
from worker.store import Budget, OutputStore, Overflow
from worker.windows import WINDOWS_BYTES

PIECE = 64 * 1024


@contextmanager
def small_store(world: World, *, disk: int, overflow: Overflow) -> Iterator[OutputStore]:
    budget = Budget(3 * PIECE, 2 * PIECE, disk, world.folder, overflow)
    with closing(OutputStore(budget, world.log)) as store:
        yield store


class Pump:
    """Appends to a log as a job's pump does, and knows what it has appended."""

    def __init__(self, store: OutputStore) -> None:
        self.log = OutputLog(store)
        self.appended = b""

    async def run(self, count: int) -> None:
        await trio.lowlevel.checkpoint()
        for _ in range(count):
            piece = bytes([len(self.appended) // PIECE % 251]) * PIECE
            self.log.append(STDOUT, piece)
            self.appended += piece
            await self.log.make_room()

    async def check(self, *, dropped: bool = False) -> None:
        """What was appended can be read; or, once some was dropped, exactly the rest of it."""
        reader = Reader(self.log, 0)
        data, missing = bytearray(), 0
        while piece := await reader.next():
            if isinstance(piece, Missing):
                expect(dropped and not data, "output is missing")
                missing += piece.size
            else:
                data += piece.data
        expect(bytes(data) == self.appended[missing:], "output was lost")
        expect(missing == self.log.dropped, "a gap was not told")
        expect(not self.log.waiting, "a log waits for room, and nobody for it")


async def _make_room(
    world: World, cancelling: Cancelling, store: OutputStore, *, dropped: bool, count: int = 8
) -> None:
    pumps = [Pump(store), Pump(store)]
    with cancelling:
        async with trio.open_nursery() as nursery:
            for pump in pumps:
                nursery.start_soon(pump.run, count)
    for pump in pumps:
        await pump.check(dropped=dropped)
        await pump.run(3)
        await pump.check(dropped=dropped)
    for pump in pumps:
        pump.log.remove()
    expect((store.resident, store.spilled) == (0, 0), f"{store.resident}, {store.spilled} bytes are held")


async def make_room(world: World, cancelling: Cancelling) -> None:
    """Output moves to the disk."""
    with small_store(world, disk=2**24, overflow=Overflow.BLOCK) as store:
        await _make_room(world, cancelling, store, dropped=False)


async def make_room_in_the_background(world: World, cancelling: Cancelling) -> None:
    """The same, by a task of the store's; it is not cancelled with those that wait for it."""
    with small_store(world, disk=2**24, overflow=Overflow.BLOCK) as store:
        async with trio.open_nursery() as mover:
            store.work_ahead(mover)
            await _make_room(world, cancelling, store, dropped=False, count=3)


async def make_room_by_dropping(world: World, cancelling: Cancelling) -> None:
    """The disk is full, and the oldest goes."""
    with small_store(world, disk=5 * PIECE, overflow=Overflow.DROP) as store:
        await _make_room(world, cancelling, store, dropped=True)


async def wait_for_room(world: World, cancelling: Cancelling) -> None:
    """The disk is full, and a job waits until another is removed."""
    with small_store(world, disk=7 * PIECE + PIECE // 2, overflow=Overflow.BLOCK) as store:
        first, second = Pump(store), Pump(store)
        await first.run(5)

        async def free() -> None:
            await until(lambda: second.log.waiting)
            first.log.remove()

        with cancelling:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(free)
                nursery.start_soon(second.run, 7)
        first.log.remove()
        await second.check()
        second.log.remove()
        expect((store.resident, store.spilled) == (0, 0), f"{store.resident}, {store.spilled} bytes are held")


async def read_back(world: World, cancelling: Cancelling) -> None:
    """Output is read back from the disk while more moves there; a reader goes on where it was."""
    with small_store(world, disk=2**24, overflow=Overflow.BLOCK) as store:
        async with trio.open_nursery() as ahead:
            store.work_ahead(ahead)
            pump = Pump(store)
            await pump.run(8)
            reader, data = Reader(pump.log, 0), bytearray()

            async def read() -> None:
                with closing(reader):
                    while isinstance(piece := await reader.next(PIECE // 2), Chunk):
                        data.extend(piece.data)

            with cancelling:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read)
                    nursery.start_soon(pump.run, 4)
            await read()
            expect(bytes(data) == pump.appended, "a reader lost its place")
            expect(store.windows.readers == 0, "a reader that has left is counted")
            # A read ahead that is in a thread is counted until its end.
            with trio.move_on_after(PATIENCE):
                while store.windows.left != WINDOWS_BYTES:  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(0.001)
            left = WINDOWS_BYTES - store.windows.left
            expect(not left, f"{left} bytes are counted")


OPERATIONS: tuple[Operation, ...] = (
    make_room,
    make_room_in_the_background,
    make_room_by_dropping,
    wait_for_room,
    read_back,
)
