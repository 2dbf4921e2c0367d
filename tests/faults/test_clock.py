"""The wall clock jumps, forward and back: nothing is stopped, forgotten or lost for it."""

import time
from pathlib import Path

import pytest

from tests.faults.inject import Faults
from tests.harness import PATIENCE, eventually, serve
from wire.jobs import CauseKind, Status

pytestmark = pytest.mark.host
DAY = 86400.0
STEPS = "for n in 1 2 3; do echo line $n; while [ ! -e $n ]; do sleep 0.01; done; done"


def test_a_jump_changes_nothing_but_the_times(
    shared_certificates: Path, faults: Faults, tmp_path: Path
) -> None:
    flags = ("--retain", "1h", "--stall-timeout", "30")
    with (
        serve(shared_certificates, *flags, prefix=faults.prefix) as server,
        server.connect() as client,
    ):
        ended = client.wait(client.start(["echo", "before"]).id)
        job = client.start(["sh", "-c", STEPS], cwd=tmp_path, seconds=3600.0)
        for number, seconds in enumerate((DAY, -2 * DAY, 0.0), 1):
            eventually(lambda number=number: client.query(job.id).output >= 7 * number, "a line")  # type: ignore[misc]
            faults.clock(seconds)
            client.wait(client.start(["true"]).id)
            assert client.query(job.id).status is Status.RUNNING  # no timeout
            assert client.query(ended.id).exit_code == 0  # not forgotten
            (tmp_path / str(number)).touch()
        last = client.wait(job.id)
        assert last.cause is not None
        assert (last.exit_code, last.cause.kind) == (0, CauseKind.EXITED)
        with client.stream(job.id, since=time.time() - 3600) as stream:
            assert b"".join(piece.data for piece in stream) == b"line 1\nline 2\nline 3\n"
        with client.stream(job.id, since=time.time() + 2 * DAY) as stream:
            assert list(stream) == []


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_no_job_ends_before_it_began_and_timeouts_hold(
    shared_certificates: Path, faults: Faults, jump: float
) -> None:
    with serve(shared_certificates, prefix=faults.prefix) as server, server.connect() as client:
        job = client.start(["sleep", "8"], seconds=0.5)
        faults.clock(jump)
        began = time.monotonic()
        ended = client.wait(job.id)
        assert time.monotonic() - began < PATIENCE / 2
        assert ended.cause is not None
        assert ended.cause.kind is CauseKind.TIMEOUT
        assert ended.ended is not None
        assert ended.ended >= ended.started
