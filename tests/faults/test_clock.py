"""The wall clock jumps, forward and back: nothing is stopped, forgotten or lost for it."""

import json
import re
import subprocess
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import trio

from client.trio_client import open_client
from tests.cli.program import PROGRAM
from tests.faults.inject import ROOT, Faults
from tests.harness import PATIENCE, Server, eventually, serve
from tests.host.common import NOT_EMULATED
from wire.jobs import CauseKind, Status

pytestmark = [pytest.mark.host, NOT_EMULATED]
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


def run_program(server: Server, faults: Faults | None, *words: str) -> str:
    """What the command line prints, with a skewed clock of its own if there are faults."""
    prefix = [] if faults is None else faults.prefix
    done = subprocess.run(
        [*prefix, *PROGRAM, *words],
        env=server.environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
@pytest.mark.parametrize("side", ["server", "client"])
def test_ages_are_by_the_servers_clock(
    shared_certificates: Path, faults: Faults, side: str, skew: float
) -> None:
    faults.clock(skew)
    with (
        serve(shared_certificates, prefix=faults.prefix if side == "server" else ()) as server,
        server.connect() as client,
    ):
        servers = skew if side == "server" else 0.0
        job = client.start(["sh", "-c", "echo here; exec sleep 600"])
        eventually(lambda: client.query(job.id).output, "the line")
        program = partial(run_program, server, faults if side == "client" else None)
        assert program("stream", "--no-follow", "--since", "10m", job.id) == "here\n"
        assert program("stream", "--no-follow", "--since", "0.001s", job.id) in ("", "here\n")
        shown = json.loads(program("stats", "--once", "--json", job.id))
        when = datetime.fromisoformat(shown["time"]).timestamp()
        assert abs(when - servers - time.time()) < PATIENCE
        elapsed = program("stats", "--once", job.id).splitlines()[1].split()[0]
        assert elapsed.startswith("0:00:"), elapsed
        assert re.search(r"  \d+(\.\d)? s ago  ", program("list")), program("list")
        told = client.server_time()
        assert told is not None
        assert abs(told - servers - time.time()) < PATIENCE
        assert abs(trio.run(trio_clients_time, server) - servers - time.time()) < PATIENCE
        client.stop(job.id)


async def trio_clients_time(server: Server) -> float:
    async with open_client(server.address, certs=server.certs, identity="user") as client:
        told = client.server_time()
        assert told is not None
        return told
