"""One end of a connection: who may say what when, and that no bytes whatever raise anything but its error."""

import tracemalloc
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import messages
from wire.connection import CLOSED, DROPPED, NEED_DATA, Connection, Event, Role, State
from wire.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from wire.flow import MAX_CREDIT
from wire.frames import encode_frame
from wire.messages import (
    STDOUT,
    Cancel,
    ClientHello,
    Credit,
    Failure,
    Hello,
    Message,
    Output,
    Ping,
    Pong,
    Reply,
    Request,
    encode_message,
)
from wire.payload import pack

HELLO: Final = Hello(1, "worker-service/test", "alice", "Admin", 4 * 2**20, 64)
REFUSAL: Final = Failure(0, ErrorCode.DENIED, "no role")
ANY_MESSAGE = st.one_of(*map(st.from_type, (*messages.TYPES.values(), ClientHello)))


def drain(connection: Connection) -> list[Event]:
    """Every event up to the signal that ends them, which is included."""
    events = [connection.next_event()]
    while events[-1] not in (NEED_DATA, CLOSED):
        events.append(connection.next_event())
    return events


def opened() -> tuple[Connection, Connection]:
    """A client and a server past the hello."""
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    client.receive_data(server.send(HELLO))
    assert drain(client) == [HELLO, NEED_DATA]
    return client, server


def streaming(credit: int = 100) -> tuple[Connection, Connection]:
    """A client and a server with request 1 open."""
    client, server = opened()
    server.receive_data(client.send(Request(1, "stream", {"id": "a"}, credit)))
    assert isinstance(server.next_event(), Request)
    return client, server


def end_of(role: Role, *, is_open: bool) -> Connection:
    client, server = opened()
    if not is_open:
        return Connection(role)
    for id_ in (1, 2, 3):
        server.receive_data(client.send(Request(id_, "stream", {}, 1000)))
    drain(server)
    return client if role is Role.CLIENT else server


def framed(message: Message) -> bytes:
    return encode_frame(encode_message(message))


def feed(connection: Connection, data: bytes) -> None:
    """Give bytes, and hold the connection to its contract about them."""
    try:
        connection.receive_data(data)
        drain(connection)
        connection.receive_data(b"")
        assert drain(connection)[-1] is CLOSED
    except RemoteProtocolError:
        assert connection.state is State.FAILED
        with pytest.raises(RemoteProtocolError):
            connection.next_event()
    assert connection.open_requests == 0


ENDS = pytest.mark.parametrize("is_open", [False, True])
ROLES = pytest.mark.parametrize("role", Role)


@ENDS
@ROLES
@given(data=st.binary(max_size=200))
def test_garbage_raises_only_the_protocol_error(role: Role, is_open: bool, data: bytes) -> None:
    feed(end_of(role, is_open=is_open), data)


@ENDS
@ROLES
@given(payloads=st.lists(st.binary(min_size=1, max_size=60), max_size=4))
def test_framed_garbage_raises_only_the_protocol_error(
    role: Role, is_open: bool, payloads: list[bytes]
) -> None:
    feed(end_of(role, is_open=is_open), b"".join(map(encode_frame, payloads)))


@ENDS
@ROLES
@given(found=st.lists(ANY_MESSAGE, max_size=4))
def test_any_messages_raise_only_the_protocol_error(role: Role, is_open: bool, found: list[Message]) -> None:
    feed(end_of(role, is_open=is_open), b"".join(map(framed, found)))


@ENDS
@ROLES
@given(
    plain=st.fixed_dictionaries(
        {"type": st.sampled_from(sorted(messages.TYPES))},
        optional={
            name: st.one_of(
                st.integers(-1, 4), st.integers(-(2**63), 2**64 - 1), st.floats(), st.none(), st.booleans(),
                st.text(max_size=9), st.binary(max_size=9), st.just([]), st.just({}), st.just({"a": [{}]}),
                st.sampled_from(["stream", "busy", 1, 2]),
            )
            for name in (
                "id", "method", "params", "credit", "result", "code", "message", "offset", "stream", "data",
                "amount", "nonce", "version", "server", "identity", "role", "max_frame", "max_requests",
                "features", "methods", "instance",
            )
        },
    )
)  # fmt: skip
def test_wrong_fields_raise_only_the_protocol_error(
    role: Role, is_open: bool, plain: dict[str, object]
) -> None:
    feed(end_of(role, is_open=is_open), encode_frame(pack(plain)))


