"""A server that is newer than we are, with our clients and our command line, over both transports."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.program import Program
from tests.client.either import KINDS, SCHEMES, connected
from tests.harness import Server, serve
from tests.peers import newer_serve
from tests.peers.forked import commands
from tests.peers.newer_serve import EXIT_CODE, NEWER, WORD
from wire.errors import Category, RemoteProtocolError, RequestError
from wire.features import FEATURES
from wire.messages import Gap

#: It keeps little of what this job prints.
FLAGS: Final = ("--output-memory", "1M", "--job-memory", "1M", "--spill-limit", "1M", "--overflow", "drop")
MUCH: Final = 8_000_000
EVICTED: Final = ["sh", "-c", f"head -c {MUCH} /dev/zero; exit {EXIT_CODE}"]
#: A program that is not there, in an error that is newer; and an id that has a message of a newer type come.
NOT_THERE: Final = f"no-{WORD}-program"
RESIZE: Final = "resize"


@pytest.fixture(scope="module")
def server(shared_certificates: Path) -> Iterator[Server]:
    with serve(shared_certificates, *FLAGS, prefix=(sys.executable, newer_serve.__file__)) as running:
        yield running


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
async def test_clients(server: Server, kind: str, scheme: str) -> None:
    async with connected(kind, scheme + server.address, server.certs, patience=0) as client:
        assert client.hello.features == (NEWER, *FEATURES)
        assert "attach" in (client.hello.methods or ())
        job = await client.start(EVICTED)
        ended = await client.wait(job.id)
        assert (ended.status, ended.cause and ended.cause.kind, ended.has_ended) == ("evicted", "quota", True)
        assert ended.exit_code is None
        assert await client.query(job.id) == ended
        assert ended in [dataclasses.replace(found, usage=ended.usage) for found in await client.list()]
        async with client.stream(job.id, gaps="yield") as stream:
            offset, reasons = 0, set()
            while (piece := await stream.piece()) is not None:
                assert piece.offset == offset
                offset += piece.size if isinstance(piece, Gap) else len(piece.data)
                reasons |= {piece.reason} if isinstance(piece, Gap) else set()
        assert (offset, reasons, stream.job.status) == (MUCH, {"expired"}, "evicted")
        with pytest.raises(RequestError, match=WORD) as caught:
            await client.start([NOT_THERE])
        assert (caught.value.code, caught.value.category) == ("quota_exceeded", Category.FORBIDDEN)
        assert (await client.remove(job.id)).status == "evicted"
        with pytest.raises(RemoteProtocolError, match="unknown message type 'resize'"):
            await client.query(RESIZE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_commands(server: Server, scheme: str) -> None:
    with commands(Program(server.environment(scheme=scheme))) as cli:
        job = cli("start", "--", *EVICTED).text.split()[3]
        ended = cli("wait", job)
        assert (ended.code, ended.err) == (125, b"")
        assert ended.text.startswith(f"job with id {job} is evicted.\n")
        assert "  status:    evicted (quota)\n" in ended.text
        assert cli("query", job).text.startswith(f"job with id {job} is evicted.\n")
        found = json.loads(cli("query", "--json", job).out)
        assert (found["status"], found["cause"]["kind"], found["exit_code"]) == ("evicted", "quota", None)
        (line,) = [line for line in cli("list").text.splitlines() if line.startswith(job)]
        assert line.split()[1] == "evicted"
        streamed = cli("stream", job)
        assert streamed.code == 1
        assert streamed.sentence.endswith("bytes of output, from byte 0 on, cannot be had (expired).")
        assert json.loads(cli("stats", "--once", "--json", job).out)["status"] == "evicted"
        assert cli("stop", job).text == f"Success! job with id {job} stopped.\n"
        ran = cli("run", "--", "sh", "-c", f"echo out; exit {EXIT_CODE}")
        assert (ran.code, ran.out) == (125, b"out\n")
        assert "quota" in ran.sentence
        refused = cli("start", "--", NOT_THERE)
        assert (refused.code, refused.out) == (4, b"")
        assert WORD in refused.sentence
        assert cli("remove", job).text == f"job with id {job} removed.\n"
        nonsense = cli("query", RESIZE)
        assert (nonsense.code, nonsense.out) == (7, b"")
        assert "unknown message type 'resize'" in nonsense.sentence
