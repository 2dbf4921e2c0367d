"""The codec: any record round-trips, and what does not fit is refused with its reason."""

import copy
import dataclasses
import pickle
import tracemalloc
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.examples import JOB
from wire import codec, frames, jobs, messages
from wire.errors import Category, ErrorCode, LocalProtocolError, RemoteProtocolError, RequestError
from wire.limits import Limits
from wire.payload import pack, unpack

RECORDS: tuple[type, ...] = (
    *(value for value in vars(jobs).values() if dataclasses.is_dataclass(value) and isinstance(value, type)),
    *messages.TYPES.values(),
)


def nested(depth: int) -> dict[str, Any]:
    """A map of this depth, itself included."""
    return {"x": nested(depth - 1)} if depth > 1 else {}


def packed(value: object) -> bytes:
    payload = msgpack.packb(value)
    assert isinstance(payload, bytes)
    return payload


@given(st.sampled_from(RECORDS).flatmap(st.from_type))
def test_any_record_survives_the_wire(record: object) -> None:
    assert codec.from_map(type(record), unpack(pack(codec.to_map(record)))) == record


@given(st.one_of(*map(st.from_type, messages.TYPES.values())))
def test_any_message_survives_the_wire(message: messages.Message) -> None:
    assert messages.decode_message(messages.encode_message(message)) == message


def test_unknown_fields_are_ignored_at_every_level() -> None:
    plain = {"kind": "stopped", "by": "admin", "colour": [1, {b"bytes": None}]}
    assert codec.from_map(jobs.Cause, plain) == jobs.Cause(jobs.CauseKind.STOPPED, by="admin")
    payload = packed({"type": "ping", "nonce": 1, "colour": {"deep": [b"er"]}})
    assert messages.decode_message(payload) == messages.Ping(1)
    limited = {"argv": ["sort"], "limits": {"cpu": 500, "gpu": 1}}
    assert codec.from_map(jobs.StartParams, limited) == jobs.StartParams((b"sort",), limits=Limits(cpu=500))


def test_unknown_fields_are_refused_where_that_is_asked_for() -> None:
    plain = {"argv": ["sort"], "limits": {"cpu": 500, "gpu": 1}}
    with pytest.raises(codec.InvalidValueError, match=r"^limits: there is no field 'gpu'$") as caught:
        codec.from_map(jobs.StartParams, plain, strict=True)
    assert caught.value.field == "limits.gpu"
    with pytest.raises(codec.InvalidValueError, match=r"^there is no field 'ar'$") as caught:
        codec.from_map(jobs.StartParams, {**plain, "ar": [1]}, strict=True)
    assert caught.value.field == "ar"
    known = {"argv": ["sort"], "limits": {"cpu": 500, "gpu": None}, "nothing": None}
    assert codec.from_map(jobs.StartParams, known, strict=True).limits == Limits(cpu=500)


def test_an_unknown_field_of_a_request_is_told_and_those_of_other_messages_are_ignored() -> None:
    plain = {"type": "request", "id": 1, "method": "list", "parms": {}, "nothing": None}
    assert messages.decode_message(packed(plain)) == messages.Request(1, "list", unknown="parms")
    assert messages.decode_message(packed({**plain, "parms": None})) == messages.Request(1, "list")
    later = {"amount": 5, "nonce": 7, "features": [], "id": 1, "colour": 1}
    for cls in (messages.ClientHello, messages.Credit, messages.Cancel, messages.Ping, messages.Pong):
        found = messages.decode_message(packed({"type": cls.TYPE, **later}), types=messages.CLIENT_TYPES)
        assert isinstance(found, cls)


