"""The clients' core, sans-IO: bytes in, events out."""

from dataclasses import replace

import pytest

from client.core import Answer, Core, Piece, job_of, page_of
from client.errors import CutError
from tests.client.fake import HELLO, JOB
from wire import codec
from wire.connection import Connection, Role
from wire.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, RequestError
from wire.features import FEATURES
from wire.flow import DEFAULT_WINDOW
from wire.jobs import JobParams, JobReply, ListReply, StreamParams
from wire.messages import (
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
)

RESULT = codec.to_map(JobReply(JOB))


class Pair:
    """A core, past its hello, and the server's end of its connection."""

    def __init__(self, hello: Hello = HELLO) -> None:
        self.core = Core()
        self.server = Connection(Role.SERVER)
        assert self.tell(hello) == []

    def tell(self, *messages: Message) -> list[Answer | Piece]:
        return list(self.core.receive(b"".join(map(self.server.send, messages))))

    def said(self) -> list[object]:
        """What the core has to send."""
        data = self.core.data_to_send()
        if not data:
            return []
        self.server.receive_data(data)
        events: list[object] = []
        while isinstance(event := self.server.next_event(), Message):
            events.append(event)
        return events


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_the_hello_is_kept(pair: Pair) -> None:
    assert pair.core.hello == HELLO


def test_a_hello_without_features_is_not_answered(pair: Pair) -> None:
    assert pair.said() == []
    assert pair.core.features == frozenset()


@pytest.mark.parametrize("features", [(), (*FEATURES, "one of a newer server")])
def test_a_hello_with_features_is_answered_first_of_all(features: tuple[str, ...]) -> None:
    pair = Pair(replace(HELLO, features=features, methods=("query",), instance="6f1d"))
    id_ = pair.core.begin("query", JobParams("x"))
    assert pair.said() == [ClientHello(FEATURES), Request(id_, "query", {"id": "x"})]
    assert pair.core.features == pair.server.features == set(features) & set(FEATURES)


def test_nothing_is_asked_before_the_hello() -> None:
    with pytest.raises(LocalProtocolError):
        Core().begin("query", JobParams("x"))


def test_a_request_and_its_answer(pair: Pair) -> None:
    id_ = pair.core.begin("query", JobParams("x"))
    assert pair.said() == [Request(id_, "query", {"id": "x"})]
    assert pair.tell(Reply(id_, RESULT)) == [Answer(id_, RESULT)]
    assert pair.core.data_to_send() == b""


def test_ids_are_not_used_again(pair: Pair) -> None:
    first = pair.core.begin("query", JobParams("x"))
    pair.said()
    pair.tell(Reply(first, RESULT))
    assert pair.core.begin("query", JobParams("x")) != first


def test_a_refused_request(pair: Pair) -> None:
    id_ = pair.core.begin("query", JobParams("x"))
    pair.said()
    (answer,) = pair.tell(Failure(id_, ErrorCode.NOT_FOUND, "There is none."))
    assert isinstance(answer, Answer)
    assert isinstance(answer.result, RequestError)
    assert (answer.result.code, answer.result.message) == (ErrorCode.NOT_FOUND, "There is none.")


def test_pings_are_answered(pair: Pair) -> None:
    assert pair.tell(Ping(5), Ping(6)) == []
    assert pair.said() == [Pong(5), Pong(6)]


def test_a_ping_of_ours(pair: Pair) -> None:
    pair.core.ping()
    assert pair.said() == [Ping(0)]
    assert pair.tell(Pong(0)) == []


def test_a_stream_gets_credit_back_for_what_was_consumed(pair: Pair) -> None:
    id_ = pair.core.begin("stream", StreamParams("x"))
    (request,) = pair.said()
    assert isinstance(request, Request)
    assert request.credit == DEFAULT_WINDOW
    half = DEFAULT_WINDOW // 2
    first, second = pair.tell(Output(id_, 0, 1, bytes(half)), Output(id_, half, 2, b"e"))
    assert pair.said() == []
    assert isinstance(first, Output)
    assert isinstance(second, Output)
    pair.core.consumed(first)
    assert pair.said() == [Credit(id_, half)]
    pair.core.consumed(second)
    assert pair.said() == []


def test_a_cancelled_request_is_still_answered(pair: Pair) -> None:
    id_ = pair.core.begin("stream", StreamParams("x"))
    pair.core.cancel(id_)
    assert pair.said()[1:] == [Cancel(id_)]
    (output, answer) = pair.tell(Output(id_, 0, 1, b"x"), Failure(id_, ErrorCode.CANCELLED, "As you wish."))
    assert isinstance(answer, Answer)
    pair.core.cancel(id_)
    assert isinstance(output, Output)
    pair.core.consumed(output)
    assert pair.said() == []


def test_the_connection_is_refused() -> None:
    core = Core()
    refusal = Connection(Role.SERVER).send(Failure(0, ErrorCode.DENIED, "You have no role."))
    with pytest.raises(RequestError) as caught:
        list(core.receive(refusal))
    assert (caught.value.code, caught.value.message) == (ErrorCode.DENIED, "You have no role.")


def test_what_came_before_the_end_counts(pair: Pair) -> None:
    id_ = pair.core.begin("query", JobParams("x"))
    pair.said()
    events = []
    data = pair.server.send(Reply(id_, RESULT)) + pair.server.send(
        Failure(0, ErrorCode.SHUTTING_DOWN, "Good night.")
    )
    with pytest.raises(RequestError) as caught:  # noqa: PT012
        for event in pair.core.receive(data):
            events.append(event)  # noqa: PERF402  # they count although the last one raises
    assert events == [Answer(id_, RESULT)]
    assert caught.value.code is ErrorCode.SHUTTING_DOWN
    with pytest.raises(CutError):
        pair.core.begin("query", JobParams("x"))


@pytest.mark.parametrize("garbage", [bytes(4), b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"SSH-2.0-OpenSSH\r\n"])
def test_garbage(pair: Pair, garbage: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(pair.core.receive(garbage))
    with pytest.raises(CutError):
        pair.core.begin("query", JobParams("x"))


@pytest.mark.parametrize("message", [Reply(9, {}), Failure(9, ErrorCode.BUSY, "No."), Output(9, 0, 1, b"x")])
def test_what_answers_no_request(pair: Pair, message: Message) -> None:
    elsewhere = Pair()  # there, a request 9 was heard of
    client = Connection(Role.CLIENT)
    client.receive_data(Connection(Role.SERVER).send(HELLO))
    client.next_event()
    elsewhere.server.receive_data(client.send(Request(9, "stream", {}, 100)))
    elsewhere.server.next_event()
    with pytest.raises(RemoteProtocolError):
        list(pair.core.receive(elsewhere.server.send(message)))


def test_the_server_closes(pair: Pair) -> None:
    with pytest.raises(CutError):
        list(pair.core.receive(b""))
    with pytest.raises(CutError):
        pair.core.begin("query", JobParams("x"))


def test_results_are_read() -> None:
    assert job_of(RESULT) == JOB
    assert page_of(codec.to_map(ListReply((JOB, JOB), next="x"))) == ListReply((JOB, JOB), next="x")


@pytest.mark.parametrize("result", [{}, {"job": 3}, {"job": {"id": "x"}}, {"jobs": {}}, {"jobs": [3]}])
def test_results_that_make_no_sense(result: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        job_of(result)
    with pytest.raises(RemoteProtocolError):
        page_of(result)
