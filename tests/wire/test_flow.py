"""Credit: never exceeded, never inflated, and topped up before it runs dry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import LocalProtocolError, RemoteProtocolError
from wire.flow import MAX_CREDIT, ReceiveCredit, SendCredit


@given(st.integers(1, 5000), st.data())
def test_consumption_always_leads_to_credit(window: int, data: st.DataObject) -> None:
    sender, receiver, held = SendCredit(window), ReceiveCredit(window), 0
    for _ in range(data.draw(st.integers(0, 40))):
        amount = data.draw(st.integers(0, sender.available))
        sender.spend(amount)
        receiver.received(amount)
        held += amount
        taken = data.draw(st.integers(0, held))
        held -= taken
        grant = receiver.consumed(taken)
        assert grant == 0 or grant * 2 >= window  # few and large, not one for every piece
        receiver.grant(grant)
        sender.grant(grant)
        assert held + sender.available <= window
        if held == 0:
            assert sender.available > window // 2 or window == 1


def test_credit_is_never_exceeded() -> None:
    sender, receiver = SendCredit(10), ReceiveCredit(10)
    with pytest.raises(LocalProtocolError, match="11 bytes would exceed the credit of 10"):
        sender.spend(11)
    with pytest.raises(RemoteProtocolError, match="11 bytes of output came with a credit of 10"):
        receiver.received(11)
    sender.spend(10)
    receiver.received(10)
    assert sender.available == 0


def test_what_never_came_cannot_be_consumed() -> None:
    receiver = ReceiveCredit(10)
    receiver.received(4)
    for amount in (5, -1):
        with pytest.raises(LocalProtocolError):
            receiver.consumed(amount)
    assert receiver.consumed(4) == 0


def test_an_extra_grant_widens_the_window() -> None:
    receiver = ReceiveCredit(0)
    assert receiver.consumed(0) == 0
    receiver.grant(100)
    receiver.received(100)
    assert receiver.consumed(49) == 0
    assert receiver.consumed(1) == 50


def test_credit_has_a_ceiling() -> None:
    with pytest.raises(RemoteProtocolError, match="may not pass"):
        SendCredit(MAX_CREDIT).grant(1)
    with pytest.raises(LocalProtocolError, match="may not pass"):
        ReceiveCredit(MAX_CREDIT).grant(1)
