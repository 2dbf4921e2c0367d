"""Peers that are newer than we are, with one more of everything: a client, and a server."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import trio

from client import transport
from client.endpoint import Endpoint
from tests.client.either import KINDS, SCHEMES, redialling
from tests.client.fake import HELLO, JOB, FakeServer
from tests.harness import PATIENCE, Server
from wire import codec
from wire.errors import Category, RemoteProtocolError, RequestError
from wire.features import FEATURES
from wire.frames import FrameDecoder, encode_frame
from wire.limits import Limits
from wire.messages import Gap, Output
from wire.payload import pack, unpack

Plain = dict[str, Any]
#: What the newer version has, and we do not.
NEWER: Final = "terminals"


class NewerClient:
    """A client that speaks in plain maps, and is not held to what we know.

    Args:
        server: a real one.
        scheme: what stands before its address.
    """

    def __init__(self, server: Server, scheme: str) -> None:
        endpoint = Endpoint.parse(scheme + server.address)
        self._transport = transport.connect(endpoint, server.certs, "admin")
        self._decoder = FrameDecoder()

    def say(self, type_: str, **fields: object) -> None:
        self._transport.send(encode_frame(pack({"type": type_, **fields})))

    def hear(self) -> Plain:
        while (payload := self._decoder.next_frame()) is None:
            data = self._transport.receive()
            assert data != b"", "the server closed"
            if data is None:
                assert self._transport.wait(PATIENCE), "the server says nothing"
            else:
                self._decoder.receive_data(data)
        return unpack(payload)

    def ask(self, id_: int, method: str, params: Plain, **fields: object) -> Plain:
        """Ask for something, and return the final message."""
        self.say("request", id=id_, method=method, params=params, **fields)
        answer = self.hear()
        assert answer["id"] == id_
        return answer

    def close(self) -> None:
        self._transport.close()


@contextmanager
def newer_client(server: Server, scheme: str) -> Iterator[tuple[NewerClient, Plain]]:
    """A newer client, past both hellos, and the server's."""
    client = NewerClient(server, scheme)
    try:
        hello = client.hear()
        client.say("hello", features=[NEWER, *FEATURES], locale={"language": "eo"})
        yield client, hello
    finally:
        client.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_newer_client_is_told_what_we_do_not_know(server: Server, scheme: str) -> None:
    with newer_client(server, scheme) as (client, hello):
        assert set(hello["features"]) == set(FEATURES)
        assert "attach" not in hello["methods"]
        assert hello["instance"]
        refused = client.ask(1, "attach", {"id": "a"})
        assert (refused["type"], refused["code"]) == ("error", "unknown_method")
        for number, (params, field) in enumerate(
            [
                ({"argv": ["true"], "terminal": {"rows": 24}}, "terminal"),
                ({"argv": ["true"], "limits": {"gpu": 3}}, "limits.gpu"),
            ],
            start=2,
        ):
            refused = client.ask(number, "start", params)
            assert (refused["code"], refused["field"]) == ("bad_request", field)
        refused = client.ask(4, "list", {}, deadline=5)
        assert (refused["code"], refused["field"]) == ("bad_request", "deadline")
        client.say("credit", id=9, amount=1, colour="red")  # of no request of ours, and with one more field
        client.say("ping", nonce=7, colour={"deep": [1]})
        assert client.hear() == {"type": "pong", "nonce": 7}
        assert client.ask(5, "list", {})["type"] == "reply"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_type_that_we_did_not_announce_ends_the_connection(server: Server, scheme: str) -> None:
    with newer_client(server, scheme) as (client, _):
        client.say("resize", id=1, rows=24)
        last = client.hear()
        assert (last["type"], last["id"], last["code"]) == ("error", 0, "protocol")
        assert "unknown message type 'resize'" in last["message"]


def with_more(record: object, **fields: object) -> Plain:
    """A record as plain data, with fields that we do not know."""
    return {**codec.to_map(record), "colour": ["red", {b"deep": None}], **fields}


class NewerServer(FakeServer):
    """A server in memory that speaks in plain maps."""

    def __init__(self, answer: Callable[[Plain], Iterable[Plain]]) -> None:
        super().__init__(hello=None)
        self.asked: list[Plain] = []
        self._newer = answer
        self._decoder = FrameDecoder()
        self.tell({
            "type": "hello", **with_more(HELLO), "role": "Auditor", "features": [NEWER, *FEATURES],
            "methods": ["query", "attach"], "instance": "6f1d",
        })  # fmt: skip

    def tell(self, plain: Plain) -> None:
        self.say_bytes(encode_frame(pack(plain)))

    def take(self, data: bytes) -> None:
        self._decoder.receive_data(data)
        while (payload := self._decoder.next_frame()) is not None:
            self.asked.append(plain := unpack(payload))
            for told in self._newer(plain):
                self.tell(told)


