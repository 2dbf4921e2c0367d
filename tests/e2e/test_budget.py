"""Output past the server's memory: kept from its first byte, within the budget; what is dropped is said."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.abuse.insider import Insider
from tests.harness import PATIENCE, eventually, serve
from tests.proc import memory_of, page_faults, transferred
from wire.connection import Signal
from wire.errors import ErrorCode, RequestError
from wire.jobs import Status
from wire.messages import Gap, GapReason, Output, Request

MIB = 2**20
#: What the largest job here prints, in bytes; 10 GB were tried by hand.
LARGE = int(os.environ.get("LARGE_OUTPUT") or 1_000_000_000)
#: A printer whose output tells every byte's place, in 32 digits a line, and is quick to make.
PRINT = """
import os, sys
line = b"%031d\\n"
for block in range(int(sys.argv[1]) // 2**20):
    data = b"".join(line % (block * 32768 + number) for number in range(64)) * 512
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
"""


def printer(size: int) -> list[str]:
    return ["python3", "-I", "-S", "-c", PRINT, str(size)]


def expected(size: int) -> str:
    """The SHA-256 of what `printer` prints."""
    digest = hashlib.sha256()
    for block in range(size // MIB):
        digest.update(b"".join(b"%031d\n" % (block * 32768 + number) for number in range(64)) * 512)
    return digest.hexdigest()


def test_a_large_job_is_kept_within_the_budget(shared_certificates: Path, tmp_path: Path) -> None:
    """BEHAVIOURS 14, with the default budget of 256 MiB."""
    with serve(shared_certificates, "--spill-dir", str(tmp_path)) as server, server.connect() as client:
        job = client.start(printer(LARGE))
        ended = client.wait(job.id)
        assert (ended.exit_code, ended.dropped) == (0, None)
        assert ended.output == LARGE // MIB * MIB
        digest, size = hashlib.sha256(), 0
        with client.stream(job.id) as stream:
            for piece in stream:
                assert piece.offset == size
                digest.update(piece.data)
                size += len(piece.data)
        assert size == ended.output
        assert digest.hexdigest() == expected(LARGE)
        assert memory_of(server.process.pid, "VmHWM") < (256 + 128) * MIB
        assert list(tmp_path.iterdir()) == []  # the file has no name
        client.remove(job.id)
        with pytest.raises(RequestError) as caught:
            client.query(job.id)
        assert caught.value.code is ErrorCode.NOT_FOUND


SMALL = ("--output-memory", "2M", "--job-memory", "1M", "--spill-limit", "4M")


def test_output_goes_to_the_disk_and_comes_back_before_anybody_waits_for_it(
    shared_certificates: Path, tmp_path: Path
) -> None:
    with serve(shared_certificates, "--spill-dir", str(tmp_path)) as server, server.connect() as client:
        # No budget is used up, but three quarters of the job's own are.
        pid = server.process.pid
        written = transferred(pid, "wchar")
        fits = client.start(printer(60 * MIB))
        assert client.wait(fits.id).output == 60 * MIB
        eventually(lambda: transferred(pid, "wchar") - written > 8 * MIB, "output moves ahead of need")
        client.remove(fits.id)

        job = client.start(printer(200 * MIB))
        client.wait(job.id)
        read = transferred(pid, "rchar")
        tls, connection = Insider(server.port, shared_certificates, job.id, 60).native()
        with tls:
            credit = 20 * MIB
            tls.sendall(connection.send(Request(1, "stream", {"id": job.id}, credit=credit)))
            while credit:
                connection.receive_data(tls.recv(2**16))
                while not isinstance(event := connection.next_event(), Signal):
                    assert isinstance(event, Output)
                    credit -= len(event.data)
            # More than what is left of a window of 2 MiB, which is what was asked for.
            eventually(lambda: transferred(pid, "rchar") - read > 23 * MIB, "output is read ahead")


def test_the_memory_of_a_replay_is_used_again(shared_certificates: Path, tmp_path: Path) -> None:
    with serve(shared_certificates, "--spill-dir", str(tmp_path)) as server, server.connect() as client:
        job = client.start(printer(200 * MIB)).id
        client.wait(job)
        faults = []
        for _ in range(2):
            before = page_faults(server.process.pid)
            with client.stream(job) as stream:
                assert sum(len(piece.data) for piece in stream if isinstance(piece, Output)) == 200 * MIB
            faults.append(page_faults(server.process.pid) - before)
        assert faults[1] < 200 * MIB // 4096 // 10, faults


def test_past_the_disks_cap_a_job_waits_and_others_do_not(shared_certificates: Path, tmp_path: Path) -> None:
    flags = ("--spill-dir", str(tmp_path), *SMALL)
    with serve(shared_certificates, *flags) as server, server.connect() as client:
        job = client.start(printer(32 * MIB))
        waits = eventually(lambda: client.query(job.id).notes, "a note that it waits")
        assert "room for output is used up" in waits[0]
        assert client.query(job.id).status is Status.RUNNING
        assert client.wait(client.start(["true"]).id).exit_code == 0
        printed = client.query(job.id).output
        assert printed < 8 * MIB
        with client.stream(job.id, follow=False) as stream:
            assert sum(len(piece.data) for piece in stream) == printed
        stopped = client.stop(job.id, grace=0)
        assert stopped.cause is not None
        assert stopped.cause.by == "admin"
        client.remove(job.id)
        other = client.start(printer(4 * MIB))
        assert client.wait(other.id).output == 4 * MIB
        server.logged("the room for output on the disk is used up")


def test_with_drop_the_oldest_goes_and_everybody_is_told(shared_certificates: Path, tmp_path: Path) -> None:
    flags = ("--spill-dir", str(tmp_path), "--overflow", "drop", *SMALL)
    with serve(shared_certificates, *flags) as server, server.connect() as client:
        ended = client.wait(client.start(printer(32 * MIB)).id)
        assert ended.output == 32 * MIB
        dropped = ended.dropped or 0
        assert 24 * MIB < dropped < 32 * MIB
        with client.stream(ended.id, gaps="yield") as stream:
            first, *rest = stream
        assert isinstance(first, Gap)
        assert (first.offset, first.size, first.reason) == (0, dropped, GapReason.DROPPED)
        assert sum(len(piece.data) for piece in rest) == 32 * MIB - dropped
        assert not any(isinstance(piece, Gap) for piece in rest)


def test_ended_jobs_are_kept_as_long_as_was_asked(shared_certificates: Path) -> None:
    with serve(shared_certificates, "--retain", "2") as server, server.connect() as client:
        jobs = [client.wait(client.start(["echo", str(number)]).id).id for number in range(5)]
        eventually(lambda: [job.id for job in client.list()] == jobs[3:], "two jobs")


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--output-memory", "1K"), 2, "--output-memory 1K is too small"),
        (("--job-memory", "much"), 2, "--job-memory 'much' is not a number"),
        (("--spill-dir", "/no/such/folder"), 7, "--spill-dir '/no/such/folder' cannot be written to"),
        (("--retain", "5w"), 2, "--retain '5w' is no number of jobs"),
        (("--stall-timeout", "0"), 2, "--stall-timeout 0 must be a number of seconds"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(
    shared_certificates: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "client.cli", "serve", "--listen", "127.0.0.1:0"]
    command += ["--certs", str(shared_certificates), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1)
    assert words in ended.stderr
