"""Who gets in, who is dropped, and in which order turns are given."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial

import pytest
import trio
import trio.testing

from certs.roles import Identity, Role
from tests.harness import PATIENCE
from tests.worker.common import KeptLog
from wire.errors import ErrorCode, RequestError
from worker import gate as gate_module
from worker.bounds import DEFAULTS, Bounds
from worker.gate import Gate, Visit, source_of
from worker.tally import PERIOD
from worker.turns import Turns

ALICE, BOB = (Identity(name, "01", Role.ADMIN) for name in ("alice", "bob"))


@pytest.fixture
def gate(log: KeptLog) -> Gate:
    return Gate(
        Bounds(max_waiting=4, max_handshakes=3, max_connections=3, max_connections_per_identity=2), log
    )


@contextmanager
def visiting(gate: Gate, host: str) -> Iterator[Visit]:
    """A connection from its accept to its end."""
    visit = gate.arrive(host)
    with gate.attend(visit):
        yield visit


def coming(gate: Gate, stack: ExitStack, name: str, role: Role = Role.ADMIN) -> ExitStack:
    """A connection that gets in; it ends with what is returned, or with the stack."""
    with ExitStack() as one:
        gate.admit(one.enter_context(visiting(gate, "192.0.2.1")), Identity(name, "01", role))
        return stack.enter_context(one.pop_all())


@asynccontextmanager
async def running(gate: Gate) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.run)
        yield
        nursery.cancel_scope.cancel()


# --- short of the hello


async def test_a_flood_drops_its_own_oldest_and_nobody_elses(gate: Gate, log: KeptLog) -> None:
    await trio.lowlevel.checkpoint()
    with ExitStack() as stack:
        honest = stack.enter_context(visiting(gate, "192.0.2.1"))
        flood = [stack.enter_context(visiting(gate, "192.0.2.9")) for _ in range(6)]
        assert [visit.dropped for visit in flood] == [True, True, True, False, False, False]
        assert not honest.dropped
        gate.admit(honest, ALICE)
    told = [line for line in log.lines if line["message"].startswith("connections were dropped")]
    assert [(line["times"], line["source"]) for line in told] == [(1, "192.0.2.9")]


async def test_the_newest_gets_in_behind_one_address(gate: Gate) -> None:
    await trio.lowlevel.checkpoint()
    with ExitStack() as stack:
        for _ in range(100):
            visit = stack.enter_context(visiting(gate, "192.0.2.9"))
            assert not visit.dropped


async def test_many_sources_drop_the_oldest_of_all(gate: Gate) -> None:
    await trio.lowlevel.checkpoint()
    with ExitStack() as stack:
        visits = [stack.enter_context(visiting(gate, f"192.0.2.{number}")) for number in range(6)]
        assert [visit.dropped for visit in visits] == [True, True, False, False, False, False]


async def test_those_who_wait_push_out_nobody_whose_handshake_is_under_way(gate: Gate) -> None:
    await trio.lowlevel.checkpoint()
    with ExitStack() as stack:
        begun = [stack.enter_context(visiting(gate, "192.0.2.9")) for _ in range(3)]
        for visit in begun:
            gate.begin(visit)
        waiting = [stack.enter_context(visiting(gate, "192.0.2.9")) for _ in range(6)]
        assert not any(visit.dropped for visit in begun)
        assert [visit.dropped for visit in waiting] == [True, True, False, False, False, False]
        gate.begin(waiting[-1])
        assert [visit.dropped for visit in begun] == [True, False, False]
        assert not waiting[-1].dropped


async def test_a_dropped_visit_ends_where_it_waits(gate: Gate) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def stall() -> None:
                with visiting(gate, "192.0.2.9"):
                    await trio.sleep_forever()

            for _ in range(4):
                nursery.start_soon(stall)
            await trio.testing.wait_all_tasks_blocked()
            with visiting(gate, "192.0.2.9"):
                await trio.testing.wait_all_tasks_blocked()
                assert len(nursery.child_tasks) == 3
            nursery.cancel_scope.cancel()


async def test_who_is_late_is_dropped_a_few_at_a_time(
    log: KeptLog, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "_LATE_AT_ONCE", 2)
    gate = Gate(Bounds(handshake_timeout=5), log)
    ended: list[float] = []
    visits: list[Visit] = []

    async def stall() -> None:
        with visiting(gate, "192.0.2.9") as visit:
            visits.append(visit)
            await trio.sleep_forever()
        ended.append(trio.current_time())

    async with running(gate), trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        for _ in range(5):
            nursery.start_soon(stall)
        await trio.sleep(3)
        with visiting(gate, "192.0.2.1") as alice:
            gate.admit(alice, ALICE)
            await trio.sleep(100)
            assert not alice.dropped
    assert ended == [start + 5] * 5
    assert all(visit.late for visit in visits)


async def test_one_that_arrives_and_ends_in_one_step_ends_nothing_else(gate: Gate) -> None:
    with trio.fail_after(PATIENCE):
        async with running(gate):
            await trio.testing.wait_all_tasks_blocked()
            with visiting(gate, "192.0.2.9"):
                pass
            await trio.testing.wait_all_tasks_blocked()


async def test_at_the_end_all_are_dropped_and_those_that_come_yet(gate: Gate) -> None:
    await trio.lowlevel.checkpoint()
    with visiting(gate, "192.0.2.1") as waiting, visiting(gate, "192.0.2.2") as alice:
        gate.admit(alice, ALICE)
        gate.drop_all()
        with visiting(gate, "192.0.2.3") as late:
            assert waiting.dropped
            assert late.dropped
            assert not alice.dropped


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("gone", "gone"),
    ],
)
def test_what_counts_as_one_source(host: str, source: str) -> None:
    assert source_of(host) == source


# --- past it


async def test_too_many_of_one_identity_and_in_all(gate: Gate) -> None:
    await trio.lowlevel.checkpoint()
    with ExitStack() as stack:
        come = partial(coming, gate, stack)
        come("alice")
        come("alice")
        with pytest.raises(RequestError, match=r"alice has 2 .*--max-connections-per-identity") as caught:
            come("alice")
        assert caught.value.code is ErrorCode.BUSY
        bob = come("bob")
        with pytest.raises(RequestError, match=r"The server has 3 connections, and takes no more: .*"):
            come("carol")
        bob.close()
        come("carol")


async def test_users_leave_the_last_places_to_admins(log: KeptLog) -> None:
    await trio.lowlevel.checkpoint()
    gate = Gate(Bounds(max_connections=16, max_connections_per_identity=4), log)
    with ExitStack() as stack:
        come = partial(coming, gate, stack)
        for number in range(14):
            come(f"user {number // 4}", Role.USER)
        with pytest.raises(RequestError, match=r"has 14 connections, and keeps its last 2 for Adm") as caught:
            come("another", Role.USER)
        assert caught.value.code is ErrorCode.BUSY
        come("alice")
        come("alice")
        with pytest.raises(RequestError, match="has 16 connections, and takes no more"):
            come("alice")
    assert DEFAULTS.kept_for_admins >= 1
    assert Bounds(max_connections=2).kept_for_admins == 1
    assert Bounds(max_connections=1).kept_for_admins == 0


async def test_a_user_with_an_admins_name_takes_nothing_of_the_admins_share(log: KeptLog) -> None:
    await trio.lowlevel.checkpoint()
    gate = Gate(Bounds(max_connections_per_identity=2), log)
    with ExitStack() as stack:
        come = partial(coming, gate, stack)
        for role in (Role.USER, Role.ADMIN):
            come("alice", role)
            come("alice", role)
            with pytest.raises(RequestError, match="alice has 2"):
                come("alice", role)


async def test_tellings_are_counted_and_spaced(log: KeptLog, autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate(Bounds(max_connections=1), log)
    with visiting(gate, "192.0.2.1") as alice:
        gate.admit(alice, ALICE)
        for pause in (0, 0, PERIOD):
            await trio.sleep(pause)
            with visiting(gate, "192.0.2.1") as other, pytest.raises(RequestError):
                gate.admit(other, BOB)
    assert [line["times"] for line in log.lines] == [1, 2]


# --- turns


class Rounds(trio.abc.Instrument):
    """Counts how often the event loop came round."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        """Called by Trio."""
        self.count += 1


async def test_turns_go_round_the_sources_and_one_at_a_time() -> None:
    turns, rounds = Turns(), Rounds()
    got: list[tuple[str, int]] = []

    async def want(source: str) -> None:
        await turns.take(source)
        got.append((source, rounds.count))

    trio.lowlevel.add_instrument(rounds)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as running:
            async with trio.open_nursery() as nursery:
                for source in "aaaabbc":
                    nursery.start_soon(want, source)
                    await trio.testing.wait_all_tasks_blocked()
                running.start_soon(turns.run)
            running.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(rounds)
    assert "".join(source for source, _ in got) == "aabacba"  # new sources and the rest by turns
    assert len({count for _, count in got}) == 7


async def test_who_gives_up_takes_no_turn() -> None:
    turns = Turns()
    with trio.fail_after(PATIENCE):
        with trio.move_on_after(0) as scope:
            await turns.take("a")
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            await turns.take("b")
            await turns.take("a")
            nursery.cancel_scope.cancel()
