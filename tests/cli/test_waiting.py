"""`run`, `stream` and `wait` say so when the job waits for room for its output, and else nothing."""

import select
import subprocess
from pathlib import Path

from client.cli.waiting import FIRST_SECONDS
from tests.cli.program import Program, finish
from tests.harness import PATIENCE, eventually, serve
from wire.jobs import WAITS, Cause, CauseKind, Status

NOTE = (
    b"worker-service: note: The job waits: the server's room for output is used up (`remove` frees some).\n"
)
BUDGET = ("--output-memory", "1M", "--job-memory", "1M", "--spill-limit", "1M", "--overflow", "block")


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stderr is not None
    assert select.select([process.stderr], [], [], PATIENCE)[0], "it says nothing"
    return process.stderr.readline()


def test_a_job_that_waits_for_room(shared_certificates: Path, tmp_path: Path) -> None:
    with (
        serve(shared_certificates, *BUDGET, "--spill-dir", str(tmp_path)) as server,
        server.connect() as client,
    ):
        full = client.start(["head", "-c", "8M", "/dev/zero"])
        eventually(lambda: client.query(full.id).notes, "that it waits")
        cli = Program(server.environment())
        with (
            cli.begin("stream", "--tail-bytes", "1", full.id) as streaming,
            cli.begin("wait", full.id[:18]) as waiting,
            cli.begin("run", "--no-merge", "--", "head", "-c", "20M", "/dev/zero") as running,
            subprocess.Popen(["cat"], stdin=running.stdout, stdout=subprocess.DEVNULL),
        ):
            assert [first_line(process) for process in (streaming, waiting, running)] == [NOTE] * 3
            for job in client.list():
                if job.status is Status.RUNNING:
                    client.stop(job.id)
            assert finish(streaming).err == b""  # it was said once
            assert finish(waiting).code == 128 + 15
            assert running.wait(PATIENCE) == 128 + 15
        assert client.query(full.id).cause == Cause(CauseKind.STOPPED, "admin")
        assert NOTE.decode().partition("note: ")[2].startswith(WAITS)


def test_a_job_that_is_silent(cli: Program) -> None:
    ran = cli("run", "--", "sleep", f"{FIRST_SECONDS + 0.5:g}")
    assert (ran.code, ran.err) == (0, b"")
