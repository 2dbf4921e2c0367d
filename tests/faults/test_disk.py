"""The disk under the spilled output is full, for real: jobs wait or the oldest goes, and all is told."""

import hashlib
from pathlib import Path

import pytest

from tests.e2e.test_budget import MIB, expected, printer
from tests.e2e.test_hosts import changed
from tests.harness import Server, eventually, serve
from tests.host.common import NOT_EMULATED
from wire.jobs import Status
from wire.messages import Gap

pytestmark = [pytest.mark.host, NOT_EMULATED]
#: What the disk holds, in MiB; a budget that is larger, so that it is the kernel that says no.
DISK = 8
FLAGS = ("--output-memory", "2M", "--job-memory", "1M", "--spill-limit", "1G")


@pytest.fixture
def small_disk(tmp_path: Path) -> list[str]:
    """A prefix for a server that alone sees a disk of DISK MiB on this test's folder."""
    return changed(f"mount -t tmpfs -o size={DISK}M none {tmp_path}")


def test_block_loses_nothing(shared_certificates: Path, small_disk: list[str], tmp_path: Path) -> None:
    flags = ("--spill-dir", str(tmp_path), *FLAGS)
    with serve(shared_certificates, *flags, prefix=small_disk) as server, server.connect() as client:
        first = client.start(printer(7 * MIB))
        assert client.wait(first.id).output == 7 * MIB
        second = client.start(printer(7 * MIB))
        eventually(lambda: client.query(second.id).notes, "a note that it waits")
        told = server.logged("the room for output on the disk is used up")
        assert told["reason"] == "No space left on device"
        assert client.wait(client.start(["true"]).id).exit_code == 0
        assert digest(server, first.id) == expected(7 * MIB)
        assert client.query(second.id).status is Status.RUNNING
        client.remove(first.id)
        ended = client.wait(second.id)
        assert (ended.exit_code, ended.output, ended.dropped) == (0, 7 * MIB, None)
        assert digest(server, second.id) == expected(7 * MIB)


def digest(server: Server, job_id: str) -> str:
    """The SHA-256 of all that a job printed."""
    found = hashlib.sha256()
    with server.connect() as client, client.stream(job_id, follow=False) as stream:
        for piece in stream:
            assert not isinstance(piece, Gap)
            found.update(piece.data)
    return found.hexdigest()


def test_drop_tells_what_is_gone(shared_certificates: Path, small_disk: list[str], tmp_path: Path) -> None:
    flags = ("--spill-dir", str(tmp_path), "--overflow", "drop", *FLAGS)
    with serve(shared_certificates, *flags, prefix=small_disk) as server, server.connect() as client:
        ended = client.wait(client.start(printer(32 * MIB)).id)
        assert (ended.exit_code, ended.output) == (0, 32 * MIB)
        with client.stream(ended.id, gaps="yield") as stream:
            first, *rest = stream
        assert isinstance(first, Gap)
        assert (first.offset, first.size) == (0, ended.dropped)
        assert first.size + sum(len(piece.data) for piece in rest) == 32 * MIB