@ENDS
@ROLES
@given(message=ANY_MESSAGE, changes=st.lists(st.tuples(st.integers(0), st.binary(max_size=3)), max_size=3))
def test_mutated_frames_raise_only_the_protocol_error(
    role: Role, is_open: bool, message: Message, changes: list[tuple[int, bytes]]
) -> None:
    payload = bytearray(encode_message(message))
    for position, patch in changes:
        at = position % len(payload)
        payload[at : at + 1] = patch
        payload = payload or bytearray(1)
    feed(end_of(role, is_open=is_open), encode_frame(bytes(payload)))


@given(st.data())
def test_any_split_gives_the_same_events(data: st.DataObject) -> None:
    _, sender = streaming(100_000)
    some: st.SearchStrategy[Message] = st.one_of(
        st.from_type(Ping),
        st.from_type(Pong),
        st.builds(Output, st.just(1), st.integers(0, 9), st.just(STDOUT), st.binary(max_size=300)),
    )
    drawn = data.draw(st.lists(some, max_size=8))
    found: list[Message] = [*drawn, Reply(1, {"a": 1})]
    stream = b"".join(map(sender.send, found))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(stream) - 1), max_size=30, unique=True)))
    receiver, _ = streaming(100_000)
    events: list[Event] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        receiver.receive_data(stream[begin:end])
        events += drain(receiver)[:-1]
    assert events == found


def test_one_byte_at_a_time() -> None:
    receiver, sender = streaming()
    for byte in sender.send(Output(1, 0, STDOUT, b"hello")):
        assert receiver.next_event() is NEED_DATA
        receiver.receive_data(bytes([byte]))
    assert receiver.next_event() == Output(1, 0, STDOUT, b"hello")


@pytest.mark.parametrize("connection", [Connection(Role.CLIENT), Connection(Role.SERVER)])
def test_a_giant_header_is_refused_before_its_body(connection: Connection) -> None:
    connection.receive_data(b"\x7f\xff\xff\xff")
    with pytest.raises(RemoteProtocolError, match="a frame of 2147483647 bytes was announced"):
        connection.next_event()
    more = bytes(2**20)
    tracemalloc.start()
    try:
        connection.receive_data(more)
        assert tracemalloc.get_traced_memory()[1] < 10_000  # what still comes is not kept
    finally:
        tracemalloc.stop()
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_only_the_server_speaks_before_the_hello() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    for message in (Request(1, "list"), Ping(1), HELLO):
        with pytest.raises(LocalProtocolError, match="a client may not send"):
            client.send(message)
    for early in (Ping(1), Output(1, 0, STDOUT, b""), Reply(1), Failure(1, ErrorCode.BUSY, "")):
        with pytest.raises(LocalProtocolError):
            server.send(early)
    server.receive_data(framed(Request(1, "list")))
    with pytest.raises(RemoteProtocolError, match="request may not come from a client now"):
        server.next_event()


@pytest.mark.parametrize("message", [HELLO, Request(1, "list"), Credit(1, 1), Cancel(1)])
def test_what_a_server_may_not_send(message: Message) -> None:
    client, server = opened()
    with pytest.raises(LocalProtocolError):
        server.send(message)
    client.receive_data(framed(message))
    with pytest.raises(RemoteProtocolError):
        client.next_event()


@pytest.mark.parametrize("message", [HELLO, Reply(1), REFUSAL, Output(1, 0, STDOUT, b"")])
def test_what_a_client_may_not_send(message: Message) -> None:
    client, server = streaming()
    with pytest.raises(LocalProtocolError):
        client.send(message)
    server.receive_data(framed(message))
    with pytest.raises(RemoteProtocolError):
        server.next_event()


def test_a_server_of_another_version_is_refused() -> None:
    client = Connection(Role.CLIENT)
    client.receive_data(framed(Hello(2, "s", "i", "Admin", 100, 1)))
    with pytest.raises(RemoteProtocolError, match="the server speaks version 2, this side 1"):
        client.next_event()


