"""PROTOCOL.md says what the code does: its examples byte for byte, and its tables entry for entry."""

import dataclasses
import re
import ssl
from pathlib import Path
from typing import Final

import pytest
import trio.testing

from certs import refusals
from tests.wire.examples import EXAMPLES, JOB, NOT_FOUND, REFUSED
from wire import codec, flow, frames, jobs, messages
from wire.connection import CLOSED, NEED_DATA, Connection, Role
from wire.errors import CATEGORIES, ErrorCode
from wire.features import FEATURES
from wire.limits import Limits
from wire.messages import (
    CLIENT_TYPES,
    TYPES,
    ClientHello,
    Failure,
    Gap,
    Hello,
    Output,
    Pong,
    Reply,
    Request,
)
from wire.payload import FROM_LOOKER, FROM_STARTER, MAX_DEPTH, MAX_ITEMS, MAX_TOTAL_ITEMS
from worker.bounds import DEFAULTS
from worker.methods import MAX_SECONDS
from worker.websocket import ServerWebSocket

PAGE: Final = (Path(__file__).parents[2] / "wire" / "PROTOCOL.md").read_text()


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
        if name in (REFUSED, NOT_FOUND):
            continue  # on another connection, and the other end of the same request
        message = EXAMPLES[name]
        from_server = isinstance(message, Hello | Reply | Failure | Output | Gap | Pong)
        sender, receiver = (server, client) if from_server else (client, server)
        assert sender.send(message) == data
        receiver.receive_data(data)
        assert receiver.next_event() == message
        assert receiver.next_event() is (CLOSED if name == "shutting-down" else NEED_DATA)


def test_a_refusal_stands_in_place_of_the_hello() -> None:
    client, data = Connection(Role.CLIENT), printed_examples()[REFUSED]
    assert Connection(Role.SERVER).send(EXAMPLES[REFUSED]) == data
    client.receive_data(data)
    assert client.next_event() == EXAMPLES[REFUSED]
    assert client.next_event() is CLOSED


def test_the_examples_agree_on_the_job() -> None:
    """Its pieces follow each other, what was dropped is what its record says, and its tail begins there."""
    pieces = [each for each in EXAMPLES.values() if isinstance(each, Output | Gap) and each.id == 5]
    at = 0
    for piece in pieces:
        assert piece.offset == at
        at += piece.size if isinstance(piece, Gap) else len(piece.data)
    assert at == JOB.dropped
    tail, begins = EXAMPLES["tail"], EXAMPLES["tail-begins"]
    assert isinstance(tail, Request)
    assert isinstance(begins, Output)
    assert begins.offset == JOB.output - tail.params["tail_bytes"]
    output, stalled = EXAMPLES["tail-output"], EXAMPLES["stalled"]
    assert isinstance(output, Output)
    assert isinstance(stalled, Failure)
    assert len(output.data) == tail.credit
    assert stalled.offset == output.offset + len(output.data)


def http(name: str) -> bytes:
    """The bytes of an example of HTTP."""
    found = re.search(rf"^```http {name}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1].replace("\n", "\r\n").encode()


async def answer_to(request: bytes) -> bytes:
    """What a server answers to a request for an upgrade."""
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(request)
    await ServerWebSocket(server).upgrade()
    await server.aclose()
    return b"".join([data async for data in client])


async def test_the_upgrade_is_exact() -> None:
    assert await answer_to(http("upgrade")) == http("upgraded")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GET", "POST"),
        ("Upgrade: websocket\r\n", ""),
        ("worker.v1.msgpack", "worker.v9.msgpack"),
        ("Version: 13", "Version: 12"),
        ("GET / ", "GET /jobs "),
        ("Host: builder.example:8443", "Host: builder.example:8443\r\nOrigin: https://elsewhere.example"),
    ],
)
async def test_the_page_names_every_status(old: str, new: str) -> None:
    answer = await answer_to(http("upgrade").replace(old.encode(), new.encode(), 1))
    (row,) = [row for row in rows("Transports") if row[0] == "HTTP status"]
    assert re.findall(r"\b\d{3}\b", row[1]) == ["400", "403", "404", "426"]
    assert answer.split()[1].decode() in row[1]


def test_the_alerts_are_numbered_as_tls_numbers_them() -> None:
    text = " ".join(row[1] for row in rows("Transports") if row[0] == "TLS alert")
    named = {name.upper(): int(number) for name, number in re.findall(r"`(\w+)` \((\d+)\)", text)}
    later = {"CERTIFICATE_REQUIRED": 116, "NO_APPLICATION_PROTOCOL": 120}  # for which CPython has no name
    known = {
        each.name.removeprefix("ALERT_DESCRIPTION_"): each.value for each in ssl.AlertDescription
    } | later
    assert named == {name: known[name] for name in named}
    told = set(refusals._SENTENCES) - {
        "ACCESS_DENIED",
        "WRONG_VERSION_NUMBER",
    }  # of servers that are not ours
    assert told == set(named)


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


def fields_of(message: type[messages.Message]) -> list[str]:
    return [field.name for field in dataclasses.fields(message) if field.metadata != codec.NOT_SENT]


def test_the_error_table_is_complete() -> None:
    listed = [(row[0], row[1]) for row in rows("Errors")[2:]]
    assert listed == [(code.value, str(CATEGORIES.get(code, ""))) for code in ErrorCode]


def test_the_message_table_is_complete() -> None:
    found = [
        (row[0], re.findall(r"`(\w+)` (?:uint|text|map|binary|float|array)", row[2]))
        for row in rows("Messages")
        if row[1] in ("server", "client", "both")  # the other table there says what may be sent when
    ]
    known = [Hello, ClientHello, *(cls for cls in messages.TYPES.values() if cls is not Hello)]
    assert found == [(cls.TYPE, fields_of(cls)) for cls in known]


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
        DEFAULTS.max_requests_per_identity,
        DEFAULTS.max_connections,
        DEFAULTS.max_connections_per_identity,
        DEFAULTS.max_jobs,
        int(MAX_SECONDS),
    ],
)
def test_the_numbers_are_the_codes_own(number: int) -> None:
    assert f"{number:,}" in PAGE


def test_the_caps_are_the_codes_own() -> None:
    text = PAGE.split("\n## Limits\n")[1]
    assert f"the payload's own map included | {MAX_DEPTH} |" in text
    assert f"from a User {FROM_LOOKER.items} |" in text
    assert f"{FROM_STARTER.total:,} in at most {FROM_STARTER.containers} arrays and maps" in text
    assert f"from a User {FROM_LOOKER.total:,} |" in text