def test_an_error_survives_the_wire_and_a_copy() -> None:
    code: ErrorCode | str
    for code, category in (
        (ErrorCode.BUSY, Category.RETRY),
        ("quota", "correct"),
        ("quota", "odd"),
        ("quota", None),
    ):
        told = messages.decode_message(
            messages.encode_message(messages.Failure.of(3, RequestError(code, "No.", category=category)))
        )
        assert isinstance(told, messages.Failure)
        assert (told.error().code, told.error().category) == (code, category)
    error = RequestError(ErrorCode.BAD_REQUEST, "No.", 5, field="limits.cpu", limit="cpu", retry_after=2.5)
    told = messages.decode_message(messages.encode_message(messages.Failure.of(3, error)))
    assert isinstance(told, messages.Failure)
    for same in (told.error(), copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301  # our own
        assert vars(same) == vars(error)
        assert str(same) == "No."


@pytest.mark.parametrize("code", [ErrorCode.BUSY, ErrorCode.AUDIT_UNAVAILABLE])
def test_who_finds_no_room_is_told_when_to_come_again(code: ErrorCode) -> None:
    assert messages.Failure.of(0, RequestError(code, "Later.")).retry_after == 1.0
    assert messages.Failure.of(0, RequestError(code, "Later.", retry_after=7.0)).retry_after == 7.0
    assert messages.Failure.of(0, RequestError(ErrorCode.INTERNAL, "Oh.")).retry_after is None


def test_values_that_we_do_not_know_stay_text() -> None:
    job = codec.from_map(
        jobs.JobStatus, {**codec.to_map(JOB), "status": "queued", "cause": {"kind": "quota"}}
    )
    assert (job.status, job.cause, type(job.status)) == ("queued", jobs.Cause("quota"), str)
    plain = {"type": "error", "id": 1, "code": "quota_exceeded", "message": "m", "category": "retry"}
    failure = messages.decode_message(packed(plain))
    assert isinstance(failure, messages.Failure)
    assert (failure.code, failure.category) == ("quota_exceeded", Category.RETRY)
    plain = {"type": "gap", "id": 1, "offset": 0, "size": 1, "reason": "expired"}
    assert messages.decode_message(packed(plain)) == messages.Gap(1, 0, 1, "expired")
    for kind in jobs.CauseKind:
        assert codec.from_map(jobs.Cause, {"kind": str(kind)}).kind is kind


@pytest.mark.parametrize(
    ("status", "ended", "has_ended"),
    [
        (jobs.Status.RUNNING, None, False),
        ("queued", None, False),
        ("evicted", 5.0, True),
        (jobs.Status.EXITED, 5.0, True),
        (jobs.Status.SIGNALED, None, True),
    ],
)
def test_whether_a_job_has_ended_is_known_whatever_its_status(
    status: str, ended: float | None, has_ended: bool
) -> None:
    assert dataclasses.replace(JOB, status=status, ended=ended).has_ended is has_ended


def test_nil_is_the_same_as_absent() -> None:
    assert codec.from_map(jobs.StreamParams, {"id": "a", "offset": None}) == jobs.StreamParams("a")
    with pytest.raises(codec.InvalidValueError, match=r"^id is missing$"):
        codec.from_map(jobs.StreamParams, {"id": None})
    assert codec.to_map(jobs.StopParams("a")) == {"id": "a"}


def test_text_is_taken_where_binary_is_wanted() -> None:
    plain = {"argv": ["é", b"\xff"], "env": {"A": "b", b"C": b"d"}}
    assert codec.from_map(jobs.StartParams, plain) == jobs.StartParams(
        ("é".encode(), b"\xff"), env={b"A": b"b", b"C": b"d"}
    )


@pytest.mark.parametrize(
    ("record", "plain", "sentence"),
    [
        (jobs.StartParams, {}, "argv is missing"),
        (jobs.StartParams, {"argv": "sort"}, "argv: must be an array"),
        (jobs.StartParams, {"argv": [1]}, "argv: must be binary or text"),
        (jobs.StartParams, {"argv": [], "env": []}, "env: must be a map"),
        (jobs.StartParams, {"argv": [], "env": {"A": 1}}, "env: must be binary or text"),
        (jobs.StartParams, {"argv": [], "merge": 1}, "merge: must be true or false"),
        (jobs.StartParams, {"argv": [], "timeout": float("nan")}, "timeout: must be a finite number"),
        (jobs.StartParams, {"argv": [], "timeout": float("inf")}, "timeout: must be a finite number"),
        (jobs.StartParams, {"argv": [], "timeout": True}, "timeout: must be a finite number"),
        (jobs.StartParams, {"argv": [], "limits": 5}, "limits: must be a map with text keys"),
        (
            jobs.StartParams,
            {"argv": [], "limits": {"cpu": -1}},
            "limits: cpu: must be a whole number from 0 to 2^63 - 1",
        ),
        (jobs.StreamParams, {"id": b"a"}, "id: must be text"),
        (
            jobs.StreamParams,
            {"id": "a", "offset": 2**63},
            "offset: must be a whole number from 0 to 2^63 - 1",
        ),
        (jobs.StreamParams, {"id": "a", "offset": 1.0}, "offset: must be a whole number from 0 to 2^63 - 1"),
        (jobs.StreamParams, {"id": "a", "offset": True}, "offset: must be a whole number from 0 to 2^63 - 1"),
        (
            jobs.Cause,
            {"kind": []},
            "kind: must be text",
        ),
    ],
)
def test_what_does_not_fit_is_named(record: type, plain: dict[str, Any], sentence: str) -> None:
    with pytest.raises(codec.InvalidValueError) as caught:
        codec.from_map(record, plain)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x81",
        packed([]),
        packed(1),
        packed(None),
        packed({1: 2}),
        packed({b"type": "ping"}),
        packed({"x": {1: 2}}),
        packed({"x": {None: 2}}),
        packed({}) + packed({}),
        b"\x81\xa1x\xa1\xff",  # text that is not UTF-8
        packed({"x": msgpack.ExtType(5, b"")}),
        packed({"x": msgpack.ExtType(5, b"1")}),
        packed({"x": msgpack.ExtType(5, b"12345678")}),
        packed({"x": msgpack.Timestamp(1)}),
        packed({"x": [{"y": msgpack.ExtType(0, b"")}]}),
        packed(nested(17)),
        b"\x91" * 5000,
        packed({"x": [0] * 65_537}),
        packed({"x": {str(i): 0 for i in range(65_537)}}),
        packed({str(i): 0 for i in range(65_537)}),
        b"\x81\xa1x\xdd\x00\x01\x00\x00",  # the header of an array that is not there
        b"\x81\xa1x\xc6\xff\xff\xff\xff",  # and of binary
        packed({"x": [[0] * 65_530 for _ in range(5)]}),
    ],
)
def test_payloads_beyond_the_rules_are_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(payload)