def greeting(*features: str) -> tuple[Connection, Connection]:
    """A client and a server that has announced features."""
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    client.receive_data(server.send(replace(HELLO, features=features)))
    assert isinstance(client.next_event(), Hello)
    return client, server


def test_features_are_those_that_both_announced() -> None:
    client, server = greeting("a", "b", "of a newer server")
    assert client.features == server.features == frozenset()
    server.receive_data(client.send(ClientHello(("b", "of a newer client", "a"))))
    assert server.next_event() == ClientHello(("b", "of a newer client", "a"))
    assert client.features == server.features == {"a", "b"}
    server.receive_data(client.send(Request(1, "list")))
    assert server.next_event() == Request(1, "list")


def test_a_client_need_not_answer_the_hello() -> None:
    client, server = greeting("a")
    server.receive_data(client.send(Request(1, "list")))
    assert server.next_event() == Request(1, "list")
    assert client.features == server.features == frozenset()


def test_a_client_may_announce_nothing() -> None:
    client, server = greeting()
    server.receive_data(client.send(ClientHello()))
    assert server.next_event() == ClientHello()
    assert client.features == server.features == frozenset()


@pytest.mark.parametrize(
    "first", [Request(1, "list"), Ping(1), Credit(7, 1), Cancel(7), ClientHello(("a",))], ids=type
)
def test_a_clients_hello_comes_first_and_once(first: Message) -> None:
    client, server = greeting("a")
    server.receive_data(client.send(first))
    drain(server)
    with pytest.raises(LocalProtocolError, match="a client may not send hello now"):
        client.send(ClientHello())
    server.receive_data(framed(ClientHello()))
    with pytest.raises(RemoteProtocolError, match="hello may not come from a client now"):
        server.next_event()


def test_a_server_without_features_is_sent_no_hello() -> None:
    client, server = opened()
    with pytest.raises(LocalProtocolError, match="a client may not send hello now"):
        client.send(ClientHello())
    server.receive_data(framed(ClientHello()))
    with pytest.raises(RemoteProtocolError, match="hello may not come from a client now"):
        server.next_event()


def test_the_hello_says_how_much_a_client_may_send() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER, max_frame=100)
    client.receive_data(server.send(Hello(1, "s", "i", "Admin", 100, 1)))
    drain(client)
    with pytest.raises(LocalProtocolError, match="1 to 100 bytes"):
        client.send(Request(1, "list", {"x": "y" * 100}))
    assert not client.is_open(1)
    server.receive_data(client.send(Request(1, "list")))
    assert server.next_event() == Request(1, "list")


def test_a_refusal_ends_the_connection_on_both_sides() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    client.receive_data(server.send(REFUSAL))
    assert drain(client) == [REFUSAL, CLOSED]
    for connection in (client, server):
        with pytest.raises(LocalProtocolError):
            connection.send(Ping(1))
    # What the client had sent by then is no offence, and is read so that closing loses nothing.
    server.receive_data(framed(Request(1, "list")) + b"\x00")
    assert drain(server) == [NEED_DATA]
    server.receive_data(b"")
    assert drain(server) == [CLOSED]


def test_an_error_with_id_zero_ends_every_request() -> None:
    client, server = streaming()
    client.receive_data(server.send(Failure(0, ErrorCode.SHUTTING_DOWN, "bye")) + b"\x00garbage")
    assert drain(client) == [Failure(0, ErrorCode.SHUTTING_DOWN, "bye"), CLOSED]
    for connection in (client, server):
        assert (connection.open_requests, connection.credit(1)) == (0, 0)
    assert client.consumed(1, 5) == b""
    client.receive_data(b"x")
    assert client.next_event() is CLOSED


def test_a_server_may_say_what_the_client_did_wrong() -> None:
    client, server = streaming()
    server.receive_data(b"\xff\xff\xff\xff")
    with pytest.raises(RemoteProtocolError) as caught:
        server.next_event()
    with pytest.raises(LocalProtocolError):
        server.send(Reply(1))
    with pytest.raises(LocalProtocolError):
        server.send(Failure(1, ErrorCode.PROTOCOL, "for one request"))
    last = Failure(0, ErrorCode.PROTOCOL, str(caught.value))
    client.receive_data(server.send(last))
    assert drain(client) == [last, CLOSED]
    with pytest.raises(RemoteProtocolError):
        server.next_event()


