"""Clients are killed and stopped, as real processes: the job, the others and the server's books go on.

Cuts are in tests/e2e/test_resume.py and tests/client/test_cuts.py.
"""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.test_budget import MIB, expected, printer
from tests.harness import PATIENCE, SLOW, Server, aborting, at_rest, eventually, serve
from tests.host.common import NOT_EMULATED, descriptors
from wire.jobs import Status

pytestmark = [pytest.mark.host, NOT_EMULATED]
SIZE = (64 if SLOW == 1 else 8) * MIB


@contextmanager
def command(server: Server, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command line as a process of its own, killed at the end; the first byte of its output has come."""
    with subprocess.Popen(
        [sys.executable, "-m", "client.cli", *words],
        env=server.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        try:
            assert process.stdout is not None
            with aborting(process):
                assert process.stdout.read(1)
            yield process
        finally:
            process.kill()  # a stopped one would be waited for without end


def test_a_killed_and_a_stopped_follower_cost_the_others_nothing(
    shared_certificates: Path, tmp_path: Path
) -> None:
    script = (
        f"echo begun; while [ ! -e go ]; do sleep 0.01; done; exec {sys.executable} -I -S printer.py {SIZE}"
    )
    (tmp_path / "printer.py").write_text(printer(SIZE)[-2])
    with serve(shared_certificates, "--stall-timeout", "1") as server, server.connect() as client:
        before = at_rest(lambda: descriptors(server)[0])
        job = client.start(["sh", "-c", script], cwd=tmp_path)
        with (
            command(server, "stream", job.id) as killed,
            command(server, "stream", job.id) as stopped,
            command(server, "stream", job.id) as follower,
        ):
            killed.kill()
            stopped.send_signal(signal.SIGSTOP)
            (tmp_path / "go").touch()
            assert follower.stdout is not None
            pieces = list(iter(partial(follower.stdout.read, MIB), b""))
            assert follower.wait(PATIENCE) == 0
            begun, _, printed = b"".join(pieces).partition(b"\n")
            assert begun == b"egun"  # behind the byte that `command` has read
            assert hashlib.sha256(printed).hexdigest() == expected(SIZE)
            assert client.remove(job.id).exit_code == 0  # and the file with its output
            # The killed one's goes at once, the stopped one's once it has taken nothing for long.
            eventually(lambda: descriptors(server)[0] == before, "the descriptors of both back")


def test_a_killed_run_leaves_its_job_to_others(shared_certificates: Path) -> None:
    with serve(shared_certificates) as server, server.connect() as client:
        before = at_rest(lambda: descriptors(server)[0])
        with command(server, "run", "--", "sh", "-c", "echo begun; exec sleep 600"):
            pass
        (job,) = client.list()
        with_job = before + 2  # the pipes of its output
        eventually(lambda: descriptors(server)[0] == with_job, "the end of its session")
        assert client.query(job.id).status is Status.RUNNING
        stopped = client.stop(job.id)
        assert stopped.cause is not None
        assert stopped.cause.by == "admin"
        eventually(lambda: descriptors(server)[0] == before, "its descriptors back")
        assert not os.path.exists(f"/proc/{job.pid}")  # noqa: PTH110