def newer(asked: Plain) -> Iterable[Plain]:
    """What a newer server answers."""
    if asked["type"] == "hello" and NEWER in asked["features"]:
        yield {"type": "resize", "id": 1, "rows": 24}
    if asked["type"] != "request":
        return
    id_ = asked["id"]
    job = with_more(JOB, status="paused", limits={"cpu": 500, "gpu": 3})
    match asked["method"]:
        case "query":
            yield {"type": "reply", "id": id_, "result": {"job": job}, "colour": 1}
        case "list":
            yield {"type": "reply", "id": id_, "result": {"jobs": [job, job], "total": 2}}
        case "wait":
            ended = {**job, "status": "evicted", "ended": 3.5, "cause": {"kind": "quota", "amount": 5}}
            yield {"type": "reply", "id": id_, "result": {"job": ended}}
        case "stream":
            yield {"type": "gap", "id": id_, "offset": 0, "size": 5, "reason": "expired", "colour": 1}
            yield {"type": "output", "id": id_, "offset": 5, "stream": 1, "data": b"rest", "at": 1.5}
            yield {"type": "reply", "id": id_, "result": {"job": {**job, "status": "evicted", "output": 9}}}
        case _:
            yield {
                "type": "error", "id": id_, "code": "quota_exceeded", "message": "Later.",
                "category": "retry", "retry_after": 60, "quota": 5,
            }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_our_clients_take_what_a_newer_server_says(kind: str) -> None:
    server = NewerServer(newer)
    async with redialling(kind, [server]) as client:
        assert (client.hello.role, client.hello.features) == ("Auditor", (NEWER, *FEATURES))
        found = await client.query("0b5c")
        assert found == dataclasses.replace(JOB, status="paused", limits=Limits(cpu=500))
        assert not found.has_ended
        assert await client.list() == (found, found)
        ended = await client.wait("0b5c")
        assert (ended.status, ended.cause and ended.cause.kind, ended.has_ended) == ("evicted", "quota", True)
        with pytest.raises(RequestError, match="Later") as caught:
            await client.start(["true"])
        assert (caught.value.code, caught.value.category) == ("quota_exceeded", Category.RETRY)
        assert caught.value.retry_after == 60
        async with client.stream("0b5c", gaps="yield") as stream:
            gap, rest, end = [await stream.piece() for _ in range(3)]
        assert isinstance(gap, Gap)
        assert (gap.offset, gap.size, gap.reason) == (0, 5, "expired")
        assert isinstance(rest, Output)
        assert (rest.offset, rest.data, end) == (5, b"rest", None)
        assert stream.job.status == "evicted"
    assert server.asked[0] == {"type": "hello", "features": list(FEATURES)}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_type_that_was_not_to_come_ends_the_connection_of_our_clients(kind: str) -> None:
    def resizing(asked: Plain) -> Iterable[Plain]:
        if asked["type"] == "request":
            yield {"type": "resize", "id": asked["id"], "rows": 24}

    async with redialling(kind, [NewerServer(resizing)]) as client:
        with pytest.raises(RemoteProtocolError, match="unknown message type 'resize'"):
            await client.query("0b5c")
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("kind", KINDS)
async def test_our_clients_come_back_after_an_error_whose_category_is_retry(kind: str) -> None:
    def gone(asked: Plain) -> Iterable[Plain]:
        if asked["type"] == "request":
            yield {"type": "error", "id": 0, "code": "maintenance", "message": "Soon.", "category": "retry"}

    async with redialling(kind, [NewerServer(gone), NewerServer(newer)]) as client:
        assert (await client.query("0b5c")).status == "paused"


@pytest.mark.parametrize("kind", KINDS)
async def test_and_not_after_another(kind: str) -> None:
    def gone(asked: Plain) -> Iterable[Plain]:
        if asked["type"] == "request":
            yield {"type": "error", "id": 0, "code": "suspended", "message": "No.", "category": "forbidden"}

    async with redialling(kind, [NewerServer(gone), NewerServer(newer)]) as client:
        with pytest.raises(RequestError, match="No") as caught:
            await client.query("0b5c")
    assert (caught.value.code, caught.value.category) == ("suspended", Category.FORBIDDEN)