def test_a_client_that_was_cut_may_still_consume() -> None:
    client, server = streaming(10)
    client.receive_data(server.send(Output(1, 0, STDOUT, b"0123456789")))
    client.receive_data(b"")
    assert drain(client) == [Output(1, 0, STDOUT, b"0123456789"), CLOSED]
    assert not client.is_open(1)
    assert client.consumed(1, 10) == b""


def test_a_cut_within_a_frame_is_not_an_end() -> None:
    client, server = streaming()
    client.receive_data(server.send(Reply(1))[:-1])
    client.receive_data(b"")
    with pytest.raises(RemoteProtocolError, match="cut in the middle of a frame"):
        client.next_event()


def test_request_ids() -> None:
    client, server = streaming()
    for id_ in (0, 1):
        with pytest.raises(LocalProtocolError, match="zero or in use"):
            client.send(Request(id_, "list"))
    client.receive_data(server.send(Reply(1)))
    assert client.next_event() == Reply(1)
    server.receive_data(client.send(Request(1, "list")))  # an id that has ended may be used again
    assert server.next_event() == Request(1, "list")
    server.receive_data(framed(Request(1, "list")))
    with pytest.raises(RemoteProtocolError, match="zero or in use"):
        server.next_event()


def test_one_final_message() -> None:
    client, server = streaming()
    final = server.send(Failure(1, ErrorCode.CANCELLED, "as asked"))
    for message in (Reply(1), Failure(1, ErrorCode.INTERNAL, ""), Output(1, 0, STDOUT, b"")):
        with pytest.raises(LocalProtocolError, match="request 1 is not open"):
            server.send(message)
    client.receive_data(final)
    assert isinstance(client.next_event(), Failure)
    client.receive_data(framed(Output(1, 0, STDOUT, b"x")))
    with pytest.raises(RemoteProtocolError, match="output came for request 1, which is not open"):
        client.next_event()


def test_what_crosses_the_final_message_is_dropped() -> None:
    client, server = streaming()
    late = client.send(Credit(1, 5)) + client.send(Cancel(1))
    client.receive_data(server.send(Reply(1)))
    drain(client)
    server.receive_data(late + client.send(Cancel(77)) + client.send(Ping(3)))
    assert drain(server) == [DROPPED, DROPPED, DROPPED, Ping(3), NEED_DATA]


def test_a_cancel_of_an_open_request_is_told() -> None:
    client, server = streaming()
    server.receive_data(client.send(Cancel(1)))
    assert server.next_event() == Cancel(1)
    assert server.is_open(1)


def test_output_stays_within_its_credit() -> None:
    client, server = streaming(10)
    assert server.credit(1) == 10
    with pytest.raises(LocalProtocolError, match="11 bytes would exceed the credit of 10"):
        server.send(Output(1, 0, STDOUT, b"x" * 11))
    client.receive_data(framed(Output(1, 0, STDOUT, b"x" * 11)))
    with pytest.raises(RemoteProtocolError, match="11 bytes of output came with a credit of 10"):
        client.next_event()


def test_credit_that_the_client_sends_itself_counts() -> None:
    client, server = streaming(0)
    server.receive_data(client.send(Credit(1, 7)))
    assert server.next_event() == Credit(1, 7)
    client.receive_data(server.send(Output(1, 0, STDOUT, b"x" * 7)))
    assert isinstance(client.next_event(), Output)
    server.receive_data(client.consumed(1, 7))
    assert server.next_event() == Credit(1, 7)


def test_credit_beyond_the_ceiling_ends_the_connection() -> None:
    client, server = streaming(MAX_CREDIT)
    with pytest.raises(LocalProtocolError, match="may not pass"):
        client.send(Credit(1, 1))
    with pytest.raises(LocalProtocolError, match="may not pass"):
        client.send(Request(2, "stream", {}, MAX_CREDIT + 1))
    assert not client.is_open(2)
    server.receive_data(framed(Credit(1, 1)))
    with pytest.raises(RemoteProtocolError, match="may not pass"):
        server.next_event()


def test_a_refused_send_changes_nothing() -> None:
    client, _ = opened()
    with pytest.raises(LocalProtocolError):
        client.send(Request(1, "start", {"argv": object()}))
    assert not client.is_open(1)
