"""A client and a server joined in memory, their bytes delayed and split at will, against a model.

The model knows only bytes granted, sent, received and consumed of each stream. It must agree with both
ends about what is open and how much credit there is, and never find a stream that cannot go on.
"""

from collections import deque
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wire.connection import NEED_DATA, Connection, Role, Signal
from wire.errors import ErrorCode
from wire.messages import (
    STDERR,
    STDOUT,
    Cancel,
    Credit,
    Failure,
    Hello,
    Message,
    Output,
    Ping,
    Pong,
    Reply,
    Request,
    decode_message,
)

HELLO = Hello(1, "worker-service/test", "alice", "Admin", 4 * 2**20, 64)
IDS = st.integers(1, 4)
SHARE = st.floats(0, 1)


@dataclass(eq=False)
class Stream:
    """What the model knows of one request; amounts in bytes of output."""

    granted: int  # by the client, in transit or not
    arrived: int = 0  # of that, what the server has
    sent: int = 0
    received: int = 0
    consumed: int = 0
    cancelled: bool = False


class Conversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.client, self.server = Connection(Role.CLIENT), Connection(Role.SERVER)
        self.to_client, self.to_server = bytearray(), bytearray()
        self.at_client: dict[int, Stream] = {}
        self.at_server: dict[int, Stream] = {}
        self.pings: deque[int] = deque()

    def client_sends(self, message: Message) -> None:
        self.to_server += self.client.send(message)

    def server_sends(self, message: Message) -> None:
        self.to_client += self.server.send(message)

    @initialize()
    def hello(self) -> None:
        self.server_sends(HELLO)
        self.deliver_to_client(1.0)

    @rule(id_=IDS, credit=st.integers(0, 300))
    def open(self, id_: int, credit: int) -> None:
        if id_ not in self.at_client:
            self.client_sends(Request(id_, "stream", {"id": "a"}, credit))
            self.at_client[id_] = Stream(granted=credit)

    @precondition(lambda self: self.at_server)
    @rule(data=st.data(), share=SHARE, stream=st.sampled_from([STDOUT, STDERR]))
    def output(self, data: st.DataObject, share: float, stream: int) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.at_server)))
        found = self.at_server[id_]
        amount = round(share * self.server.credit(id_))
        piece = bytes((found.sent + i) % 251 for i in range(amount))
        self.server_sends(Output(id_, found.sent, stream, piece))
        found.sent += amount

    @precondition(lambda self: self.at_client)
    @rule(data=st.data(), share=SHARE)
    def consume(self, data: st.DataObject, share: float) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.at_client)))
        found = self.at_client[id_]
        self.take(id_, round(share * (found.received - found.consumed)))

    def take(self, id_: int, amount: int) -> None:
        found = self.at_client[id_]
        found.consumed += amount
        if frame := self.client.consumed(id_, amount):
            credit = decode_message(frame[4:])
            assert isinstance(credit, Credit)
            found.granted += credit.amount
            self.to_server += frame

    @precondition(lambda self: self.at_client)
    @rule(data=st.data(), amount=st.integers(0, 100))
    def grant_more(self, data: st.DataObject, amount: int) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.at_client)))
        self.client_sends(Credit(id_, amount))
        self.at_client[id_].granted += amount

    @rule(id_=IDS)
    def cancel(self, id_: int) -> None:
        self.client_sends(Cancel(id_))  # also of what has ended, or never was

    @precondition(lambda self: self.at_server)
    @rule(data=st.data(), succeeds=st.booleans())
    def finish(self, data: st.DataObject, succeeds: bool) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.at_server)))
        found = self.at_server.pop(id_)
        if found.cancelled:
            self.server_sends(Failure(id_, ErrorCode.CANCELLED, "as asked"))
        else:
            self.server_sends(Reply(id_) if succeeds else Failure(id_, ErrorCode.INTERNAL, "oh"))

    @rule(nonce=st.integers(0, 99))
    def ping(self, nonce: int) -> None:
        self.client_sends(Ping(nonce))
        self.pings.append(nonce)

    @rule(share=SHARE)
    def deliver_to_client(self, share: float) -> None:
        amount = round(share * len(self.to_client))
        if not amount:
            return
        self.client.receive_data(self.to_client[:amount])
        del self.to_client[:amount]
        while (event := self.client.next_event()) is not NEED_DATA:
            match event:
                case Output(id_, offset, _, data):
                    found = self.at_client[id_]
                    assert offset == found.received
                    assert data == bytes((offset + i) % 251 for i in range(len(data)))
                    found.received += len(data)
                case Reply(id_) | Failure(id_):
                    found = self.at_client.pop(id_)
                    assert found.received == found.sent  # nothing is lost, nothing comes later
                case Pong(nonce):
                    assert nonce == self.pings.popleft()
                case _:
                    assert event == HELLO

    @rule(share=SHARE)
    def deliver_to_server(self, share: float) -> None:
        amount = round(share * len(self.to_server))
        if not amount:
            return
        self.server.receive_data(self.to_server[:amount])
        del self.to_server[:amount]
        while (event := self.server.next_event()) is not NEED_DATA:
            match event:
                case Signal.DROPPED:
                    pass
                case Request(id_, credit=credit):
                    found = self.at_server[id_] = self.at_client[id_]
                    found.arrived += credit
                case Credit(id_, amount):
                    self.at_server[id_].arrived += amount
                case Cancel(id_):
                    self.at_server[id_].cancelled = True
                case _:
                    assert isinstance(event, Ping)
                    self.server_sends(Pong(event.nonce))

    @rule()
    def settle(self) -> None:
        """Deliver everything and consume everything: every stream that had a window can go on."""
        self.deliver_to_server(1.0)
        self.deliver_to_client(1.0)
        for id_, found in self.at_client.items():
            self.take(id_, found.received - found.consumed)
        self.deliver_to_server(1.0)
        self.deliver_to_client(1.0)
        assert not self.pings
        assert self.at_client == self.at_server
        for id_, found in self.at_client.items():
            assert self.server.credit(id_) > 0 or found.granted == 0

    @invariant()
    def both_ends_agree_with_the_model(self) -> None:
        for end, model in ((self.client, self.at_client), (self.server, self.at_server)):
            assert end.open_requests == len(model)
            assert [id_ for id_ in range(6) if end.is_open(id_)] == sorted(model)
        for id_, found in self.at_server.items():
            assert self.server.credit(id_) == found.arrived - found.sent

    @invariant()
    def credit_is_never_exceeded(self) -> None:
        for found in (*self.at_client.values(), *self.at_server.values()):
            assert found.consumed <= found.received <= found.sent <= found.arrived <= found.granted

    def teardown(self) -> None:
        self.settle()


Conversation.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestConversation = Conversation.TestCase
