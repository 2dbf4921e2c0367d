"""Owns state machines over the synchronous cores: the store, resuming, credit; each against its model.

Those over a pair of connections and over one job's log are with the tests of these; `just race` runs all.
"""

import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from client.resume import FIRST_PAUSE, LONGEST_PAUSE, Backoff, Life, Place
from tests.harness import PATIENCE
from tests.race.world import patched
from tests.wire.test_conversation import Conversation
from tests.worker.common import KeptLog
from tests.worker.test_output import AnyHistoryAnyReaders
from wire.errors import LocalProtocolError, RemoteProtocolError
from wire.flow import MAX_CREDIT, ReceiveCredit, SendCredit
from wire.jobs import StreamParams
from wire.messages import STDERR, STDOUT, Gap, GapReason, Output
from worker.blocks import BLOCK_BYTES
from worker.output import Doorbell, Missing, OutputLog
from worker.reader import Reader
from worker.store import Budget, OutputStore, Overflow

STREAMS = st.sampled_from([STDOUT, STDERR])
WHICH = st.integers(0, 1)
#: Machines that the other tests run already.
ELSEWHERE = ("conversation", "log")
#: Sizes on both sides of what a block gathers, and of what it holds.
SIZES = st.sampled_from([1, 7, 1000, 30_000, BLOCK_BYTES // 4 - 1, BLOCK_BYTES // 4, BLOCK_BYTES + 5])
MEMORY, JOB_MEMORY, DISK = 200_000, 150_000, 250_000


@dataclass(eq=False)
class Follower:
    """A reader, and what the model knows of it."""

    log: int
    reader: Reader
    bell: Doorbell
    leave: object
    only: int | None
    most: int


class WatchedStore(OutputStore):
    """A store that says when whoever wants room has to wait until something is freed."""

    stuck: trio.Event

    def mark_waiting(self) -> None:
        super().mark_waiting()
        self.stuck.set()


class StoreMachine(RuleBasedStateMachine):
    """Two jobs' logs in a store: every byte that is not said to be missing is read once, where it was put."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = patched()
        self.patches.__enter__()
        self.folder = tempfile.TemporaryDirectory()
        self.bytes = [bytearray(), bytearray()]
        self.streams = [bytearray(), bytearray()]  # which stream each byte came from
        self.removed = [False, False]
        self.followers: list[Follower] = []
        self.count = 0

    @initialize(overflow=st.sampled_from(Overflow))
    def begin(self, overflow: Overflow) -> None:
        budget = Budget(MEMORY, JOB_MEMORY, DISK, Path(self.folder.name), overflow)
        self.overflow = overflow
        self.store = WatchedStore(budget, KeptLog())
        self.logs = [OutputLog(self.store), OutputLog(self.store)]

    def teardown(self) -> None:
        for follower in self.followers:
            follower.leave.__exit__(None, None, None)  # type: ignore[attr-defined]
        for log in getattr(self, "logs", ()):
            log.remove()
        if hasattr(self, "store"):
            assert (self.store.resident, self.store.spilled) == (0, 0)
            while self.store._files.has_released:
                trio.run(self.store._files.reclaim)
            assert self.store._files.used == 0
            self.store.close()
        self.folder.cleanup()
        self.patches.__exit__(None, None, None)

    @rule(which=WHICH, stream=STREAMS, size=SIZES, times=st.integers(1, 8))
    def append_some(self, which: int, stream: int, size: int, times: int) -> None:
        if not (self.logs[which].closed or self.removed[which]):
            for _ in range(times):
                self.append(which, stream, size)

    def append(self, which: int, stream: int, size: int) -> None:
        log = self.logs[which]
        self.count += 1
        data = (b"%d " % self.count * (size // 2 + 1))[:size]
        log.append(stream, data)
        self.bytes[which] += data
        self.streams[which] += bytes([stream]) * size
        for follower in self.followers:
            if follower.log == which:
                follower.bell.receive_nowait()  # it has rung; WouldBlock fails the test
        self.make_room(which)

    @rule(which=WHICH)
    def make_room(self, which: int) -> None:
        log = self.logs[which]

        async def run() -> bool:
            made = False
            self.store.stuck = trio.Event()

            async def make() -> None:
                nonlocal made
                await log.make_room()
                made = True
                self.store.stuck.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(make)
                with trio.fail_after(PATIENCE):
                    await self.store.stuck.wait()
                nursery.cancel_scope.cancel()
            return made

        if trio.run(run):
            assert log.resident <= JOB_MEMORY
            assert self.store.resident <= MEMORY
        else:
            assert self.overflow is Overflow.BLOCK
        assert not log.waiting

    @rule(which=WHICH)
    def spill(self, which: int) -> None:
        log = self.logs[which]
        if not self.removed[which]:
            trio.run(log.spill, self.store._files, self.store.room)

    @rule(which=WHICH)
    def drop(self, which: int) -> None:
        log = self.logs[which]
        before = log.dropped
        assert log.drop() == (log.dropped > before)

    @rule(which=WHICH)
    def close(self, which: int) -> None:
        self.logs[which].close()

    @rule(which=WHICH)
    def remove(self, which: int) -> None:
        self.logs[which].close()
        self.logs[which].remove()
        self.removed[which] = True

    @rule(which=WHICH, share=st.floats(0, 1), only=st.none() | STREAMS, most=SIZES)
    def follow(self, which: int, share: float, only: int | None, most: int) -> None:
        log = self.logs[which]
        leave = log.subscribe()
        bell = leave.__enter__()
        reader = Reader(log, int(share * log.size), only)
        self.followers.append(Follower(which, reader, bell, leave, only, most))

    @precondition(lambda self: self.followers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        follower = self.followers.pop(data.draw(st.integers(0, len(self.followers) - 1)))
        follower.leave.__exit__(None, None, None)  # type: ignore[attr-defined]

    @precondition(lambda self: self.followers)
    @rule(data=st.data(), pause=st.booleans())
    def read(self, data: st.DataObject, pause: bool) -> None:
        follower = self.followers[data.draw(st.integers(0, len(self.followers) - 1))]
        log, reader, which = self.logs[follower.log], follower.reader, follower.log
        if pause:
            reader.close()
        place = reader.offset
        piece = trio.run(reader.next, follower.most)
        streams = self.streams[which]
        if isinstance(piece, Missing):
            assert piece.offset == place < log.dropped
            assert reader.offset == piece.offset + piece.size <= log.dropped
            return
        if piece is None:
            assert reader.offset == log.size
            skipped = streams[place:]
        else:
            end = piece.offset + len(piece.data)
            assert reader.offset == end
            assert 0 < len(piece.data) <= follower.most
            assert piece.data == self.bytes[which][piece.offset : end]
            assert set(streams[piece.offset : end]) == {piece.stream}
            assert follower.only in (None, piece.stream)
            skipped = streams[place : piece.offset]
        # What was left out was of the other stream.
        assert follower.only not in skipped if follower.only else not skipped

    @invariant()
    def accounts_agree(self) -> None:
        if not hasattr(self, "logs"):
            return
        assert self.store.resident == sum(log.resident for log in self.logs)
        assert self.store.spilled == sum(log.spilled for log in self.logs) <= DISK
        for log, data in zip(self.logs, self.bytes, strict=True):
            assert log.size == len(data)
            assert 0 <= log.dropped <= log.spilled_end <= log.size


class ResumeMachine(RuleBasedStateMachine):
    """A stream over connections that are cut: each byte is taken once, in order, and lies are found out."""

    def __init__(self) -> None:
        super().__init__()
        self.log = bytes(range(256)) * 4
        self.taken = bytearray()
        self.wire: deque[Output | Gap] = deque()
        self.cursor: int | None = None

    @initialize(offset=st.integers(0, 1024), tail=st.none() | st.integers(0, 1024))
    def begin(self, offset: int, tail: int | None) -> None:
        self.start = offset if tail is None else 1024 - tail
        self.place = Place(StreamParams("a", offset if tail is None else 0, tail_bytes=tail))
        self.tail = tail
        self.connect()

    def connect(self) -> None:
        params = self.place.params()
        if self.place.offset is None:
            assert params.tail_bytes == self.tail  # nothing has come: the same again
            self.cursor = 1024 - (self.tail or 0)
        else:
            assert (params.tail_bytes, params.tail_lines, params.since) == (None, None, None)
            self.cursor = params.offset

    @rule(size=st.integers(1, 100), gap=st.booleans())
    def server_sends(self, size: int, gap: bool) -> None:
        if self.cursor is None or not (data := self.log[self.cursor : self.cursor + size]):
            return
        if gap:
            self.wire.append(Gap(1, self.cursor, len(data), GapReason.DROPPED))
        else:
            self.wire.append(Output(1, self.cursor, STDOUT, data))
        self.cursor += len(data)

    @precondition(lambda self: self.wire)
    @rule()
    def client_takes(self) -> None:
        piece = self.wire.popleft()
        assert piece.offset == self.start + len(self.taken)
        self.place.take(piece)
        self.taken += bytes(piece.size) if isinstance(piece, Gap) else piece.data
        assert self.place.offset == self.start + len(self.taken)

    @rule(keep=st.integers(0, 3))
    def cut(self, keep: int) -> None:
        """What came and was not taken is forgotten with the connection; so is what is on its way."""
        while len(self.wire) > keep:
            self.wire.pop()
        while self.wire:
            self.client_takes()
        self.connect()

    @precondition(lambda self: self.place.offset is not None)
    @rule(by=st.integers(-50, 50).filter(bool), gap=st.booleans())
    def server_lies(self, by: int, gap: bool) -> None:
        place = self.place.offset
        assert place is not None
        if place + by < 0:
            return
        piece = Gap(1, place + by, 5, GapReason.DROPPED) if gap else Output(1, place + by, STDOUT, b"again")
        try:
            self.place.take(piece)
        except RemoteProtocolError:
            assert self.place.offset == place
        else:
            raise AssertionError(f"a piece from byte {place + by} was taken at {place}")


class BackoffMachine(RuleBasedStateMachine):
    """Patience ends, and is renewed only by a connection that was of use."""

    @initialize(patience=st.floats(0, 60))
    def begin(self, patience: float) -> None:
        self.patience = patience
        self.backoff = Backoff(patience)
        self.now = 1000.0
        self.until: float | None = None  # the model's
        self.most = 0.0
        self.fresh = False

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.floats(0, 10), brought=st.booleans())
    def a_connection_is_cut(self, seconds: float, brought: bool) -> None:
        life, opened = Life(self.now), self.now
        if brought:
            life.brought()
        self.now += seconds
        life.ended(self.now)
        assert life.worked == (brought or self.now - opened >= 3.0)  # not `seconds`: the sum is rounded
        self.backoff.cut(self.now, worked=life.worked)
        if life.worked or self.until is None:
            self.until = self.now + self.patience
            self.most, self.fresh = 0.0, True

    @rule()
    def it_asks_when_to_try(self) -> None:
        pause = self.backoff.pause(self.now)
        if self.until is None or self.now >= self.until:
            assert pause is None
            return
        assert pause is not None
        assert pause == 0 if self.fresh else 0 <= pause <= LONGEST_PAUSE
        assert self.now + pause <= self.until + 1e-9
        assert pause <= max(FIRST_PAUSE, self.most * 4)
        self.fresh, self.most = False, max(self.most, pause, FIRST_PAUSE)
        self.now += pause

    @rule()
    def it_gives_up(self) -> None:
        self.backoff.give_up()
        self.until = None


class CreditMachine(RuleBasedStateMachine):
    """Bytes within a window: never more than was granted, and a stream that is read can always go on."""

    @initialize(window=st.integers(0, 1000) | st.just(MAX_CREDIT))
    def begin(self, window: int) -> None:
        self.sender, self.receiver = SendCredit(window), ReceiveCredit(window)
        self.window = window
        self.flying, self.held, self.grants = 0, 0, deque[int]()
        self.extra = 0

    @rule(share=st.floats(0, 1))
    def send(self, share: float) -> None:
        amount = int(self.sender.available * share)
        self.sender.spend(amount)
        self.flying += amount

    @rule(more=st.integers(1, 100))
    def send_too_much(self, more: int) -> None:
        before = self.sender.available
        try:
            self.sender.spend(before + more)
        except LocalProtocolError:
            assert self.sender.available == before
        else:
            raise AssertionError("more was sent than was granted")

    @rule(share=st.floats(0, 1))
    def arrive(self, share: float) -> None:
        amount = int(self.flying * share)
        self.receiver.received(amount)  # RemoteProtocolError fails the test
        self.flying, self.held = self.flying - amount, self.held + amount

    @rule(share=st.floats(0, 1))
    def consume(self, share: float) -> None:
        self.take(int(self.held * share))

    def take(self, amount: int) -> None:
        self.held -= amount
        if grant := self.receiver.consumed(amount):
            self.receiver.grant(grant)
            self.grants.append(grant)

    @precondition(lambda self: self.grants)
    @rule()
    def grant_arrives(self) -> None:
        self.sender.grant(self.grants.popleft())

    @rule()
    def all_comes_in_and_is_read(self) -> None:
        self.arrive(1.0)
        self.take(self.held)
        while self.grants:
            self.grant_arrives()
        assert self.sender.available > self.window // 2 - 1 or not self.window

    @invariant()
    def the_window_holds(self) -> None:
        if hasattr(self, "sender"):
            assert self.sender.available + self.flying + self.held + sum(self.grants) <= self.window


MACHINES: dict[str, type[RuleBasedStateMachine]] = {
    "conversation": Conversation,
    "log": AnyHistoryAnyReaders,
    "store": StoreMachine,
    "resume": ResumeMachine,
    "backoff": BackoffMachine,
    "credit": CreditMachine,
}
