"""PROTOCOL.md says what the code does: its examples byte for byte, and its tables entry for entry."""

import dataclasses
import re
from pathlib import Path
from typing import Final

import pytest

from wire import codec, flow, frames, jobs, messages
from wire.connection import CLOSED, NEED_DATA, Connection, Role
from wire.errors import ErrorCode
from wire.features import FEATURES
from wire.limits import Limits
from wire.messages import (
    CLIENT_TYPES,
    TYPES,
    Cancel,
    ClientHello,
    Credit,
    Failure,
    Gap,
    Hello,
    Message,
    Output,
    Ping,
    Pong,
    Reply,
    Request,
)
from wire.payload import FROM_LOOKER, FROM_STARTER, MAX_DEPTH, MAX_ITEMS, MAX_TOTAL_ITEMS

PAGE: Final = (Path(__file__).parents[2] / "wire" / "PROTOCOL.md").read_text()
JOB = jobs.JobStatus(
    id="0d9b7e3a-6c1f-4f52-9a58-1be5a6d2c7f4",
    status=jobs.Status.EXITED,
    pid=4242,
    argv=(b"sort", b"largefile.txt"),
    owner="admin",
    started=1767225600.5,
    output=12,
    exit_code=0,
    cause=jobs.Cause(jobs.CauseKind.EXITED),
    ended=1767225601.0,
    limits=Limits(cpu=500),
)
EXAMPLES: dict[str, Message] = {
    "hello": Hello(
        1,
        "worker-service 0.1.0",
        "admin",
        "Admin",
        4_194_304,
        256,
        1767225660.0,
        ("open_values",),
        ("start", "stop", "query", "wait", "list", "stream", "remove"),
        "6f1d1c0a-0f0e-4b62-8a53-3c1c5f8f2b77",
    ),
    "client-hello": ClientHello(("open_values",)),
    "query": Request(1, "query", codec.to_map(jobs.JobParams("0d9b"))),
    "query-reply": Reply(1, codec.to_map(jobs.JobReply(JOB))),
    "query-error": Failure(1, ErrorCode.NOT_FOUND, "There is no job with id '0d9b'."),
    "stream": Request(2, "stream", codec.to_map(jobs.StreamParams("0d9b")), credit=1024),
    "output": Output(2, 0, messages.STDOUT, b"pears\n\xff\xfe\n\0ab"),
    "credit": Credit(2, 12),
    "ping": Ping(7),
    "pong": Pong(7),
    "gap": Gap(2, 12, 100, messages.GapReason.DROPPED),
    "cancel": Cancel(2),
    "cancelled": Failure(2, ErrorCode.CANCELLED, "The request was cancelled."),
}