def test_payloads_within_the_caps_are_taken() -> None:
    assert unpack(packed(nested(16))) == nested(16)
    large: list[object] = [[0] * 65_536, {str(i): 0 for i in range(65_536)}, [[{}] * 65_534] * 4]
    for value in large:
        assert unpack(pack({"x": value})) == {"x": value}


def test_four_megabytes_of_tiny_maps_stay_small_here() -> None:
    row = b"\xdd\x00\x01\x00\x00" + b"\x80" * 65_536
    payload = b"\x81\xa1x\xdc\x00\x3f" + row * 63
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="more than 262144 items"):
            unpack(payload)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_headers_of_absent_arrays_reserve_no_memory() -> None:
    payload = b"\xdd\x00\x01\x00\x00" * 100
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            unpack(payload)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [
        {"x": object()},
        {"x": "\ud800"},
        {"x": 2**64},
        {"x": nested(16)},
        {"x": ([0] * 65_537)},
        {"x": tuple([0] * 65_537)},
        {"x": [[0] * 65_530] * 5},
    ],
)
def test_what_the_peer_would_refuse_is_not_sent(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        pack(value)


@pytest.mark.parametrize(
    "message",
    [
        messages.Ping(-1),
        messages.Ping(2**63),
        messages.Request(-1, "list"),
        messages.Request(1, "start", {"argv": [b"x"] * 70_000}),
        messages.Request(1, None),  # type: ignore[arg-type]
        messages.Request(1, "list", {1: 2}),
        messages.Credit(1, -1),
        messages.Output(1, -1, messages.STDOUT, b""),
        messages.Output(1, 0, 3, b""),
        messages.Output(1, 0, messages.STDOUT, 7),  # type: ignore[arg-type]
        messages.Failure(1, 5, "x"),  # type: ignore[arg-type]
    ],
)
def test_a_message_that_the_peer_would_refuse_is_not_sent(message: messages.Message) -> None:
    with pytest.raises(LocalProtocolError):
        messages.encode_message(message)


@pytest.mark.parametrize(
    ("plain", "sentence"),
    [
        ({}, "unknown message type None"),
        ({"type": 1}, "unknown message type 1"),
        ({"type": b"ping", "nonce": 1}, "unknown message type b'ping'"),
        ({"type": "x" * 1000}, "unknown message type '" + "x" * 59),
        ({"type": "ping"}, "ping: nonce is missing"),
        (
            {"type": "output", "id": 1, "offset": 0, "stream": 3, "data": b""},
            "output: stream: must be 1 or 2",
        ),
        (
            {"type": "request", "id": 1, "method": "list", "params": []},
            "params: must be a map with text keys",
        ),
    ],
)
def test_a_message_that_is_none_is_refused(plain: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        messages.decode_message(packed(plain))
    assert str(caught.value).endswith(sentence)


def test_error_codes_are_open() -> None:
    failure = {"type": "error", "id": 1, "code": "tired", "message": "no"}
    assert messages.decode_message(packed(failure)) == messages.Failure(1, "tired", "no")
    assert messages.decode_message(packed(failure | {"code": "busy"})) == messages.Failure(
        1, ErrorCode.BUSY, "no"
    )


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 262_144])
@pytest.mark.parametrize("offset", [0, 127, 2**16, 2**63 - 1])
def test_output_is_framed_as_every_message_is(size: int, offset: int) -> None:
    """It has a way of its own, which copies less."""
    message = messages.Output(7, offset, messages.STDERR, bytes(size))
    assert messages.encode_output(message) == frames.encode_frame(messages.encode_message(message))


@pytest.mark.parametrize("broken", [{"stream": 3}, {"offset": -1}, {"id": 2**64}, {"data": "text"}])
def test_output_that_does_not_fit_is_refused(broken: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"id": 1, "offset": 0, "stream": 1, "data": b"x"} | broken
    if broken.get("data"):
        fields["data"] = 5
    with pytest.raises(LocalProtocolError):
        messages.encode_output(messages.Output(**fields))
