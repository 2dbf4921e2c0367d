"""What one identity's requests cost others, and what replies cost that nobody reads."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.abuse.figures import asking, quick
from tests.harness import Server, serve
from tests.proc import memory_of
from worker.refusals import BURST

MEBIBYTE = 2**20
CONNECTIONS = 8


@pytest.fixture(scope="module")
def busy(shared_certificates: Path) -> Iterator[Server]:
    """A server with jobs whose commands fill several pages of the list, and one of very many arguments."""
    with serve(shared_certificates) as server, server.connect() as client:
        for _ in range(80):
            client.start(["true", *(["x" * 100] * 60)])
        yield server


@pytest.mark.parametrize("what", ["list", "query"])
def test_replies_that_nobody_reads_are_not_built(busy: Server, what: str) -> None:
    figures = asking(busy, f"{what}-unread", "user", CONNECTIONS, 2)
    assert figures.after - figures.before < CONNECTIONS * 4 * MEBIBYTE, figures


@pytest.mark.parametrize("what", ["query", "list", "wait", "stream", "start"])
def test_who_asks_without_end_holds_nobody_up(busy: Server, what: str) -> None:
    figures = asking(busy, what, "user", 20, 2)
    assert quick(figures.queries), figures


def test_a_long_command_is_kept_and_told_in_part(shared_certificates: Path) -> None:
    argv = ["true", *(["x" * 100_000] * 18)]
    with serve(shared_certificates) as server, server.connect() as admin, server.connect("user") as user:
        job = admin.start(["sh", "-c", "exec sleep 600", *map(str, range(65_000))])
        assert len(job.argv) == 1024
        (note,) = job.notes
        assert note.startswith("The command is shown in part: 1,024 of 65,003 words, ")
        (listed,) = user.list()
        assert (listed.argv, listed.notes) == (job.argv, job.notes)
        admin.stop(job.id, grace=0)
        ended = user.query(job.id)
        assert (ended.argv, ended.notes) == (job.argv, job.notes)
        admin.wait(admin.start(argv).id)
        before = memory_of(server.process.pid)
        for _ in range(60):
            admin.wait(admin.start(argv).id)
        assert memory_of(server.process.pid) - before < 30 * MEBIBYTE  # all of it: 103 MiB


def test_denied_requests_fill_no_audit_log(shared_certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with serve(shared_certificates, "--audit", str(path)) as server:
        figures = asking(server, "start", "user", 8, 2)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    denied = [line for line in lines if line["outcome"] == "denied"]
    assert len(denied) < 3 * (BURST + 1)
    assert sum(line.get("requests", 1) for line in denied) >= figures.told["replies"] > 3 * BURST
    assert [line["event"] for line in lines].count("job_started") == 1
    assert len([line for line in server.log if line.get("message") == "denied"]) < 3 * BURST
