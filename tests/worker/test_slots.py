"""Who gets a slot next, and that none is lost to whoever gives up."""

import pytest
import trio
import trio.testing

from tests.harness import PATIENCE
from worker.slots import Slots


async def test_sources_take_turns() -> None:
    slots, order = Slots(1), list[str]()

    async def one(source: str) -> None:
        async with slots.hold(source, ahead=source == "ping"):
            order.append(source)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await slots.acquire("first")
        for source in (*["many"] * 5, "few", "ping"):
            nursery.start_soon(one, source)
            await trio.testing.wait_all_tasks_blocked()
        assert order == []
        slots.release()
    assert order[0] == "ping"
    assert "few" in order[:4]
    assert len(order) == 7


@pytest.mark.parametrize("given", [False, True])
async def test_no_slot_is_lost_to_a_cancel(given: bool) -> None:
    slots = Slots(1)
    await slots.acquire("one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.acquire, "two")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        if given:  # in the step in which it is cancelled
            slots.release()
    if not given:
        slots.release()
    with trio.fail_after(PATIENCE):
        await slots.acquire("three")
    with trio.move_on_after(0.01) as scope:
        await slots.acquire("four")
    assert scope.cancelled_caught  # there is still one