def printed_examples() -> dict[str, bytes]:
    blocks = re.findall(r"^```hex (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return {name: bytes.fromhex(re.sub(r";.*", "", text)) for name, text in blocks}


def test_every_example_is_there() -> None:
    assert list(printed_examples()) == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_exact(name: str) -> None:
    data, message = printed_examples()[name], EXAMPLES[name]
    assert frames.encode_frame(messages.encode_message(message)) == data
    decoder = frames.FrameDecoder()
    decoder.receive_data(data)
    payload = decoder.next_frame()
    assert payload is not None
    types = CLIENT_TYPES if isinstance(message, ClientHello) else TYPES
    assert messages.decode_message(payload, types=types) == message
    assert decoder.buffered == 0


def test_the_examples_are_one_conversation() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    for name, data in printed_examples().items():
        if name == "query-error":
            continue  # the other end of the same request
        message = EXAMPLES[name]
        from_server = isinstance(message, Hello | Reply | Failure | Output | Gap | Pong)
        sender, receiver = (server, client) if from_server else (client, server)
        assert sender.send(message) == data
        receiver.receive_data(data)
        assert receiver.next_event() == message
        assert receiver.next_event() is NEED_DATA
    server.receive_data(b"")
    assert server.next_event() is CLOSED


def test_the_reply_holds_the_record() -> None:
    reply = EXAMPLES["query-reply"]
    assert isinstance(reply, Reply)
    assert codec.from_map(jobs.JobReply, reply.result) == jobs.JobReply(JOB)


def rows(section: str) -> list[list[str]]:
    """The cells of every table row of a section; the first without the marks of code and optional."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [[name.rstrip("?").strip("`"), *others] for name, *others in cells]


def test_the_error_table_is_complete() -> None:
    assert [row[0] for row in rows("Errors")[2:]] == [code.value for code in ErrorCode]


def test_the_message_table_is_complete() -> None:
    found = [
        (row[0], re.findall(r"`(\w+)` (?:uint|text|map|binary|float|array)", row[2]))
        for row in rows("Messages")
        if row[1] in ("server", "client", "both")  # the other table there says what may be sent when
    ]
    known = [Hello, ClientHello, *(cls for cls in messages.TYPES.values() if cls is not Hello)]
    assert found == [(cls.TYPE, [field.name for field in dataclasses.fields(cls)]) for cls in known]


def test_the_feature_table_is_complete() -> None:
    assert [row[0] for row in rows("Features")[2:]] == list(FEATURES)


@pytest.mark.parametrize("record", [jobs.StartParams, jobs.StreamParams, jobs.JobStatus, jobs.Usage, Limits])
def test_the_record_tables_are_complete(record: type) -> None:
    names = [row[0] for row in rows("Records")]
    fields = [field.name for field in dataclasses.fields(record)]
    assert fields in [names[begin : begin + len(fields)] for begin in range(len(names))]


@pytest.mark.parametrize("record", [jobs.StartParams, jobs.StreamParams, jobs.JobStatus, jobs.Usage, Limits])
def test_the_record_tables_say_what_may_be_absent(record: type) -> None:
    for field in dataclasses.fields(record):
        optional = field.default is None
        assert f"| `{field.name}`{'?' * optional} | " in PAGE


@pytest.mark.parametrize(
    "record",
    [
        jobs.StopParams,
        jobs.JobParams,
        jobs.ListParams,
        jobs.JobReply,
        jobs.ListReply,
        jobs.Cause,
    ],
)
def test_the_small_records_are_complete(record: type) -> None:
    text = PAGE.split(f"**{record.__name__}** ")[1].split("**")[0]
    for field in dataclasses.fields(record):
        assert f"`{field.name}`" in text


def test_an_old_client_keeps_working_with_a_new_server() -> None:
    """As "Versions" promises: what came later is ignored, and what an old server lacks has its default."""
    plain = codec.to_map(dataclasses.replace(JOB, usage=jobs.Usage(1.0, 0.5, 4096), notes=("A note.",)))
    later = {**plain, "colour": "red", "usage": {**plain["usage"], "energy": 5.0}}
    assert codec.from_map(jobs.JobStatus, later) == codec.from_map(jobs.JobStatus, plain)
    old = {name: value for name, value in plain.items() if name != "notes"}
    assert codec.from_map(jobs.JobStatus, old).notes == ()
    assert codec.to_map(jobs.Usage(1.0, 0.5)) == {"cpu_user": 1.0, "cpu_system": 0.5}


def test_the_values_are_listed() -> None:
    for member in (*jobs.Status, *jobs.CauseKind):
        assert f"`{member.value}`" in PAGE


@pytest.mark.parametrize(
    "number",
    [
        MAX_ITEMS,
        MAX_TOTAL_ITEMS,
        FROM_STARTER.total,
        FROM_LOOKER.total,
        frames.MAX_FRAME_BYTES,
        frames.MAX_FRAME_BYTES + frames.HEADER_BYTES,
        flow.MAX_CREDIT,
        flow.DEFAULT_WINDOW,
    ],
)
def test_the_numbers_are_the_codes_own(number: int) -> None:
    assert f"{number:,}" in PAGE
    assert f"nest at most {MAX_DEPTH} deep" in PAGE
    assert f"at most {FROM_STARTER.containers} arrays and maps" in PAGE
    assert f"at most {FROM_LOOKER.items}, and all have" in PAGE
