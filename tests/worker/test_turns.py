"""Turns: one a round of the event loop, in rotation between sources, with a pause behind a heavy one."""

import trio
import trio.testing

from worker.turns import ROUNDS, Turns


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the loop."""

    def __init__(self) -> None:
        self.now = 0

    def before_io_wait(self, timeout: float) -> None:
        self.now += 1


async def rounds_of(*wanted: tuple[str, bool]) -> list[tuple[str, int]]:
    """Whose turn came in which round, if all of these wait at once."""
    turns, found, rounds = Turns(), list[tuple[str, int]](), Rounds()
    trio.lowlevel.add_instrument(rounds)

    async def take(source: str, heavy: bool) -> None:
        await turns.take(source, heavy=heavy)
        found.append((source, rounds.now))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as takers:
            for source, heavy in wanted:
                takers.start_soon(take, source, heavy)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(turns.run)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(rounds)
    return found


async def test_each_source_has_its_turn_however_many_another_waits_for() -> None:
    found = await rounds_of(*[("a", False)] * 10, ("b", False))
    assert "b" in [source for source, _ in found[:3]]
    rounds = [at for _, at in found]
    assert len(set(rounds)) == len(rounds)
    assert rounds[-1] - rounds[0] < 2 * len(rounds)


async def test_behind_a_heavy_turn_some_rounds_pass() -> None:
    rounds = [at for _, at in await rounds_of(("a", True), ("b", True), ("a", True))]
    assert rounds[1] - rounds[0] >= ROUNDS
    assert rounds[2] - rounds[1] >= ROUNDS


async def test_who_gives_up_waiting_holds_nobody_up() -> None:
    turns = Turns()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0):
            await turns.take("a")
        nursery.start_soon(turns.run)
        await turns.take("b")
        nursery.cancel_scope.cancel()


async def test_a_turn_that_nobody_waits_for_costs_no_round_and_one_is_given_a_round() -> None:
    turns, rounds, found = Turns(), Rounds(), list[int]()
    trio.lowlevel.add_instrument(rounds)

    async def take() -> None:
        await turns.take("a")
        found.append(rounds.now)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            before = rounds.now
            await take()
            assert rounds.now == before
        await trio.testing.wait_all_tasks_blocked()
        found.clear()
        async with trio.open_nursery() as takers:
            for _ in range(10):
                takers.start_soon(take)
        assert len(set(found)) == 10
        await trio.testing.wait_all_tasks_blocked()
        await turns.take("a", heavy=True)
        before = rounds.now
        await take()
        assert rounds.now >= before + ROUNDS
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(rounds)
