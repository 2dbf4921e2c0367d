"""Values that came later: an older peer is told the nearest that it knows."""

import enum
from dataclasses import replace
from typing import Final

import pytest

from tests.wire.examples import JOB
from wire import values
from wire.connection import NEED_DATA, Connection, Role
from wire.errors import CATEGORIES, Category, ErrorCode, RequestError
from wire.features import FEATURES
from wire.jobs import Cause, CauseKind, JobReply, ListReply, Status
from wire.messages import (
    PROTOCOL_VERSION,
    ClientHello,
    Failure,
    Gap,
    GapReason,
    Hello,
    Message,
    Reply,
    Request,
)

HELLO: Final = Hello(PROTOCOL_VERSION, "s", "alice", "Admin", 2**22, 64, features=FEATURES)
#: The values of the first version 1, which never change.
FIRST: Final[dict[type[enum.Enum], str]] = {
    ErrorCode: (
        "bad_request unknown_method denied revoked expired not_found ambiguous no_such_program "
        "not_executable bad_directory bad_user start_failed limit_refused running stalled busy "
        "audit_unavailable cancelled shutting_down protocol internal"
    ),
    CauseKind: "exited signaled stopped oom timeout lost",
    Status: "running exited signaled",
    GapReason: "dropped unreadable removed",
}


class Later(enum.StrEnum):
    """Values of every kind that came later."""

    QUOTA = "quota"
    EVICTED = "evicted"
    PAUSED = "paused"
    MOVED = "moved"


LATER: Final = {
    Later.QUOTA: ErrorCode.BUSY,
    Later.EVICTED: CauseKind.STOPPED,
    Later.PAUSED: Status.RUNNING,
    Later.MOVED: GapReason.UNREADABLE,
}


@pytest.mark.parametrize("kind", FIRST)
def test_every_value_is_one_of_the_first_or_has_a_nearest_of_those(kind: type[enum.Enum]) -> None:
    first = FIRST[kind].split()
    later = values.NEAREST[kind]
    assert [value.value for value in kind] == [*first, *(value.value for value in later)]
    assert {value.value for value in later.values()} <= set(first)


def test_every_code_has_a_category() -> None:
    assert set(ErrorCode) - set(CATEGORIES) == {ErrorCode.CANCELLED, ErrorCode.INTERNAL}


def told(hello: ClientHello | None) -> list[Message]:
    """What a client reads that has, or has not, said this hello, of messages with values that came later."""
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    client.receive_data(server.send(HELLO))
    assert isinstance(client.next_event(), Hello)
    sent = [client.send(hello)] if hello is not None else []
    sent += [client.send(Request(number, "stream")) for number in (1, 2, 3)]
    server.receive_data(b"".join(sent))
    while server.next_event() is not NEED_DATA:
        pass
    job = replace(JOB, status=Later.PAUSED, cause=Cause(Later.EVICTED))
    client.receive_data(
        server.send(Gap(1, 0, 5, Later.MOVED))
        + server.send(Failure.of(1, RequestError(Later.QUOTA, "No.", category=Category.RETRY)))
        + server.send(Reply(2, server.plain(JobReply(job))))
        + server.send(Reply(3, server.plain(ListReply((job,)))))
    )
    found: list[Message] = []
    while not isinstance(event := client.next_event(), enum.Enum):
        found.append(event)
    return found


@pytest.mark.parametrize("hello", [None, ClientHello(), ClientHello(("a feature of another client",))])
def test_a_client_that_takes_no_others_is_told_the_nearest_of_the_first_ones(
    hello: ClientHello | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "NEAREST", {Later: LATER})
    gap, failure, reply, page = told(hello)
    assert gap == Gap(1, 0, 5, GapReason.UNREADABLE)
    assert isinstance(failure, Failure)
    assert failure.code is ErrorCode.BUSY
    assert isinstance(reply, Reply)
    assert isinstance(page, Reply)
    for job in (reply.result["job"], page.result["jobs"][0]):
        assert (job["status"], job["cause"]["kind"]) == ("running", "stopped")


def test_a_client_with_open_values_is_told_them_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "NEAREST", {Later: LATER})
    gap, failure, reply, _ = told(ClientHello(FEATURES))
    assert gap == Gap(1, 0, 5, "moved")
    assert isinstance(failure, Failure)
    assert (failure.code, failure.error().category) == ("quota", Category.RETRY)
    assert isinstance(reply, Reply)
    assert (reply.result["job"]["status"], reply.result["job"]["cause"]["kind"]) == ("paused", "evicted")
